"""Plans and their profiles, by the paths that a command line names.

Knows nothing about what commands do with either.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import InputError

if TYPE_CHECKING:
    from ..planning.plan import Plan
    from ..sensitivity.profile import Profile


def profile_path_of(plan: "Plan", plan_path: Path, given: Path | None) -> Path:
    """Find a plan's profile: where its user says, where the plan says, or beside the plan."""
    from ..planning.plan_profile import find_profile

    path = given or find_profile(plan, plan_path.parent)
    if path is None or not path.is_file():
        raise InputError(
            f"the plan's profile {given or plan.profile_path} is not there. Say where it is with --profile."
        )
    return path


def plan_and_profile(plan_path: Path, given: Path | None) -> tuple["Plan", "Profile"]:
    """Read a plan and the profile that it was solved from; ``given`` is where its user says that the profile is."""
    from ..planning.plan import Plan
    from ..planning.plan_profile import profile_for

    plan = Plan.load(plan_path)
    plan.choice()  # a plan that was edited by hand is refused here
    return plan, profile_for(plan, profile_path_of(plan, plan_path, given))


def plans_of_one_profile(plan: "Plan", plan_path: Path, others: Sequence[Path]) -> dict[str, "Plan"]:
    """Read further plans of a plan's profile, by their paths."""
    from ..planning.plan import read_plan

    found = {str(path): read_plan(path) for path in others}
    for name, other in found.items():
        if other.profile_sha256 != plan.profile_sha256:
            raise InputError(f"{name} was solved from another profile than {plan_path}. Solve both from one profile.")
    return found
