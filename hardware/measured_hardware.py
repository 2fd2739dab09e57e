"""What was measured of a machine, as a record, with predictions of what was left out.

Knows nothing about how it was measured.
"""

from collections.abc import Sequence

from ..common.errors import ScantlingError
from ..common.records import Finite, Record
from .fit import fit_speed
from .measure import MeasuredRun, StreamBandwidth
from .points import MeasuredPoint
from .runtimes import DecodeRuntime


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
    """The points that laws are fitted to, in the order of the runs."""
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
    """Record what was measured, and predict the whole models from the cut ones.

    Args:
        found: runs.
        stream: how fast memory is read.
        engine: that decoded.
        counters: names of those that were read, and sentences about those that were not.

    Returns:
        The record.
    """
    predicted, why = _predict_whole_models(found, stream)
    return MeasuredHardware(
        engine=engine.name,
        counted=engine.counted,
        read_bytes_per_second=stream.read_bytes_per_second,
        median_bytes_per_second=stream.median_bytes_per_second,
        energy_counters=counters[0],
        not_read=counters[1],
        runs=tuple(_record(run, predicted.get(index)) for index, run in enumerate(found)),
        law_not_tested=why,
    )


def _predict_whole_models(found: Sequence[MeasuredRun], stream: StreamBandwidth) -> tuple[dict[int, float], str]:
    """Tokens per second of the whole models, by their index; and why not, where the cut ones do not suffice."""
    cut = [point for run, point in zip(found, measured_points(found), strict=True) if not run.whole]
    predicted: dict[int, float] = {}
    try:
        law = fit_speed(cut, stream.read_bytes_per_second)
        for index, run in enumerate(found):
            if run.whole:
                share = law.number(f"efficiency of {run.format}").value
                seconds = run.read_bytes / (share * stream.read_bytes_per_second) + law.number("overhead").value
                predicted[index] = 1 / seconds
    except (ScantlingError, StopIteration) as error:
        return (
            predicted,
            f"whole models were not predicted from cut ones: {error or 'a format was measured whole alone'}",
        )
    return predicted, ""


def _record(run: MeasuredRun, predicted: float | None) -> RunRecord:
    return RunRecord(
        format=run.format,
        num_blocks=run.num_blocks,
        whole=run.whole,
        read_bytes=run.read_bytes,
        measured_tokens_per_second=1 / run.seconds_per_token,
        median_tokens_per_second=1 / run.seconds_median,
        predicted_tokens_per_second=predicted,
        measured_watts=run.watts,
    )
