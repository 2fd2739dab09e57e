"""The frontier: the least objective at every bound of a limit, each point proven.

Knows nothing about layers or files.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .instance import Instance
from .milp.base import MilpSolver, SolverSettings
from .rules import Allow, Limit
from .solve import Solution, solve

FRONTIER = "frontier"
_NESTED = "nested in the looser plan"


@dataclass(frozen=True)
class FrontierSolution:
    """One point of a frontier.

    Attributes:
        bounds: the bound on each row, in its steps.
        used: the sum of each row; empty without a plan.
        solution: the answer at these bounds.
    """

    bounds: tuple[int, ...]
    used: tuple[int, ...]
    solution: Solution


def solve_at(
    instance: Instance,
    rows: Sequence[str],
    bounds: Sequence[int],
    solver: MilpSolver,
    settings: SolverSettings,
    start: tuple[int, ...] | None = None,
) -> FrontierSolution:
    """Solve an instance with an additional upper bound on each of ``rows``, in steps of the row."""
    limits = tuple(Limit(f"{FRONTIER}: {row}", row, at_most=bound) for row, bound in zip(rows, bounds, strict=True))
    solution = solve(instance.with_rules((*instance.rules, *limits)), solver, settings, start=start)
    choice = solution.choice
    used = () if choice is None else tuple(instance.amount(row, choice) for row in rows)
    return FrontierSolution(tuple(bounds), used, solution)


def frontier(
    instance: Instance,
    row: str,
    bounds: Sequence[int],
    solver: MilpSolver,
    settings: SolverSettings,
    *,
    nested: bool = False,
) -> Iterator[FrontierSolution]:
    """Solve for every bound, loosest first, each started from its neighbour's plan.

    Args:
        instance: the program.
        row: the row that is bounded.
        bounds: in steps of the row.
        solver: solves.
        settings: limits of each search.
        nested: a tighter plan may not give any unit more bits than the looser plan before it. Points are then
            proven best among such plans.

    Yields:
        The points, loosest bound first.
    """
    start: tuple[int, ...] | None = None
    for bound in sorted(set(bounds), reverse=True):
        program = instance if start is None or not nested else _no_more_bits(instance, start)
        point = solve_at(program, [row], [bound], solver, settings, start)
        start = point.solution.choice or start
        yield point


def every_breakpoint(
    instance: Instance, row: str, lowest: int, highest: int, solver: MilpSolver, settings: SolverSettings
) -> Iterator[FrontierSolution]:
    """Solve for every bound at which the optimum changes: each next bound is one step below what the last plan uses.

    At any bound between a point's use and its bound, its plan stays optimal. Among equally good plans the point is
    the one that uses least of the row.

    Args:
        instance: the program.
        row: the row that is bounded.
        lowest: the last bound, in steps of the row.
        highest: the first bound.
        solver: solves.
        settings: limits of each search.

    Yields:
        The points, loosest bound first; the last may be one without a plan.
    """
    bound: int = highest
    waiting: FrontierSolution | None = None
    while bound >= lowest:
        start = None if waiting is None else waiting.solution.choice
        point = solve_at(instance, [row], [bound], solver, settings, start)
        if waiting is not None and point.used and not _costs_more(point.solution, waiting.solution):
            point = replace(point, bounds=waiting.bounds)
        elif waiting is not None:
            yield waiting
        if not point.used:
            yield point
            return
        bound, waiting = point.used[0] - 1, point
    if waiting is not None:
        yield waiting


def _costs_more(tighter: Solution, looser: Solution) -> bool:
    first, second = tighter.proofs[0], looser.proofs[0]
    return first.value > second.value + 2 * max(first.resolution, second.resolution)


def grid(
    instance: Instance,
    rows: tuple[str, str],
    bounds: tuple[Sequence[int], Sequence[int]],
    solver: MilpSolver,
    settings: SolverSettings,
) -> Iterator[FrontierSolution]:
    """Solve for every pair of bounds on two rows; yields the points, loosest first in both."""
    start: tuple[int, ...] | None = None
    descending = [sorted(set(values), reverse=True) for values in bounds]
    for pair in itertools.product(*descending):
        point = solve_at(instance, rows, pair, solver, settings, start)
        start = point.solution.choice or start
        yield point


def _no_more_bits(instance: Instance, choice: tuple[int, ...]) -> Instance:
    allowed = tuple(
        (unit, tuple(index for index, bits in enumerate(record.bits) if bits <= record.bits[choice[unit]]))
        for unit, record in enumerate(instance.units)
    )
    return instance.with_rules((*instance.rules, Allow(_NESTED, allowed)))
