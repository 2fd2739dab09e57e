"""A plan held against its own program and, where it is at hand, against its profile; no solver is used.

Knows nothing about how plans are found.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from ..common.errors import FileFormatError
from ..common.files import file_sha256
from ..sensitivity.profile import read_profile
from ..solver.rules import Limit, LossLimit
from ..solver.verify import violations
from .lowering import costs_by_domain
from .plan import Plan, average_bits


@dataclass(frozen=True)
class Verification:
    """What of a plan was checked and holds, and what does not."""

    checked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def note(self, *, holds: bool, what: str, otherwise: str = "") -> None:
        """Add a finding, described by ``what``, or where it does not hold by ``otherwise``."""
        (self.checked if holds else self.faults).append(what if holds else otherwise or what)


def verify_plan(plan: Plan, profile_path: Path | None) -> Verification:
    """Add everything in a plan up again; ``profile_path`` is None where its profile is not at hand."""
    found = Verification()
    try:
        choice = plan.choice()
    except FileFormatError as error:
        found.faults.append(str(error))
        return found
    broken = violations(plan.program, choice)
    found.faults.extend(broken)
    if not broken:
        found.checked.append(f"{len(plan.program.rules)} limits and rules")
    _check_numbers(plan, choice, found)
    if profile_path is None:
        found.faults.append(
            f"the profile {plan.profile_path or '(never saved)'} is not there, so bytes and losses were not held "
            "against it. Say where it is with --profile"
        )
    else:
        _check_against_profile(plan, profile_path, found)
    return found


def _check_numbers(plan: Plan, choice: tuple[int, ...], found: Verification) -> None:
    for objective in plan.certificate.objectives:
        value = plan.program.objective(objective.name, choice)
        found.note(
            holds=value == objective.value and objective.bound <= value,
            what=f"{objective.name} adds up to {value!r}, at least the bound {objective.bound!r}",
            otherwise=f"{objective.name} adds up to {value!r}; the plan says {objective.value!r}, bound "
            f"{objective.bound!r}",
        )
    stored = plan.other_bytes + sum(assignment.stored_bytes for assignment in plan.assignments)
    found.note(
        holds=stored == plan.stored_bytes,
        what=f"{stored:,} bytes stored in all tensors",
        otherwise=f"the layers store {stored:,} bytes; the plan says {plan.stored_bytes:,}",
    )
    bits = average_bits([(a.bits, a.num_weights) for a in plan.assignments if a.decided])
    found.note(
        holds=bits == plan.average_bits,
        what=f"{bits:.6g} bits on average",
        otherwise=f"the average is {bits!r} bits; the plan says {plan.average_bits!r}",
    )
    limits = [rule for rule in plan.program.rules if isinstance(rule, Limit | LossLimit)]
    for use, rule in zip(plan.limits, limits, strict=False):
        used = plan.program.used(rule, choice)
        if used != use.used or use.name != rule.name:
            found.faults.append(f"{rule.name} comes to {used:,}; the plan says {use.used:,} of {use.name}")
    if len(limits) != len(plan.limits):
        found.faults.append(f"the program has {len(limits)} limits, the plan states {len(plan.limits)}")


def _check_against_profile(plan: Plan, path: Path, found: Verification) -> None:
    if file_sha256(path) != plan.profile_sha256:
        found.faults.append(f"{path} is not the profile that the plan was solved from: its hash differs")
        return
    profile = read_profile(path)
    predicted, _ = profile.predict(plan.formats())
    found.note(
        holds=math.isclose(predicted, plan.loss_increase_nats, rel_tol=1e-12),
        what=f"predicted loss increase of {predicted:.9g} nats per token, from the profile",
        otherwise=f"the profile predicts {predicted!r} nats; the plan says {plan.loss_increase_nats!r}",
    )
    stored = profile.stored_bytes(plan.formats())
    found.note(
        holds=stored == plan.stored_bytes,
        what="stored bytes as in the profile",
        otherwise=f"the profile's formats store {stored:,} bytes; the plan says {plan.stored_bytes:,}",
    )
    recorded = [domain.loss_increase_nats for domain in plan.program.domains]
    priced = [domain.loss_increase_nats for domain in costs_by_domain(profile, with_deviations=False)]
    offered = [tuple(profile.record.formats[target] for target in layer.formats) for layer in profile.record.layers]
    found.note(
        holds=[unit.formats for unit in plan.program.units] == offered and recorded == priced,
        what="the program's formats and costs are those of the profile",
    )
