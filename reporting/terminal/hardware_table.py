"""What was measured of a machine, as a record and as tables, with predictions of what was left out.

Knows nothing about how it was measured.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...common.errors import ScantlingError
from ...common.files import whole_file
from ...common.records import Finite, Record
from ...common.units import render_bytes
from ...hardware.fit import FittedNumber, LawFit, fit_speed
from ...hardware.fitted_file import WRITTEN_UNITS
from ...hardware.measure import MeasuredRun, StreamBandwidth
from ...hardware.points import MeasuredPoint
from ...hardware.runtimes import DecodeRuntime
from ...hardware.specification import Hardware

_FORMATS = (".png", ".svg", ".pdf")


class RunRecord(Record):
    """One model in one format.

    Attributes:
        format: of its matrices.
        num_blocks: of the model, whole or cut; or matrices.
        whole: whether it has all its blocks.
        read_bytes: for one token; exact.
        measured_tokens_per_second: from the lowest decile of the tokens' times.
        median_tokens_per_second: from their median; much lower where other work disturbed.
        predicted_tokens_per_second: for a whole model, by the law fitted to the cut ones; None where these do not
            suffice, and for cut models.
        measured_watts: None where no counter could be read.
    """

    format: str
    num_blocks: int
    whole: bool
    read_bytes: int
    measured_tokens_per_second: Finite
    median_tokens_per_second: Finite
    predicted_tokens_per_second: Finite | None
    measured_watts: Finite | None


class MeasuredHardware(Record):
    """What ``hardware measure`` found.

    Attributes:
        engine: that decoded.
        counted: what a run has many of: blocks or matrices.
        read_bytes_per_second: fastest pass over a large array; measured.
        median_bytes_per_second: of all passes.
        energy_counters: their names.
        not_read: counters that could not be read, and why.
        runs: the models.
        law_not_tested: why whole models are not predicted; empty where they are.
    """

    engine: str
    counted: str
    read_bytes_per_second: Finite
    median_bytes_per_second: Finite
    energy_counters: tuple[str, ...]
    not_read: tuple[str, ...]
    runs: tuple[RunRecord, ...]
    law_not_tested: str


def measured_points(found: Sequence[MeasuredRun]) -> list[MeasuredPoint]:
    """Turn runs into points that laws are fitted to.

    Args:
        found: what was measured.

    Returns:
        The points, in the same order.
    """
    points = []
    for run in found:
        speed = 1 / run.seconds_per_token
        rate = speed if run.watts is None else min(run.delivered_tokens_per_second, speed)
        points.append(MeasuredPoint(run.format, run.read_bytes, speed, run.watts, rate))
    return points


def measured_hardware(
    found: Sequence[MeasuredRun],
    stream: StreamBandwidth,
    engine: DecodeRuntime,
    counters: tuple[tuple[str, ...], tuple[str, ...]],
) -> MeasuredHardware:
    """Put together what was measured, and predict the whole models from the cut ones.

    Args:
        found: runs.
        stream: how fast memory is read.
        engine: that decoded.
        counters: names of those that were read, and sentences about those that were not.

    Returns:
        The record.
    """
    cut = [point for run, point in zip(found, measured_points(found), strict=True) if not run.whole]
    predicted: dict[int, float] = {}
    why = ""
    try:
        law = fit_speed(cut, stream.read_bytes_per_second)
        for index, run in enumerate(found):
            if run.whole:
                share = law.number(f"efficiency of {run.format}").value
                seconds = run.read_bytes / (share * stream.read_bytes_per_second) + law.number("overhead").value
                predicted[index] = 1 / seconds
    except (ScantlingError, StopIteration) as error:
        why = f"whole models were not predicted from cut ones: {error or 'a format was measured whole alone'}"
    runs = tuple(
        RunRecord(
            format=run.format,
            num_blocks=run.num_blocks,
            whole=run.whole,
            read_bytes=run.read_bytes,
            measured_tokens_per_second=1 / run.seconds_per_token,
            median_tokens_per_second=1 / run.seconds_median,
            predicted_tokens_per_second=predicted.get(index),
            measured_watts=run.watts,
        )
        for index, run in enumerate(found)
    )
    return MeasuredHardware(
        engine=engine.name,
        counted=engine.counted,
        read_bytes_per_second=stream.read_bytes_per_second,
        median_bytes_per_second=stream.median_bytes_per_second,
        energy_counters=counters[0],
        not_read=counters[1],
        runs=runs,
        law_not_tested=why,
    )


def print_measured(found: MeasuredHardware, console: Console) -> None:
    """Show what was measured.

    Args:
        found: the record.
        console: where.
    """
    console.print(
        f"Memory was read at {found.read_bytes_per_second / 1e9:.1f} GB/s at best, "
        f"{found.median_bytes_per_second / 1e9:.1f} in the median (measured). Run by {found.engine}."
    )
    table = Table("format", box=None, pad_edge=False)
    headings = [
        found.counted,
        "read a token",
        "measured\ntok/s",
        "in the\nmedian",
        f"predicted from\nfewer {found.counted}",
        "error",
    ]
    for heading in [*headings, *(["measured\nW"] if found.energy_counters else [])]:
        table.add_column(heading, justify="right")
    for row in found.runs:
        predicted = row.predicted_tokens_per_second
        cells = [str(row.num_blocks), render_bytes(row.read_bytes).split(" (")[0]]
        cells += [f"{row.measured_tokens_per_second:.4g}", f"{row.median_tokens_per_second:.4g}"]
        cells += ["", ""] if predicted is None else [
            f"{predicted:.4g}", f"{predicted / row.measured_tokens_per_second - 1:+.1%}"
        ]  # fmt: skip
        cells += [] if not found.energy_counters else [f"{row.measured_watts:.4g}"]
        table.add_row(row.format, *cells)
    console.print(table)
    for words in (*found.not_read, found.law_not_tested):
        if words:
            console.print(words)


def print_hardware(machines: Sequence[Hardware], console: Console) -> None:
    """List machines, with a mark where a number is an estimate.

    Args:
        machines: to be listed.
        console: where.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("memory", "bandwidth", "power\nlimit", "with no\ntraffic", "more when\nfull"):
        table.add_column(heading, justify="right")
    for hardware in machines:
        figures = [
            hardware.memory,
            hardware.bandwidth,
            hardware.power_limit,
            hardware.base_power,
            hardware.traffic_power,
        ]
        cells = ("–" if one is None else f"{one.value}{' ~' * (one.origin == 'estimate')}" for one in figures)
        table.add_row(hardware.name, *cells)
    console.print(table)
    console.print("~ estimate; – not known, state yours in a hardware file")


