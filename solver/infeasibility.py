"""Why there is no plan: the smallest set of limits and rules that cannot hold together, and what would mend it.

A set of rules is a smallest conflict if no plan meets all of them and no smaller set has this property. It is found by
implicit hitting sets (Ignatiev et al. 2015): every conflict hits every correction set, a set of rules without which
there is a plan. The smallest set that hits all correction sets known so far either is a conflict, and then a smallest
one, or yields a new correction set.

Knows nothing about layers or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ..common.errors import InputError
from .compilation import compile_instance
from .instance import LOSS, Instance, Row
from .milp.base import MilpSolver, SolverSettings, Status
from .rules import Limit, LossLimit
from .solve import solve
from .verify import violations

_NOTHING = "nothing"
_PART = "part of a row"
_WIDEST_ROW_PRICE = 16


@dataclass(frozen=True)
class LimitRelaxation:
    """The least change of one limit that alone makes the program feasible.

    Attributes:
        rule: the position of the limit among the instance's rules.
        needed: the bound that it needs, in steps of its row or in nats; None if no bound helps.
        proven: whether it is the least change; False if time ran out first.
    """

    rule: int
    needed: float | None
    proven: bool


class BoundChange(NamedTuple):
    """A new bound of one limit, by the limit's position among the instance's rules, in steps of its row."""

    rule: int
    bound: float


@dataclass(frozen=True)
class Conflict:
    """Why there is no plan.

    Attributes:
        rules: positions of the conflicting limits and rules, in the instance's order.
        smallest: whether it is proven that no smaller set conflicts.
        relaxations: one per limit in the conflict.
        together: if no single change helps, new bounds of several limits whose changes, each as a share
            of its row's range, have the least sum; empty if a single change helps, if no change of bounds does, or if
            there is a limit on the loss.
    """

    rules: tuple[int, ...]
    smallest: bool
    relaxations: tuple[LimitRelaxation, ...]
    together: tuple[BoundChange, ...]


def explain_infeasibility(instance: Instance, solver: MilpSolver, settings: SolverSettings) -> Conflict:
    """Find the smallest conflict of an infeasible instance, and the least changes that mend it.

    Args:
        instance: the program.
        solver: decides whether rules can hold together.
        settings: limits of each search.

    Returns:
        The conflict; what time did not allow to prove is marked in it.

    Raises:
        InputError: the instance is feasible.
    """
    rules, smallest = _smallest_conflict(instance, solver, settings)
    limits = [index for index in rules if isinstance(instance.rules[index], Limit | LossLimit)]
    relaxations = tuple(_least_relaxation(instance, index, solver, settings) for index in limits)
    together: tuple[BoundChange, ...] = ()
    if all(relaxation.needed is None for relaxation in relaxations):
        together = _least_total_relaxation(instance, solver, settings)
    return Conflict(rules, smallest, relaxations, together)


def _feasible_choice(
    instance: Instance, rules: Sequence[int], solver: MilpSolver, settings: SolverSettings
) -> tuple[Status, tuple[int, ...] | None]:
    nothing = Row(_NOTHING, "", tuple((0,) * len(unit.formats) for unit in instance.units))
    program = replace(
        instance,
        rows=(*instance.rows, nothing),
        rules=tuple(instance.rules[index] for index in rules),
        minimise=(_NOTHING,),
    )
    found = solve(program, solver, settings)
    return found.status, found.choice


def _smallest_conflict(
    instance: Instance, solver: MilpSolver, settings: SolverSettings
) -> tuple[tuple[int, ...], bool]:
    correction_sets: list[list[int]] = []
    certain = True
    while True:
        candidate = _smallest_hitting_set(len(instance.rules), correction_sets)
        status, choice = _feasible_choice(instance, candidate, solver, settings)
        if choice is None:
            return candidate, certain and status is Status.INFEASIBLE
        kept = _satisfied(instance, choice)
        for index in range(len(instance.rules)):
            if index not in kept:
                status, choice = _feasible_choice(instance, sorted(kept | {index}), solver, settings)
                certain &= status is not Status.UNKNOWN
                kept = kept if choice is None else _satisfied(instance, choice)
        if len(kept) == len(instance.rules):
            raise InputError("there is a plan that meets all limits and rules: nothing is in conflict.")
        correction_sets.append([index for index in range(len(instance.rules)) if index not in kept])


def _satisfied(instance: Instance, choice: tuple[int, ...]) -> set[int]:
    return {index for index, rule in enumerate(instance.rules) if not violations(instance, choice, [rule])}


def _smallest_hitting_set(num_rules: int, sets: Sequence[Sequence[int]]) -> tuple[int, ...]:
    if not sets:
        return ()
    rows = np.zeros((len(sets), num_rules))
    for row, members in zip(rows, sets, strict=True):
        row[list(members)] = 1
    found = milp(
        np.ones(num_rules),
        integrality=np.ones(num_rules),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, lb=1),
    )
    return tuple(int(index) for index in np.flatnonzero(found.x > 0.5))


def _least_relaxation(instance: Instance, index: int, solver: MilpSolver, settings: SolverSettings) -> LimitRelaxation:
    """Minimise (or maximise) what the limit bounds, under all other limits and rules."""
    rule = instance.rules[index]
    others = tuple(other for place, other in enumerate(instance.rules) if place != index)
    program = replace(instance, rules=others, minimise=(LOSS,))
    if isinstance(rule, Limit):
        program = replace(program, rows=(*instance.rows, _bounded_part(instance, rule)), minimise=(_PART,))
    found = solve(program, solver, settings)
    needed = None if found.choice is None else found.proofs[0].value
    if needed is not None and isinstance(rule, Limit) and rule.at_least is not None:
        needed = -needed
    return LimitRelaxation(index, needed, found.status in {Status.OPTIMAL, Status.INFEASIBLE})


def _bounded_part(instance: Instance, limit: Limit) -> Row:
    """Return the part of a row that a limit sums, negated for a lower bound so that less is better."""
    row = instance.row(limit.row)
    sign = 1 if limit.at_least is None else -1
    counted = set(range(len(instance.units)) if limit.units is None else limit.units)
    amounts = tuple(
        tuple(sign * amount if unit in counted else 0 for amount in unit_amounts)
        for unit, unit_amounts in enumerate(row.amounts)
    )
    return Row(_PART, row.measure, amounts, sign * row.fixed if limit.units is None else 0, row.step)


def _least_total_relaxation(
    instance: Instance, solver: MilpSolver, settings: SolverSettings
) -> tuple[BoundChange, ...]:
    """Minimise Σ_k excess_k / range_k over the limits on rows; empty if there is a limit on the loss."""
    form = compile_instance(instance)
    limits = [index for index, rule in enumerate(instance.rules) if isinstance(rule, Limit)]
    if form is None or not limits or any(isinstance(rule, LossLimit) for rule in instance.rules):
        return ()
    ranges = np.maximum(form.ranges(), 1).astype(np.float64)
    prices = np.rint(ranges.max() / ranges * _WIDEST_ROW_PRICE).astype(np.int64)
    answer = solver.solve(replace(form, slack_prices=prices), settings)
    if answer.chosen is None:
        return ()
    excess = form.amounts[:, answer.chosen].sum(axis=1) - form.at_most
    changes = []
    for index, steps in zip(limits, excess.tolist(), strict=True):
        rule = instance.rules[index]
        assert isinstance(rule, Limit)
        if steps > 0 and rule.at_most is not None:
            changes.append(BoundChange(index, float(rule.at_most + steps)))
        elif steps > 0 and rule.at_least is not None:
            changes.append(BoundChange(index, float(rule.at_least - steps)))
    return tuple(changes)
