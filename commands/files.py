"""Where a plan's profile lies.

Knows nothing about what commands do with either.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import ScantlingError

if TYPE_CHECKING:
    from ..planning.plan import Plan
    from ..sensitivity.profile import Profile


def profile_beside(plan_path: Path, recorded: str) -> Path | None:
    """Look for a plan's profile where the plan says, and beside the plan: both may have been moved.

    Args:
        plan_path: the plan.
        recorded: where the profile lay when the plan was solved.

    Returns:
        The profile; None where it is in neither place.
    """
    for path in (Path(recorded), plan_path.parent / Path(recorded).name):
        if path.is_file():
            return path
    return None


def profile_path_of(plan: "Plan", plan_path: Path, given: Path | None) -> Path:
    """Find the profile of a plan.

    Args:
        plan: the plan.
        plan_path: its file.
        given: where its user says that the profile is.

    Returns:
        The profile's file.

    Raises:
        ScantlingError: it is not there.
    """
    path = given or profile_beside(plan_path, plan.profile_path)
    if path is None or not path.is_file():
        wanted = given or plan.profile_path
        raise ScantlingError(f"the plan's profile {wanted} is not there. Say where it is with --profile.")
    return path


def plan_and_profile(plan_path: Path, given: Path | None) -> tuple["Plan", "Profile"]:
    """Read a plan and the profile that it was solved from.

    Args:
        plan_path: the plan.
        given: where its user says that the profile is.

    Returns:
        Both.

    Raises:
        ScantlingError: one of them is not there, or they do not belong together.
    """
    from ..common.files import file_sha256
    from ..planning.plan import read_plan
    from ..sensitivity.profile import read_profile

    plan = read_plan(plan_path)
    path = profile_path_of(plan, plan_path, given)
    profile = read_profile(path)
    if file_sha256(path) != plan.profile_sha256:
        raise ScantlingError(
            f"{plan_path} was solved from another profile than {path}. Solve again, or give --profile."
        )
    return plan, profile


def plans_of_one_profile(plan: "Plan", plan_path: Path, others: Sequence[Path]) -> dict[str, "Plan"]:
    """Read further plans of a plan's profile.

    Args:
        plan: the plan.
        plan_path: its file.
        others: the files of the others.

    Returns:
        The others by their paths.

    Raises:
        ScantlingError: one of them was solved from another profile.
    """
    from ..planning.plan import read_plan

    found = {str(path): read_plan(path) for path in others}
    for name, other in found.items():
        if other.profile_sha256 != plan.profile_sha256:
            raise ScantlingError(
                f"{name} was solved from another profile than {plan_path}. Solve both from one profile."
            )
    return found
