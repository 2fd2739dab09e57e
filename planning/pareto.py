"""Frontiers of a profile: the least predicted loss at every limit, each point proven.

Knows nothing about how points are solved or shown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ..common.errors import InputError
from ..common.files import whole_file
from ..common.progress import Progress
from ..common.records import Finite, Record
from ..common.units import exact_number, parse_quantity
from ..hardware.resources import BIT_WEIGHTS, ROW_OF
from ..sensitivity.profile import Profile, decided_layers
from ..solver.frontier import FrontierSolution, every_breakpoint, frontier, grid
from ..solver.instance import Instance
from ..solver.milp.base import MilpSolver, SolverSettings
from .explanation import LimitUnit
from .plan import average_bits

EVERY = "every"
_PERCENT = 100


@dataclass(frozen=True)
class FrontierRequest:
    """What is swept, as a user writes it.

    Attributes:
        against: one or two rows or limits' names.
        lowest: the tightest limit on each, with its unit; empty for the least that any plan takes.
        highest: the loosest; empty for the most.
        points: how many along each, or ``every``.
        nested: whether a tighter plan may not raise a layer's bits.
    """

    against: tuple[str, ...]
    lowest: tuple[str, ...] = ()
    highest: tuple[str, ...] = ()
    points: str = "20"
    nested: bool = False


class FrontierPoint(Record):
    """One point.

    Attributes:
        bounds: on each swept row, in its steps.
        used: what the plan comes to, likewise; empty where there is no plan.
        status: of the proof.
        objective: of the plan: nats per token where the loss is minimised; None where there is no plan.
        bound: no plan within the limits has less.
        predicted_loss_nats: of the plan, in nats per token.
        predicted_loss_standard_error_nats: over the profile's samples.
        average_bits: over the decided layers.
        formats: of every layer, in the order of ``layers``.
        seconds: to solve.
    """

    bounds: tuple[int, ...]
    used: tuple[int, ...]
    status: str
    objective: Finite | None = None
    bound: Finite | None = None
    predicted_loss_nats: Finite | None = None
    predicted_loss_standard_error_nats: Finite | None = None
    average_bits: Finite | None = None
    formats: tuple[str, ...] = ()
    seconds: Finite


class FrontierAxis(Record):
    """What was swept.

    Attributes:
        name: as the user called it.
        measure: what it is counted in.
        step: one step in that measure.
    """

    name: str
    measure: str
    step: Finite

    def show(self, steps: int) -> str:
        """Write an amount in steps of the row, with its unit."""
        return LimitUnit(self.measure, self.step).show(steps)


class Frontier(Record):
    """All points.

    Attributes:
        model_source: the model.
        profile_seed: of the profile.
        objective: what is minimised.
        rows: what is swept.
        nested: whether plans are nested.
        solver: that solved.
        seed: of the solver.
        layers: their names.
        points: loosest first.
    """

    model_source: str
    profile_seed: int
    objective: str
    rows: tuple[FrontierAxis, ...]
    nested: bool
    solver: str
    seed: int
    layers: tuple[str, ...]
    points: tuple[FrontierPoint, ...]

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        with whole_file(path) as partial:
            partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def sweep_frontier(
    profile: Profile,
    instance: Instance,
    sweep: FrontierRequest,
    solver: MilpSolver,
    settings: SolverSettings,
    progress: Progress,
) -> Frontier:
    """Solve along one limit, or over a grid of two.

    Args:
        profile: the profile.
        instance: the program without the swept limits.
        sweep: what is swept.
        solver: solves.
        settings: limits of each search.
        progress: is told of every point.

    Returns:
        The frontier.

    Raises:
        InputError: a row that is not there, a range that is empty, or options that do not go together.
    """
    if len(sweep.against) not in {1, 2}:
        raise InputError(f"--against was given {len(sweep.against)} times. Give one limit, or two for a grid.")
    for flag, values in (("--from", sweep.lowest), ("--to", sweep.highest)):
        if values and len(values) != len(sweep.against):
            raise InputError(
                f"{flag} was given {len(values)} times for {len(sweep.against)} limits. Give one for each."
            )
    rows = [_axis_of(profile, instance, name) for name in sweep.against]
    names = [_row_name(instance, name) for name in sweep.against]
    ranges = [
        _range(instance, name, row, sweep.lowest[k : k + 1], sweep.highest[k : k + 1])
        for k, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    points = _solved(instance, names, ranges, sweep, (solver, settings), progress)
    return Frontier(
        model_source=profile.record.model_source,
        profile_seed=profile.record.seed,
        objective=instance.minimise[0],
        rows=tuple(rows),
        nested=sweep.nested,
        solver=solver.name,
        seed=settings.seed,
        layers=tuple(unit.name for unit in instance.units),
        points=tuple(_point(profile, instance, point) for point in points),
    )


def _solved(
    instance: Instance,
    names: Sequence[str],
    ranges: Sequence[tuple[int, int]],
    sweep: FrontierRequest,
    search: tuple[MilpSolver, SolverSettings],
    progress: Progress,
) -> Iterable[FrontierSolution]:
    if sweep.points == EVERY:
        if len(names) == 2 or sweep.nested:
            raise InputError("--points every goes with one limit and without --nested. Give a number of points.")
        low, high = ranges[0]
        return _watched_down(every_breakpoint(instance, names[0], low, high, *search), low, high, progress)
    spaced = [_spaced(low, high, sweep.points) for low, high in ranges]
    if len(names) == 1:
        return _watched(frontier(instance, names[0], spaced[0], *search, nested=sweep.nested), spaced[0], progress)
    if sweep.nested:
        raise InputError("--nested goes with one limit: over a grid, tighter in which of the two?")
    pairs = [(first, second) for first in spaced[0] for second in spaced[1]]
    return _watched(grid(instance, (names[0], names[1]), (spaced[0], spaced[1]), *search), pairs, progress)


def _watched(
    points: Iterable[FrontierSolution], steps: Sequence[object], progress: Progress
) -> Iterable[FrontierSolution]:
    waiting = iter(points)
    for _ in progress(steps, "solving the frontier"):
        yield next(waiting)


def _watched_down(
    points: Iterable[FrontierSolution], low: int, high: int, progress: Progress
) -> Iterable[FrontierSolution]:
    """Show how far the bound has come down, since nobody knows how many points there are."""
    percents = iter(progress(range(_PERCENT), "solving the frontier"))
    shown = 0
    for point in points:
        while shown * (high - low) < _PERCENT * (high - point.bounds[0]):
            next(percents)
            shown += 1
        yield point
    for _ in percents:
        pass


def _row_name(instance: Instance, name: str) -> str:
    row = ROW_OF.get(name.replace("-", "_"), name)
    if row not in instance.row_index:
        known = sorted({*instance.row_index, *(key for key, value in ROW_OF.items() if value in instance.row_index)})
        raise InputError(
            f"cannot sweep {name!r}. What this program has: {', '.join(known)}. Others need --hardware, --context "
            "or --rate."
        )
    return row


def _axis_of(profile: Profile, instance: Instance, name: str) -> FrontierAxis:
    row = instance.row(_row_name(instance, name))
    if row.name != BIT_WEIGHTS:
        return FrontierAxis(name=name, measure=row.measure, step=row.step)
    num_weights = sum(layer.num_weights for layer in decided_layers(profile))
    return FrontierAxis(name=name, measure="bits per weight", step=1.0 / max(num_weights, 1))


def _range(
    instance: Instance, name: str, swept_row: FrontierAxis, lowest: Sequence[str], highest: Sequence[str]
) -> tuple[int, int]:
    row = instance.row(name)
    low = row.fixed + sum(min(amounts) for amounts in row.amounts)
    high = row.fixed + sum(max(amounts) for amounts in row.amounts)
    low = _steps(swept_row, lowest[0]) if lowest else low
    high = _steps(swept_row, highest[0]) if highest else high
    if low > high:
        raise InputError(
            f"the range of {swept_row.name} from {swept_row.show(low)} to {swept_row.show(high)} is empty. Swap "
            "--from and --to."
        )
    return low, high


def _steps(row: FrontierAxis, text: str) -> int:
    amount = exact_number(text) if row.measure in {"bits per weight", ""} else parse_quantity(text, row.measure)
    return int(amount / Fraction(row.step).limit_denominator(10**18))


def _spaced(low: int, high: int, points: str) -> list[int]:
    if not points.isdigit() or not 1 <= int(points) <= 100_000:
        raise InputError(f"--points {points!r} is not a number from 1 to 100000, nor {EVERY!r}.")
    count = int(points)
    return [high] if count == 1 else sorted({low + (high - low) * index // (count - 1) for index in range(count)})


def _point(profile: Profile, instance: Instance, point: FrontierSolution) -> FrontierPoint:
    solution = point.solution
    if solution.choice is None:
        return FrontierPoint(bounds=point.bounds, used=(), status=solution.status.name, seconds=solution.seconds)
    names = [unit.formats[index] for unit, index in zip(instance.units, solution.choice, strict=True)]
    predicted, error = profile.predict(dict(zip((unit.name for unit in instance.units), names, strict=True)))
    decided = [
        (unit.bits[index], layer.num_weights)
        for unit, index, layer in zip(instance.units, solution.choice, profile.record.layers, strict=True)
        if len(unit.formats) > 1
    ]
    return FrontierPoint(
        bounds=point.bounds,
        used=point.used,
        status=solution.status.name,
        objective=solution.proofs[0].value,
        bound=solution.proofs[0].bound,
        predicted_loss_nats=predicted,
        predicted_loss_standard_error_nats=error,
        average_bits=average_bits(decided),
        formats=tuple(names),
        seconds=solution.seconds,
    )
