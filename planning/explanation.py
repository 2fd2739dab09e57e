"""Limits, prices and conflicts in words.

Knows nothing about layers, files or engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..common.errors import ScantlingError
from ..common.records import Finite, Record
from ..common.units import BYTES, SECONDS, render_quantity
from ..solver.infeasibility import Conflict
from ..solver.instance import Instance
from ..solver.milp.base import Status
from ..solver.rules import Limit, LossLimit, Rule
from .plan import LimitUse, Objective, Plan

_MIB = 2**20
_RATE_OF_TIME = "seconds"


@dataclass(frozen=True)
class LimitUnit:
    """What integer steps stand for.

    Attributes:
        name: for instance ``bytes``.
        step: one step in it.
    """

    name: str
    step: float = 1.0

    def show(self, steps: float) -> str:
        """Write an amount in steps with its unit.

        Args:
            steps: the amount.

        Returns:
            Text.

        >>> LimitUnit("bits per weight", 0.001).show(3500)
        '3.5 bits per weight'
        >>> LimitUnit("seconds", 0.001).show(20)  # per token, the only seconds of a program
        '20 ms (50 tok/s)'
        """
        amount = steps if self.step == 1 else steps * self.step
        shown = render_quantity(amount, self.name)
        return f"{shown} ({1 / amount:.4g} tok/s)" if self.name == SECONDS and amount > 0 else shown


NATS_PER_TOKEN = LimitUnit("nats per token")


class ConflictingRule(Record):
    """A limit or rule of a conflict.

    Attributes:
        name: as its user calls it.
        origin: where it was given.
        says: its bound in words; empty for a rule without a bound.
        needed: the bound that alone would give a plan, in words; None where no bound of it does.
        needed_steps: the same in steps of its row, or nats.
        needed_is_proven: whether it is the least change.
        span: the least and the most that any plan takes, in words; empty for a rule without a bound.
    """

    name: str
    origin: str
    says: str = ""
    needed: str | None = None
    needed_steps: Finite | None = None
    needed_is_proven: bool | None = None
    span: str = ""


class Explanation(Record):
    """Why there is no plan, and what would mend it.

    Attributes:
        conflict: limits and rules that cannot hold together.
        is_smallest: whether it is proven that no fewer conflict.
        together: changes of several bounds that give a plan, where no single change does.
    """

    status: str = "INFEASIBLE"
    conflict: tuple[ConflictingRule, ...]
    is_smallest: bool
    together: tuple[ConflictingRule, ...]

    @property
    def conflict_lines(self) -> tuple[str, ...]:
        """What cannot hold together, a line each."""
        return tuple(_described(rule) for rule in self.conflict)

    @property
    def mend_lines(self) -> tuple[str, ...]:
        """Changes of which each gives a plan, everything else as it is; of bounds with the least that is enough."""
        lines = [_describe_mend(rule) for rule in self.conflict if rule.needed is not None]
        if self.together:
            lines.append(f"together: {self._together}")
        if any(not rule.says for rule in self.conflict):
            lines.append("without one of the rules that conflict")
        return tuple(lines)

    @property
    def _together(self) -> str:
        return "; ".join(f"{rule.name}: {rule.needed}" for rule in self.together)

    def text(self) -> str:
        """Write the explanation for a person, in several lines."""
        if not self.conflict:
            return "no plan: a layer has no format left."
        count = "This one alone cannot be met" if len(self.conflict) == 1 else "These cannot hold together"
        proof = ", and no fewer conflict (proven)" if self.is_smallest and len(self.conflict) > 1 else ""
        lines = [f"no plan meets all limits and rules. {count}{proof}:"]
        lines += [f"  {line}" for line in self.conflict_lines]
        lines.append("What would mend it, everything else as it is:")
        mends = [f"  {_describe_mend(rule)}" for rule in self.conflict if rule.needed is not None or rule.says]
        if self.together:
            mends.append(f"  or together: {self._together}")
        if any(not rule.says for rule in self.conflict):
            mends.append(f"  {'or ' if mends else ''}without one of the rules above")
        lines += mends
        return "\n".join(lines)


class InfeasibleError(ScantlingError):
    """No plan meets all limits and rules.

    Attributes:
        explanation: the conflict and its mends as records; None where they were not looked for.
    """

    def __init__(self, explanation: Explanation | None = None) -> None:
        super().__init__(f"no plan: {Status.INFEASIBLE.value}." if explanation is None else explanation.text())
        self.explanation = explanation

    @property
    def conflict(self) -> tuple[str, ...]:
        """Limits and rules that cannot hold together, a line each."""
        return () if self.explanation is None else self.explanation.conflict_lines

    @property
    def mends(self) -> tuple[str, ...]:
        """Changes of which each gives a plan, everything else as it is, a line each."""
        return () if self.explanation is None else self.explanation.mend_lines


def explained(conflict: Conflict, instance: Instance, measures: Sequence[LimitUnit]) -> Explanation:
    """Put a conflict into words; ``measures`` are the units of the instance's rules."""
    needed = {relaxation.rule: relaxation for relaxation in conflict.relaxations}
    found = []
    for index in conflict.rules:
        rule, relaxation = instance.rules[index], needed.get(index)
        steps = None if relaxation is None else relaxation.needed
        found.append(
            ConflictingRule(
                name=rule.name,
                origin=rule.origin,
                says=_describe_bound(rule, measures[index]),
                needed=None if steps is None else _describe_needed(rule, steps, measures[index]),
                needed_steps=steps,
                needed_is_proven=None if relaxation is None else relaxation.proven,
                span=_describe_span(rule, instance, measures[index]),
            )
        )
    together = tuple(
        ConflictingRule(
            name=instance.rules[index].name,
            origin=instance.rules[index].origin,
            needed=_describe_needed(instance.rules[index], steps, measures[index]),
            needed_steps=steps,
        )
        for index, steps in conflict.together
    )
    return Explanation(conflict=tuple(found), is_smallest=conflict.smallest, together=together)


