"""Formats set by hand: the plan is priced and checked again.

Knows nothing about how plans are found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import InputError
from ..common.files import file_sha256
from ..common.patterns import matching
from ..quantization.formats import parse_format
from ..sensitivity.profile import Profile, ProfileOrigin
from ..solver.verify import violations
from .plan import Certificate, Plan
from .solve import plan_of


@dataclass(frozen=True)
class EditedPlan:
    """A plan with formats set by hand.

    Attributes:
        plan: the new plan.
        faults: the limits and rules that it breaks, in words.
    """

    plan: Plan
    faults: tuple[str, ...]


def edit_plan(plan: Plan, profile: Profile, profile_path: Path, settings: Sequence[str]) -> EditedPlan:
    """Set formats of layers.

    Args:
        plan: the plan.
        profile: that it was solved from.
        profile_path: where that lies.
        settings: ``PATTERN=FORMAT`` each, a format by its name or its width; later ones overrule earlier ones. A
            pattern speaks of the layers that the program decides.

    Returns:
        The new plan and what it breaks.

    Raises:
        InputError: another profile, or a setting that matches nothing or names a format that a layer does not have.
    """
    sha256 = file_sha256(profile_path)
    if sha256 != plan.profile_sha256:
        raise InputError(f"{profile_path} is not the profile that the plan was solved from. Give --profile.")
    program = plan.program
    choice = list(plan.choice())
    names = [unit.name for unit in program.units]
    for setting in settings:
        pattern, equals, wanted = setting.rpartition("=")
        if not equals or not pattern or not wanted:
            raise InputError(f"--set {setting!r} is not PATTERN=FORMAT. Write for instance '*.v_proj=int8-g64'.")
        matched = [unit for unit in matching([pattern], names) if len(program.units[unit].formats) > 1]
        if not matched:
            raise InputError(
                f"--set {setting!r} matches only layers that have a single format. Profile them with --include."
            )
        for unit in matched:
            choice[unit] = _format_index(program.units[unit].formats, wanted, names[unit])
    edited = tuple(choice)
    certificate = Certificate(
        status="EDITED",
        objectives=(),
        solve_seconds=0.0,
        solver=f"none: {len(settings)} changes by hand",
        seed=plan.certificate.seed,
        num_units=plan.certificate.num_units,
        num_options=plan.certificate.num_options,
        num_core_options=0,
    )
    return EditedPlan(
        plan_of(profile, ProfileOrigin(profile_path, sha256), program, edited, certificate),
        tuple(violations(program, edited)),
    )


def _format_index(formats: tuple[str, ...], wanted: str, layer: str) -> int:
    if wanted in formats:
        return formats.index(wanted)
    of_width = [
        index for index, name in enumerate(formats) if wanted.isdigit() and parse_format(name).bits == int(wanted)
    ]
    if len(of_width) == 1:
        return of_width[0]
    several = "has several formats of that width" if of_width else f"has no format {wanted!r}"
    raise InputError(f"{layer} {several}. It has: {', '.join(formats)}.")
