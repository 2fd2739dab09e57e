"""Limits on the number of distinct formats, by cases: which N formats are used.

For each such rule in turn, every set of N of the formats among its units is a case. The Lagrangian relaxation of the
parent bounds all cases at once: its bound, plus for every unit of the rule the least reduced cost within the set. Cases
are opened best bound first, until no remaining case can beat the best plan found.

Knows nothing about solvers.
"""

import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..common.errors import InputError
from .core import CoreAnswer, solve_standard_form
from .lagrangian import largest_objective, relax
from .milp.base import MilpSolver, SolverSettings, Status
from .milp.standard_form import DistinctLimit, Floats, Integers, Mask, StandardForm
from .presolve import tighten_rows

_MOST_CASES = 20_000


@dataclass(order=True)
class _Case:
    """A set of formats for the first such rule; kept as a mask until it is opened."""

    bound: float
    number: int
    parent: StandardForm = field(compare=False)
    mask: Mask = field(compare=False)
    distinct: tuple[DistinctLimit, ...] = field(compare=False)

    def form(self) -> StandardForm | None:
        kept = self.parent.keep(self.mask)
        return None if kept is None else replace(kept, distinct=self.distinct)


def solve_by_cases(
    form: StandardForm,
    solver: MilpSolver,
    settings: SolverSettings,
    start: tuple[int, ...] | None = None,
) -> CoreAnswer:
    """Find the best choice, with or without limits on distinct formats, and prove it, as ``solve_standard_form``."""
    if not form.distinct:
        return solve_standard_form(form, solver, settings, start=start)
    deadline = time.perf_counter() + settings.time_limit_seconds
    best = CoreAnswer(Status.INFEASIBLE)
    waiting = [_Case(-np.inf, 0, form, np.ones(form.num_options, dtype=bool), form.distinct)]
    least_closed = np.inf  # the least bound among searched cases
    numbers = itertools.count(1)
    while waiting and waiting[0].bound <= best.objective:
        left = deadline - time.perf_counter()
        if left <= 0:
            break
        case = heapq.heappop(waiting)
        opened = case.form()
        if opened is None:
            continue
        if opened.distinct:
            for child in _open(opened, case.bound, numbers):
                heapq.heappush(waiting, child)
            continue
        within = replace(settings, time_limit_seconds=left)
        found = solve_standard_form(opened, solver, within, cutoff=best.objective, start=start)
        if found.status is Status.INFEASIBLE:
            continue
        least_closed = min(least_closed, max(found.bound, case.bound))
        better = found if best.choice is None or found.objective < best.objective else best
        best = replace(better, resolution=max(found.resolution, best.resolution))
    return _conclude(best, min([least_closed, *(case.bound for case in waiting)]), settings)


def _conclude(best: CoreAnswer, bound: float, settings: SolverSettings) -> CoreAnswer:
    if best.choice is None:
        return best if bound == np.inf else replace(best, status=Status.UNKNOWN, bound=bound)
    bound = min(bound, best.objective)
    gap = best.objective - bound
    close = gap <= 2 * best.resolution + settings.relative_gap * abs(best.objective)
    return replace(best, status=Status.OPTIMAL if close else Status.FEASIBLE, bound=bound)


def _open(form: StandardForm, bound: float, numbers: Iterator[int]) -> list[_Case]:
    """List the cases of the first rule, each with its bound."""
    limit, *others = form.distinct
    small = tighten_rows(form)
    if small is None:
        return []
    relaxation = relax(small)
    if relaxation.bound > largest_objective(small):
        return []
    belongs = np.isin(small.group_of, limit.groups)
    formats = np.unique(small.formats[belongs])
    num_chosen = min(limit.at_most, len(formats))
    num_cases = math.comb(len(formats), num_chosen)
    if num_cases > _MOST_CASES:
        raise InputError(
            f"{limit.at_most} distinct formats out of {len(formats)} are {num_cases:,} cases, more than the "
            f"{_MOST_CASES:,} that are searched. Offer fewer formats, or allow fewer or more distinct ones."
        )
    table = _reduced_cost_table(small, formats, relaxation.reduced_costs)[list(limit.groups)]
    cases = []
    for chosen in itertools.combinations(range(len(formats)), num_chosen):
        extra = float(table[:, chosen].min(axis=1).sum())
        if extra < np.inf:
            mask: Mask = ~belongs | np.isin(small.formats, formats[list(chosen)])
            child_bound = max(bound, relaxation.bound + extra * (1 - 2.0**-40))
            cases.append(_Case(child_bound, next(numbers), small, mask, tuple(others)))
    return cases


def _reduced_cost_table(form: StandardForm, formats: Integers, reduced_costs: Floats) -> Floats:
    """Lay reduced costs out as [groups, formats], infinite where a group lacks the format."""
    table = np.full((form.num_groups, len(formats)), np.inf)
    column = np.searchsorted(formats, form.formats)
    known = (column < len(formats)) & (formats[np.minimum(column, len(formats) - 1)] == form.formats)
    np.minimum.at(table, (form.group_of[known], column[known]), reduced_costs[known])
    return table
