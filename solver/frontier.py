"""The frontier: the least objective at every bound of a limit, each point proven.

Knows nothing about layers or files.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .engine import Engine, SearchSettings
from .instance import Instance
from .rules import Allow, Limit
from .solve import Solution, solve

FRONTIER = "frontier"
_NESTED = "nested in the looser plan"


@dataclass(frozen=True)
class Point:
    """One point of a frontier.

    Attributes:
        bounds: the bound on each row, in its steps.
        used: what the choice comes to on each row; empty where there is no plan.
        solution: the answer at these bounds.
    """

    bounds: tuple[int, ...]
    used: tuple[int, ...]
    solution: Solution


def solve_at(
    instance: Instance,
    rows: Sequence[str],
    bounds: Sequence[int],
    engine: Engine,
    settings: SearchSettings,
    start: tuple[int, ...] | None = None,
) -> Point:
    """Solve an instance under further bounds.

    Args:
        instance: the program.
        rows: the rows that are bounded.
        bounds: the bound on each, in its steps.
        engine: solves.
        settings: limits of the search.
        start: a choice that is likely to be good, for instance of a neighbouring point.

    Returns:
        The point.
    """
    limits = tuple(Limit(f"{FRONTIER}: {row}", row, at_most=bound) for row, bound in zip(rows, bounds, strict=True))
    solution = solve(instance.with_rules((*instance.rules, *limits)), engine, settings, start=start)
    choice = solution.choice
    used = () if choice is None else tuple(instance.amount(row, choice) for row in rows)
    return Point(tuple(bounds), used, solution)


def frontier(
    instance: Instance,
    row: str,
    bounds: Sequence[int],
    engine: Engine,
    settings: SearchSettings,
    *,
    nested: bool = False,
) -> Iterator[Point]:
    """Solve for every bound, loosest first, each from its neighbour's plan.

    Args:
        instance: the program.
        row: what is bounded.
        bounds: in steps of the row.
        engine: solves.
        settings: limits of each search.
        nested: whether a tighter plan may not give any unit more bits than the looser plan before it has. The points
            are then proven best among such plans.

    Yields:
        The points, loosest bound first.
    """
    start: tuple[int, ...] | None = None
    for bound in sorted(set(bounds), reverse=True):
        program = instance if start is None or not nested else _no_finer(instance, start)
        point = solve_at(program, [row], [bound], engine, settings, start)
        start = point.solution.choice or start
        yield point


def every_breakpoint(
    instance: Instance, row: str, lowest: int, highest: int, engine: Engine, settings: SearchSettings
) -> Iterator[Point]:
    """Solve for every bound at which the optimum changes: each next bound is one step below what the last plan uses.

    The plans between are proven not to exist: at any bound from a point's use up to its bound, its plan stays the best.
    The plan of each point uses the least of the row among the plans as good.

    Args:
        instance: the program.
        row: what is bounded.
        lowest: where to end, in steps of the row.
        highest: where to begin.
        engine: solves.
        settings: limits of each search.

    Yields:
        The points, loosest bound first; the last may be one without a plan.
    """
    minimise = instance.minimise if row in instance.minimise else (*instance.minimise, row)
    tie_broken = replace(instance, minimise=minimise)
    bound: int = highest
    start: tuple[int, ...] | None = None
    while bound >= lowest:
        point = solve_at(tie_broken, [row], [bound], engine, settings, start)
        yield point
        if not point.used:
            return
        start, bound = point.solution.choice, point.used[0] - 1


def grid(
    instance: Instance,
    rows: tuple[str, str],
    bounds: tuple[Sequence[int], Sequence[int]],
    engine: Engine,
    settings: SearchSettings,
) -> Iterator[Point]:
    """Solve for every pair of bounds on two rows.

    Args:
        instance: the program.
        rows: what is bounded.
        bounds: on each, in steps.
        engine: solves.
        settings: limits of each search.

    Yields:
        The points, loosest first in both.
    """
    start: tuple[int, ...] | None = None
    descending = [sorted(set(values), reverse=True) for values in bounds]
    for pair in itertools.product(*descending):
        point = solve_at(instance, rows, pair, engine, settings, start)
        start = point.solution.choice or start
        yield point


def _no_finer(instance: Instance, choice: tuple[int, ...]) -> Instance:
    allowed = tuple(
        (unit, tuple(index for index, bits in enumerate(record.bits) if bits <= record.bits[choice[unit]]))
        for unit, record in enumerate(instance.units)
    )
    return instance.with_rules((*instance.rules, Allow(_NESTED, allowed)))