def print_fits(fits: Sequence[LawFit], console: Console) -> None:
    """Show parameters with their intervals, and every point with its residual.

    Args:
        fits: the fits.
        console: where.
    """
    for fit in fits:
        table = Table(f"{fit.law}: parameter", "value", "95 % interval", box=None, pad_edge=False)
        for number in fit.numbers:
            table.add_row(number.name, *_describe_number(number))
        console.print(table)
        console.print(_residuals(fit))
        explained = "" if fit.r_squared is None else f", R² {fit.r_squared:.4f}"
        console.print(f"Largest residual {fit.largest_error:.1%}{explained}.\n")


def _describe_number(number: FittedNumber) -> tuple[str, str]:
    factor, unit = WRITTEN_UNITS.get(number.name, (1.0, ""))
    value = f"{number.value * factor:.4g} {unit}".strip()
    if number.held:
        return value, "held at zero: the points ask for less"
    if number.half_width is None:
        return value, "unknown: as many parameters as points"
    low, high = ((number.value + sign * number.half_width) * factor for sign in (-1, 1))
    return value, f"{low:.4g} to {high:.4g} {unit}".strip()


def _residuals(fit: LawFit) -> Table:
    unit, scale = ("ms", 1e3) if fit.law == "speed" else ("W", 1.0)
    table = Table("format", box=None, pad_edge=False)
    for heading in ("GB read", f"measured {unit}", f"fitted {unit}", "residual", "error if left out"):
        table.add_column(heading, justify="right")
    for r in fit.residuals:
        left_out = "–" if r.left_out is None else f"{r.left_out / r.measured - 1:+.1%}"
        cells = (f"{r.point.read_bytes / 1e9:.4g}", f"{r.measured * scale:.4g}", f"{r.fitted * scale:.4g}")
        table.add_row(r.point.format, *cells, f"{r.fitted / r.measured - 1:+.1%}", left_out)
    return table


def draw_fits(fits: Sequence[LawFit], title: str, path: Path) -> None:
    """Draw measured against fitted, one panel a law.

    Args:
        fits: the fits.
        title: of the picture.
        path: a .png, .svg or .pdf file.

    Raises:
        ScantlingError: another kind of file, or matplotlib is not installed.
    """
    if path.suffix not in _FORMATS:
        raise ScantlingError(f"cannot draw {path}: give a name that ends in {', '.join(_FORMATS)}.")
    try:
        from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ScantlingError("pictures need matplotlib: pip install 'scantling[pictures]'") from error
    picture = Picture(figsize=(5 * len(fits), 4.5), layout="constrained")
    for axes, fit in zip(picture.subplots(1, len(fits), squeeze=False)[0], fits, strict=True):
        unit, scale = ("ms per token", 1e3) if fit.law == "speed" else ("W", 1.0)
        for name in dict.fromkeys(r.point.format for r in fit.residuals):
            chosen = [r for r in fit.residuals if r.point.format == name]
            measured, fitted = ([getattr(r, side) * scale for r in chosen] for side in ("measured", "fitted"))
            axes.plot(fitted, measured, "o", label=name)
        ends = [pick(r.measured * scale for r in fit.residuals) for pick in (min, max)]
        axes.plot(ends, ends, "-", color="grey", linewidth=1, label="fitted = measured")
        axes.set(xlabel=f"fitted, {unit}", ylabel=f"measured, {unit}", title=fit.law)
        axes.grid(alpha=0.3)
        axes.legend()
    picture.suptitle(title, fontsize=9)
    with whole_file(path) as partial:
        picture.savefig(partial, format=path.suffix[1:], dpi=150)