def _described(rule: ConflictingRule) -> str:
    says = f" {rule.says}" if rule.says and rule.says not in rule.name else ""
    return f"{rule.name}{says}{f'  ({rule.origin})' if rule.origin else ''}"


def _describe_mend(rule: ConflictingRule) -> str:
    if rule.needed is None:
        return f"{rule.name}: no other bound helps alone"
    proven = "the least change, proven" if rule.needed_is_proven else "enough; less may do"
    return f"{rule.name}: {rule.needed} ({proven}){f'; {rule.span}' if rule.span else ''}"


def _describe_bound(rule: Rule, counted: LimitUnit) -> str:
    if isinstance(rule, LossLimit):
        return f"at most {counted.show(rule.at_most_nats)}"
    if isinstance(rule, Limit):
        return (
            f"at most {counted.show(rule.at_most)}" if rule.at_most is not None else f"at least {_least(rule, counted)}"
        )
    return ""


def _describe_span(rule: Rule, instance: Instance, counted: LimitUnit) -> str:
    if not isinstance(rule, Limit):
        return ""
    low, high = instance.span(rule)
    return f"plans have {counted.show(low)} to {counted.show(high)}, other rules apart"


def _least(rule: Limit, counted: LimitUnit) -> str:
    assert rule.at_least is not None
    return counted.show(rule.at_least)


def _describe_needed(rule: Rule, steps: float, counted: LimitUnit) -> str:
    side = "at least" if isinstance(rule, Limit) and rule.at_least is not None else "at most"
    return f"{side} {counted.show(steps)}"


def describe_amount(use: LimitUse) -> str:
    """Say how much of a limit a plan uses, in the limit's measure."""
    counted = LimitUnit(use.measure, use.step)
    if use.at_most is not None:
        return f"{counted.show(use.used)} of at most {counted.show(use.at_most)}"
    assert use.at_least is not None
    return f"{counted.show(use.used)} of at least {counted.show(use.at_least)}"


def describe_limit(use: LimitUse, objective: Objective) -> str:
    """Say in one line how much of a limit a plan uses, and what it is worth in the plan's first objective."""
    line = describe_amount(use)
    if use.has_effect is False:
        return f"{line}; has no effect (proven: the optimum is the same without it)"
    if use.price_per_step:
        return f"{line}; {describe_price(use, objective)}"
    if use.has_effect:
        return f"{line}; has an effect through whole formats, none on the linear relaxation"
    return line


def describe_price(use: LimitUse, objective: Objective) -> str:
    """Say what one more unit of a limit, such as 1 MiB, saves of the plan's first objective."""
    assert use.price_per_step is not None
    amount, unit = _marginal(use)
    gain = use.price_per_step * amount / use.step
    measured = LimitUnit(objective.measure, objective.step)
    looser = "more" if use.at_most is not None else "less"
    return f"{unit} {looser} saves about {measured.show(gain)} (linear relaxation)"


def _marginal(use: LimitUse) -> tuple[float, str]:
    """Choose a round step in the limit's measure, and its name."""
    if use.measure.startswith(BYTES):
        return float(_MIB), "1 MiB"
    if use.measure == NATS_PER_TOKEN.name:
        return 0.01, "0.01 nats"
    if use.measure == _RATE_OF_TIME:
        return 1e-3, "1 ms"
    return (0.1, f"0.1 {use.measure}") if use.measure == "bits per weight" else (1.0, f"1 {use.measure}")


def describe_freedom(plan: Plan) -> str | None:
    """Say where limits leave little or no choice; None where they leave all of it."""
    free, decisions = plan.certificate.num_free_units, plan.certificate.num_units
    if free is None or free == decisions:
        return None
    if free == 0:
        return "The limits and rules leave no freedom: this is the only plan that meets them."
    return f"The limits and rules leave {free} of {decisions} layers a choice."
