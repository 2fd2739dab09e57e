"""The profile that a plan was solved from: where it lies, and whether it is that one.

Knows nothing about what is done with either.
"""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import InputError
from ..common.files import file_sha256
from ..sensitivity.profile import Profile

if TYPE_CHECKING:
    from .plan import Plan


def find_profile(plan: "Plan", folder: Path | None = None) -> Path | None:
    """Look for a plan's profile where the plan says, and in the plan's folder: both may have been moved.

    Args:
        plan: the plan.
        folder: that it was read from; None where that is not known.

    Returns:
        The profile's file; None where it is in neither place.
    """
    recorded = Path(plan.profile_path)
    places = [recorded] if folder is None else [recorded, folder / recorded.name]
    return next((path for path in places if path.is_file()), None)


def matching_profile(plan: "Plan", path: Path) -> Profile:
    """Read a profile, and require it to be the plan's."""
    profile = Profile.load(path)
    if file_sha256(path) != plan.profile_sha256:
        raise InputError(f"the plan was solved from another profile than {path}. Solve again, or give its profile.")
    return profile


def profile_for(plan: "Plan", given: str | PathLike[str] | Profile | None) -> Profile:
    """Give the profile to use with a plan.

    Args:
        plan: the plan.
        given: a profile, or its file; None for the one that the plan remembers or names.

    Returns:
        The profile.

    Raises:
        InputError: it is not there, or not the plan's.
    """
    if given is None:
        return plan.profile
    if not isinstance(given, Profile):
        return matching_profile(plan, Path(given))
    if list(given.layer_index) != list(plan.formats()) or given.stored_bytes(plan.formats()) != plan.stored_bytes:
        raise InputError(
            f"the plan was not solved from this profile of {given.record.model_source!r}: layers or bytes differ. "
            "Give the profile that it was solved from."
        )
    return given
