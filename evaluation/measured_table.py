"""What was measured of a machine, as a record and as tables, with predictions of what was left out.

Knows nothing about how it was measured.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..solver.errors import ScantlingError
from ..solver.quantities import show_bytes
from ..solver.record_file import Finite, Record
from .decode_engines import DecodeEngine
from .device_fit import fit_speed
from .device_points import MeasuredPoint
from .measure_device import Measured, Stream


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


class MeasuredDevice(Record):
    """What ``device measure`` found.

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


def measured_points(found: Sequence[Measured]) -> list[MeasuredPoint]:
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


def measured_device(
    found: Sequence[Measured], stream: Stream, engine: DecodeEngine, counters: tuple[tuple[str, ...], tuple[str, ...]]
) -> MeasuredDevice:
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
    return MeasuredDevice(
        engine=engine.name,
        counted=engine.counted,
        read_bytes_per_second=stream.read_bytes_per_second,
        median_bytes_per_second=stream.median_bytes_per_second,
        energy_counters=counters[0],
        not_read=counters[1],
        runs=runs,
        law_not_tested=why,
    )


def print_measured(found: MeasuredDevice, console: Console) -> None:
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
        cells = [str(row.num_blocks), show_bytes(row.read_bytes).split(" (")[0]]
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
