"""What a plan gains over another choice, layer by layer, and what that gain is paid with.

Let u be a unit that has format f in the plan and g in the other choice, c its predicted loss, a_k the amounts of the
limits' rows and λ_k their shadow prices. In the plan

    saved(u)  = c(u, g) − c(u, f)                          nats per token, for the unit alone
    paid(u)   = Σ_k λ_k (a_k(u, f) − a_k(u, g))            what the same amounts are worth to the other units
    net(u)    = saved(u) − paid(u)

net(u) is the reduced cost of g. Where the loss is minimised under limits alone it is at least 0, but for the few units
that whole formats leave between two of the relaxation; ties and orders move units together and can make one of them
negative.

Knows nothing about files or models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..common.errors import InputError
from ..solver.instance import LOSS, Instance
from ..solver.rules import Limit, LossLimit
from .plan import Plan


@dataclass(frozen=True)
class ReducedCost:
    """One unit with another format in the plan than in the other choice.

    Attributes:
        unit: its position in the program.
        before: the other choice's format.
        after: the plan's.
        saved_nats: predicted loss that the plan saves here; negative where it spends.
        paid_nats: what its amounts are worth at the plan's shadow prices; None where the plan has none.
    """

    unit: int
    before: str
    after: str
    saved_nats: float
    paid_nats: float | None

    @property
    def net_nats(self) -> float | None:
        """The reduced cost of the other format; None where there are no prices."""
        return None if self.paid_nats is None else self.saved_nats - self.paid_nats


def reduced_costs(plan: Plan, others: Mapping[str, str]) -> tuple[ReducedCost, ...]:
    """List the units in which a plan differs from another choice.

    Args:
        plan: the plan.
        others: the other choice: the format of every unit, by its name.

    Returns:
        One a unit that differs, in the order of the program.

    Raises:
        InputError: the other choice gives a unit a format that the program does not offer.
    """
    program, choice = plan.program, plan.choice()
    worth = _worth(plan)
    found = []
    for index, unit in enumerate(program.units):
        other = others.get(unit.name, "")
        if other not in unit.formats:
            raise InputError(
                f"the plan's program does not offer {unit.name} the format {other!r}. Those it offers: "
                f"{', '.join(unit.formats)}."
            )
        mine, theirs = choice[index], unit.formats.index(other)
        if mine == theirs:
            continue
        saved = _loss(program, index, theirs) - _loss(program, index, mine)
        paid = None if worth is None else worth[index][mine] - worth[index][theirs]
        found.append(ReducedCost(index, other, unit.formats[mine], saved, paid))
    return tuple(found)


def _loss(program: Instance, unit: int, position: int) -> float:
    """Give c(u, f), the mean over the domains."""
    return sum(domain.loss_increase_nats[unit][position] for domain in program.domains) / len(program.domains)


def _worth(plan: Plan) -> list[list[float]] | None:
    """Give Σ_k λ_k a_k(u, f) in nats; None where the loss is not the objective, not a sum, or prices are unknown."""
    program, proven = plan.program, plan.certificate.objectives
    plain = program.loss.standard_errors == 0 and (program.loss.over_domains == "mean" or len(program.domains) == 1)
    limits = [rule for rule in program.rules if isinstance(rule, Limit | LossLimit)]
    if not plain or not proven or proven[0].name != LOSS or len(limits) != len(plan.limits):
        return None
    worth = [[0.0] * len(unit.formats) for unit in program.units]
    for rule, use in zip(limits, plan.limits, strict=True):
        if use.price_per_step is None or isinstance(rule, LossLimit):
            return None
        price = use.price_per_step if rule.at_most is not None else -use.price_per_step
        amounts = program.row(rule.row).amounts
        for unit in range(len(program.units)) if rule.units is None else rule.units:
            for position, amount in enumerate(amounts[unit]):
                worth[unit][position] += price * amount
    return worth
