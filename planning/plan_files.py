"""The profile that a plan was solved from.

Knows nothing about what is done with either.
"""

from pathlib import Path

from ..common.errors import FileFormatError, InputError
from ..common.files import file_sha256
from ..sensitivity.profile import Profile, read_profile
from .plan import Plan


def profile_of(plan: Plan, given: Profile | Path | str | None = None, beside: Path | None = None) -> Profile:
    """Find the profile of a plan, and see that it is the one.

    Args:
        plan: the plan.
        given: the profile, or where it is; None to look where it was when the plan was solved.
        beside: a folder to look in as well, as where the plan is now: both may have been moved.

    Returns:
        The profile.

    Raises:
        FileFormatError: there is no such file, or it is not a profile.
        InputError: the plan was solved from another profile.
    """
    if isinstance(given, Profile):
        if {layer.name for layer in given.record.layers} != set(plan.formats()):
            raise InputError("the plan was solved from another profile: it has other layers. Solve again.")
        return given
    path = _profile_path(plan, given, beside)
    profile = read_profile(path)
    if file_sha256(path) != plan.profile_sha256:
        raise InputError(f"the plan was solved from another profile than {path}. Solve again, or give --profile.")
    return profile


def _profile_path(plan: Plan, given: Path | str | None, beside: Path | None) -> Path:
    recorded = Path(plan.profile_path)
    places = [Path(given)] if given is not None else [recorded, *([beside / recorded.name] if beside else [])]
    for path in places:
        if path.is_file():
            return path
    raise FileFormatError(f"there is no profile {places[0]}, which the plan was solved from. Name it with --profile.")
