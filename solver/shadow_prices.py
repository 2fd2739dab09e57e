"""What the limits are worth: shadow prices, limits without effect, and how much freedom they leave.

Knows nothing about layers or files.
"""

from dataclasses import dataclass, replace

import numpy as np

from .compilation import compile_instance
from .instance import Instance
from .lagrangian import relax
from .milp.base import MilpSolver, SolverSettings, Status
from .milp.standard_form import Floats, Integers
from .presolve import join_ordered_groups, tighten_rows
from .rules import Distinct, Limit, LossLimit, Rule
from .solve import Solution, solve

_SAME_OBJECTIVE = 1e-9


@dataclass(frozen=True)
class LimitPrice:
    """What one limit is worth.

    Attributes:
        rule: the position of the limit among the instance's rules.
        price: how much the relaxation of the first objective falls per step of slack, in nats per step of the row; per
            nat for a limit on the loss. 0 if the limit does not bind.
        has_effect: False if it is proven that the optimum is the same without this limit; None if that was not settled
            in time.
    """

    rule: int
    price: float
    has_effect: bool | None


@dataclass(frozen=True)
class Sensitivities:
    """What the limits do to an optimum.

    Attributes:
        limits: one per numeric limit.
        num_free_units: units to which limits and rules leave more than one format, each row taken alone.
        num_units: units with more than one format before limits and rules.
    """

    limits: tuple[LimitPrice, ...]
    num_free_units: int
    num_units: int


def sensitivities(
    instance: Instance, solution: Solution, solver: MilpSolver, settings: SolverSettings
) -> Sensitivities:
    """Price every limit at an optimum.

    Prices are the duals of the linear relaxation, with units under a limit on distinct formats restricted to the
    formats of the solution. A limit of price 0 is tested: the program is solved again without it.

    Args:
        instance: the program.
        solution: its solution, with a choice.
        solver: solves again.
        settings: limits of each search.

    Returns:
        The sensitivities.
    """
    assert solution.choice is not None
    prices = _shadow_prices(instance, solution.choice)
    found = []
    for rule, price in sorted(prices.items()):
        has_effect = True if price > 0 else _changes_optimum(instance, rule, solution, solver, settings)
        found.append(LimitPrice(rule, price, has_effect))
    num_units = sum(len(unit.formats) > 1 for unit in instance.units)
    return Sensitivities(tuple(found), _count_free_units(instance), num_units)


def _shadow_prices(instance: Instance, choice: tuple[int, ...]) -> dict[int, float]:
    held = replace(instance, minimise=instance.minimise[:1])
    form = compile_instance(held)
    assert form is not None
    mask = np.ones(form.num_options, dtype=bool)
    chosen = form.chosen(choice)
    assert chosen is not None
    for limit in form.distinct:
        used = np.unique(form.formats[chosen[list(limit.groups)]])
        mask &= ~np.isin(form.group_of, limit.groups) | np.isin(form.formats, used)
    kept = form.keep(mask)
    assert kept is not None
    joined = join_ordered_groups(replace(kept, distinct=()))
    assert joined is not None
    relaxed = relax(joined).prices
    limits = [index for index, rule in enumerate(instance.rules) if isinstance(rule, Limit | LossLimit)]
    num_rows = sum(isinstance(rule, Limit) for rule in instance.rules)
    vectors = (len(relaxed) - num_rows) // max(len(limits) - num_rows, 1)  # rows that each limit on the loss became
    prices: dict[int, float] = {}
    position = 0
    for index in limits:
        rows = 1 if isinstance(instance.rules[index], Limit) else vectors
        here = slice(position, position + rows)
        prices[index] = float((relaxed[here] * _steps_per_unit(instance.rules[index], joined.at_most[here])).max())
        position += rows
    return prices


def _steps_per_unit(rule: Rule, at_most: Integers) -> Floats:
    """Return how many steps of a compiled row make one step of a limit's row, or one nat (then a power of two)."""
    if not isinstance(rule, LossLimit) or not rule.at_most_nats:
        return np.ones(len(at_most))
    steps: Floats = np.exp2(np.rint(np.log2(at_most / rule.at_most_nats)))
    return steps


def _changes_optimum(
    instance: Instance, rule: int, solution: Solution, solver: MilpSolver, settings: SolverSettings
) -> bool | None:
    others = tuple(other for index, other in enumerate(instance.rules) if index != rule)
    without = solve(instance.with_rules(others), solver, settings, start=solution.choice)
    if without.status is not Status.OPTIMAL or solution.status is not Status.OPTIMAL:
        return None
    for proof, free in zip(solution.proofs, without.proofs, strict=True):
        room = 2 * (proof.resolution + free.resolution) + _SAME_OBJECTIVE * abs(proof.value)
        if free.value < proof.value - room:
            return True
    return False


def _count_free_units(instance: Instance) -> int:
    form = compile_instance(instance.with_rules([r for r in instance.rules if not isinstance(r, Distinct)]))
    small = None if form is None else join_ordered_groups(form)
    small = None if small is None else tighten_rows(small)
    if small is None:
        return 0
    free: set[int] = set()
    starts = small.starts.tolist()
    for group, units in enumerate(small.units):
        picks = small.picks[starts[group] : starts[group + 1]]
        free.update(unit for place, unit in enumerate(units) if len({pick[place] for pick in picks}) > 1)
    return len(free)
