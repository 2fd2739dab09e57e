"""Measuring this machine: how fast memory is read, how fast models decode, what that draws.

Bandwidth: the fastest of several passes over an array much larger than the caches. Speed: the lowest decile of the
tokens' times, since other work on the machine only ever delays; the median is kept beside it, and if the two are far
apart the machine was busy. Power: joules of the counters over the whole window.

Knows nothing about terminals.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from ..common.errors import InputError, ScantlingError
from ..common.files import whole_file
from ..common.progress import Progress
from .energy_meters import EnergyMeter
from .points import COLUMNS
from .runtimes import DecodeRun, DecodeRuntime

_PASSES: Final = 7
_WARM_UP, _FEWEST, _MOST = 3, 16, 256
DEFAULT_ARRAY_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class StreamBandwidth:
    """How fast memory is read.

    Attributes:
        read_bytes_per_second: the fastest pass.
        median_bytes_per_second: of all passes.
        array_bytes: read in one pass.
        threads: that read.
    """

    read_bytes_per_second: float
    median_bytes_per_second: float
    array_bytes: int
    threads: int


def stream_bandwidth(array_bytes: int = DEFAULT_ARRAY_BYTES) -> StreamBandwidth:
    """Read a large array repeatedly.

    Args:
        array_bytes: the size of the array.

    Returns:
        The rates.

    Raises:
        InputError: there is no memory for the array.
        ScantlingError: memory does not return what was written.
    """
    try:
        array = torch.ones(array_bytes // 8, dtype=torch.int64)
    except RuntimeError as error:
        raise InputError(f"no memory for an array of {array_bytes:,} bytes. Give less with --array.") from error
    rates = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        total = array.sum()
        rates.append(array.numel() * 8 / (time.perf_counter() - began))
        if int(total) != array.numel():
            raise ScantlingError("this machine's memory does not return what was written. Do not use it.")
    return StreamBandwidth(max(rates), statistics.median(rates), array.numel() * 8, torch.get_num_threads())


@dataclass(frozen=True)
class MeasuredRun:
    """A run and its measurements.

    Attributes:
        format: of its matrices.
        num_blocks: of the model, whole or cut; or matrices.
        whole: whether it has all its blocks.
        read_bytes: per token, without the cache.
        seconds_per_token: the lowest decile of the tokens' times.
        seconds_median: their median.
        num_tokens: in the window.
        joules: of all counters together in the window; None without counters.
        window_seconds: of the window.
    """

    format: str
    num_blocks: int
    whole: bool
    read_bytes: int
    seconds_per_token: float
    seconds_median: float
    num_tokens: int
    joules: float | None
    window_seconds: float

    @property
    def watts(self) -> float | None:
        """Average power of what the counters cover; None without counters."""
        return None if self.joules is None else self.joules / self.window_seconds

    @property
    def delivered_tokens_per_second(self) -> float:
        """Tokens over the whole window, the rate at which ``watts`` was drawn."""
        return self.num_tokens / self.window_seconds


def measure_runs(
    runtime: DecodeRuntime, seconds: float, meters: Sequence[EnergyMeter], progress: Progress
) -> list[MeasuredRun]:
    """Decode every run for a while.

    Args:
        runtime: provides the runs, one at a time.
        seconds: the shortest window.
        meters: energy counters.
        progress: reports progress.

    Returns:
        The measurements.
    """
    found = []
    for run in runtime.runs():
        for _ in progress([run], f"{run.format}, {run.num_blocks} {runtime.counted}"):
            found.append(_measured(run, seconds, meters))
    return found


def _measured(run: DecodeRun, seconds: float, meters: Sequence[EnergyMeter]) -> MeasuredRun:
    step = run.begin()
    for _ in range(_WARM_UP):
        step()
    times: list[float] = []
    step = run.begin()
    before = [meter.read() for meter in meters]
    window = time.perf_counter()
    while len(times) < _FEWEST or time.perf_counter() - window < seconds:
        if len(times) % _MOST == _MOST - 1:  # a fresh text, so that the cache stays small
            step = run.begin()
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    elapsed = time.perf_counter() - window
    joules = sum(meter.between(start, meter.read()) for meter, start in zip(meters, before, strict=True))
    undisturbed, median = (float(q) for q in np.quantile(times, (0.1, 0.5)))
    return MeasuredRun(
        run.format,
        run.num_blocks,
        run.whole,
        run.read_bytes,
        undisturbed,
        median,
        len(times),
        joules if meters else None,
        elapsed,
    )


def write_points(found: Sequence[MeasuredRun], heading: Sequence[str], path: Path) -> None:
    """Write the measurements as a CSV file for ``hardware fit``, with a heading of comment lines."""
    lines = [f"# {line}" for line in heading] + [",".join(COLUMNS)]
    for run in found:
        speed = 1 / run.seconds_per_token
        cells = [run.format, f"{run.read_bytes} B", f"{speed:.6g} tok/s"]
        rate = min(run.delivered_tokens_per_second, speed)
        cells += ["", ""] if run.watts is None else [f"{run.watts:.6g} W", f"{rate:.6g} tok/s"]
        lines.append(",".join(cells))
    with whole_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
