"""Exact search on a small core: the options that the relaxation cannot rule out.

Let LB be the Lagrangian bound and r(i) the reduced cost of option i. A plan with an option of r(i) > δ costs more than
LB + δ. So the best plan among the options with r(i) ≤ δ is optimal as soon as it costs at most LB + δ (Pisinger 1995
calls these options the core). δ starts small and grows until this holds.

Knows nothing about layers or files.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from ..common.errors import SolverError
from .dynamic_programming import is_tabulable, tabulate
from .heuristic import best_start
from .lagrangian import LagrangianBound, largest_objective, relax
from .milp.base import MilpSolver, SolverSettings, Status
from .milp.standard_form import Floats, Integers, Mask, StandardForm
from .presolve import presolve, tighten_rows

_FIRST_CORE_OPTIONS = 60
_GROWTH = 4


@dataclass(frozen=True)
class CoreAnswer:
    """What the search found out about a program in standard form.

    Attributes:
        status: what is known.
        choice: the index of the format that each unit takes; None without a plan.
        objective: of the choice, in floating point.
        bound: no plan costs less.
        resolution: how far the solver's numbers may be from the true costs, over a whole plan.
        relaxation: of the presolved form; None if presolve answered alone.
        form: the presolved form; None likewise.
        core_options: the number of options that the solver searched; 0 if it was not needed.
    """

    status: Status
    choice: tuple[int, ...] | None = None
    objective: float = np.inf
    bound: float = -np.inf
    resolution: float = 0.0
    relaxation: LagrangianBound | None = None
    form: StandardForm | None = None
    core_options: int = 0


@dataclass
class _Search:
    """The state of a search: the best choice so far and what is proven."""

    form: StandardForm
    relaxation: LagrangianBound
    settings: SolverSettings
    deadline: float
    chosen: Integers | None
    objective: float
    bound: float
    resolution: float
    core_options: int = 0

    def close_enough(self) -> bool:
        gap = self.objective - self.bound
        return self.chosen is not None and gap <= self.settings.relative_gap * abs(self.objective) + 2 * self.resolution

    def take(self, chosen: Integers | None) -> None:
        if chosen is not None and self.form.objective(chosen) < self.objective:
            self.chosen, self.objective = chosen, self.form.objective(chosen)

    def answer(self, status: Status) -> CoreAnswer:
        choice = None if self.chosen is None else self.form.choice(self.chosen)
        bound = min(self.bound, self.objective)
        return CoreAnswer(
            status, choice, self.objective, bound, self.resolution, self.relaxation, self.form, self.core_options
        )


def solve_standard_form(
    form: StandardForm,
    solver: MilpSolver,
    settings: SolverSettings,
    *,
    cutoff: float = np.inf,
    start: tuple[int, ...] | None = None,
) -> CoreAnswer:
    """Find the best choice, and prove it.

    Args:
        form: the program, without slacks.
        solver: searches the core.
        settings: limits of the search.
        cutoff: plans that cost more are of no interest; the search ends once there can be no other.
        start: a choice that is likely to be good, such as the plan of a similar budget.

    Returns:
        The answer. If the cutoff ended the search, its status is UNKNOWN and it carries the bound.
    """
    deadline = time.perf_counter() + settings.time_limit_seconds
    small = presolve(form)
    if small is None:
        return CoreAnswer(Status.INFEASIBLE)
    relaxation = relax(small)
    if relaxation.bound > largest_objective(small):
        return CoreAnswer(Status.INFEASIBLE)
    search = _Search(small, relaxation, settings, deadline, None, np.inf, relaxation.bound, relaxation.rounding)
    if relaxation.bound > cutoff:
        return search.answer(Status.UNKNOWN)
    candidates = list(relaxation.starts)
    begun = None if start is None else small.chosen(start)
    search.take(best_start(small, candidates if begun is None else [begun, *candidates], relaxation.reduced_costs))
    tabulated = None if search.close_enough() else _tabulated(search)
    return tabulated or _grow_core(search, solver)


def _tabulated(search: _Search) -> CoreAnswer | None:
    """Answer by dynamic programming if a single row binds and its sums are few.

    Rows without a price are dropped, and so are options beyond the gap. The best choice of the rest bounds the program
    from below (which the search records), and is its answer if it happens to meet the other rows too.

    Args:
        search: the search so far; its bound may rise.

    Returns:
        The answer; None if the solver is needed.
    """
    pressing = search.relaxation.prices > 0
    if int(pressing.sum()) != 1:
        return None
    relaxed = replace(search.form, amounts=search.form.amounts[pressing], at_most=search.form.at_most[pressing])
    within = relaxed.keep(search.relaxation.reduced_costs <= search.objective - search.relaxation.bound)
    small = None if within is None else tighten_rows(within)
    if small is None or not is_tabulable(small):
        return None
    chosen = search.form.chosen(small.choice(tabulate(small)))
    assert chosen is not None
    search.bound = max(search.bound, search.form.objective(chosen) - search.relaxation.rounding)
    if not search.form.meets_limits(chosen):
        return None
    search.take(chosen)
    return search.answer(Status.OPTIMAL)


def _grow_core(search: _Search, solver: MilpSolver) -> CoreAnswer:
    lower, reduced = search.relaxation.bound, search.relaxation.reduced_costs
    core_size = search.form.num_groups + _FIRST_CORE_OPTIONS
    while not search.close_enough():
        left = search.deadline - time.perf_counter()
        if left <= 0:
            return search.answer(Status.FEASIBLE if search.chosen is not None else Status.UNKNOWN)
        mask, outside = _core(reduced, core_size, search.objective - lower)
        core = search.form.keep(mask)
        assert core is not None  # the cheapest option of every group has reduced cost 0
        found = solver.solve(core, replace(search.settings, time_limit_seconds=left), _hint(search, mask))
        search.core_options = core.num_options
        options = np.flatnonzero(mask)
        search.take(None if found.chosen is None else options[found.chosen])
        search.resolution = max(search.resolution, found.resolution)
        if found.status in {Status.OPTIMAL, Status.FEASIBLE}:
            assert found.bound is not None
            search.bound = max(search.bound, min(found.bound, lower + outside))
        if found.status in {Status.FEASIBLE, Status.UNKNOWN}:
            return search.answer(Status.FEASIBLE if search.chosen is not None else Status.UNKNOWN)
        if found.status is Status.INFEASIBLE:
            if search.chosen is not None and mask[search.chosen].all():
                raise SolverError(
                    f"{solver.name} calls a program infeasible for which a plan is known. This is a fault of the "
                    "solver: use the other one (--solver), and please report the program (--save-program)."
                )
            if mask.all():
                return search.answer(Status.INFEASIBLE)
            search.bound = max(search.bound, lower + outside)
        elif search.objective <= lower + outside:
            break
        core_size *= _GROWTH
    return search.answer(Status.OPTIMAL)


def _core(reduced: Floats, core_size: int, gap: float) -> tuple[Mask, float]:
    """Pick the options of least reduced cost, none beyond the gap; return the least reduced cost outside as well."""
    within = reduced <= gap
    if int(within.sum()) > core_size:
        threshold = np.partition(reduced, core_size - 1)[core_size - 1]
        within &= reduced <= threshold
    outside = float(reduced[~within].min()) if not within.all() else np.inf
    return within, outside


def _hint(search: _Search, mask: Mask) -> Integers | None:
    if search.chosen is None or not mask[search.chosen].all():
        return None
    position = np.cumsum(mask) - 1
    hint: Integers = position[search.chosen]
    return hint
