"""The program on OR-Tools' CP-SAT, which searches over exact integers.

Knows nothing about layers or files.
"""

from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from ortools.sat.python import cp_model

from .base import SolverAnswer, SolverSettings, Status
from .integer_costs import integer_costs
from .standard_form import Integers, StandardForm

STATUS_MAP = {
    cp_model.OPTIMAL: Status.OPTIMAL,
    cp_model.FEASIBLE: Status.FEASIBLE,
    cp_model.INFEASIBLE: Status.INFEASIBLE,
    cp_model.UNKNOWN: Status.UNKNOWN,
}


@dataclass(frozen=True)
class CpSatSolver:
    """CP-SAT (Perron and Didier, OR-Tools)."""

    @property
    def name(self) -> str:
        """Name and version."""
        return f"CP-SAT {version('ortools')}"

    def solve(self, form: StandardForm, settings: SolverSettings, hint: Integers | None = None) -> SolverAnswer:
        """Search for the best choice, starting from the hint if there is one."""
        model = cp_model.CpModel()
        taken = [model.new_bool_var("") for _ in range(form.num_options)]
        for first, last in zip(form.starts[:-1].tolist(), form.starts[1:].tolist(), strict=True):
            model.add_exactly_one(taken[first:last])
        slacks = _add_rows(model, taken, form)
        _add_rules(model, taken, form)
        costs = integer_costs(form)
        if form.slack_prices is not None:
            model.minimize(cp_model.LinearExpr.weighted_sum(slacks, form.slack_prices.tolist()))
        elif len(costs.costs) == 1:
            model.minimize(cp_model.LinearExpr.weighted_sum(taken, costs.costs[0].tolist()))
        else:
            most = (costs.constants - form.smallest(-costs.costs).sum(axis=1)).max()
            largest = model.new_int_var(0, int(most), "")
            for vector, constant in zip(costs.costs.tolist(), costs.constants.tolist(), strict=True):
                model.add(cp_model.LinearExpr.weighted_sum(taken, vector) + constant <= largest)
            model.minimize(largest)
        if hint is not None:
            values = np.zeros(form.num_options, dtype=bool)
            values[hint] = True
            for literal, value in zip(taken, values.tolist(), strict=True):
                model.add_hint(literal, value)

        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = settings.time_limit_seconds
        solver.parameters.random_seed = settings.seed
        solver.parameters.num_workers = settings.num_threads
        status = STATUS_MAP[solver.solve(model)]
        if status not in {Status.OPTIMAL, Status.FEASIBLE}:
            return SolverAnswer(status)
        chosen = np.flatnonzero([solver.boolean_value(literal) for literal in taken])
        if form.slack_prices is not None:
            return SolverAnswer(status, chosen, solver.best_objective_bound)
        bound = costs.bound(solver.best_objective_bound)
        return SolverAnswer(status, chosen, min(bound, form.objective(chosen)), costs.resolution)


def _add_rows(model: cp_model.CpModel, taken: list[cp_model.IntVar], form: StandardForm) -> list[cp_model.IntVar]:
    """Add Σ amount x ≤ at_most, or ≤ at_most + slack; return the slacks."""
    slacks = []
    for amounts, at_most in zip(form.amounts, form.at_most.tolist(), strict=True):
        total = cp_model.LinearExpr.weighted_sum(taken, amounts.tolist())
        if form.slack_prices is None:
            model.add(total <= at_most)
        else:
            largest = int(-form.smallest(-amounts).sum())
            slacks.append(model.new_int_var(0, max(largest - at_most, 0), ""))
            model.add(total - slacks[-1] <= at_most)
    return slacks


def _add_rules(model: cp_model.CpModel, taken: list[cp_model.IntVar], form: StandardForm) -> None:
    """Add orders by the rank of each width, and one indicator per format for every limit on distinct formats."""
    ranks = np.unique(form.bits, return_inverse=True)[1].tolist()
    starts = form.starts.tolist()
    for finer, coarser in form.orders:
        ends = [range(starts[group], starts[group + 1]) for group in (finer, coarser)]
        sums = [cp_model.LinearExpr.weighted_sum([taken[i] for i in end], [ranks[i] for i in end]) for end in ends]
        model.add(sums[0] >= sums[1])
    for limit in form.distinct:
        used: dict[int, cp_model.IntVar] = {}
        for group in limit.groups:
            for option in range(starts[group], starts[group + 1]):
                number = int(form.formats[option])
                used.setdefault(number, model.new_bool_var(""))
                model.add_implication(taken[option], used[number])
        model.add(cp_model.LinearExpr.sum(list(used.values())) <= limit.at_most)
