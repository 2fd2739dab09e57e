"""Energy counters of this machine: NVML for NVIDIA devices, RAPL for Intel and AMD processors.

A counter is read before and after a window; the difference over the time is the average power of what it covers. NVML's
power reading is an average over a second on most cards, so its energy counter is used, and windows of 10 seconds.

Knows nothing about what draws the energy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RAPL_FOLDER: Final = Path("/sys/class/powercap")
SECONDS_OF_A_WINDOW: Final = 10.0
_MICRO, _MILLI = 1e-6, 1e-3


@dataclass(frozen=True)
class EnergyMeter:
    """A counter of joules.

    Attributes:
        name: what it covers.
        read: returns joules since some moment.
        wraps_at: joules at which it starts again from 0; None if it does not.
    """

    name: str
    read: Callable[[], float]
    wraps_at: float | None = None

    def between(self, before: float, after: float) -> float:
        """Return the joules between two readings, at most one wrap apart."""
        return after - before if after >= before or self.wraps_at is None else after - before + self.wraps_at


@dataclass(frozen=True)
class Meters:
    """The counters of this machine.

    Attributes:
        found: the readable ones.
        missing: one sentence per kind of counter that could not be read.
    """

    found: tuple[EnergyMeter, ...]
    missing: tuple[str, ...]


def find_meters(rapl_folder: Path = RAPL_FOLDER) -> Meters:
    """Look for energy counters; RAPL is looked up in ``rapl_folder``."""
    gpu, why_no_gpu = _nvml()
    processor, why_no_processor = _rapl(rapl_folder)
    return Meters((*gpu, *processor), tuple(reason for reason in (why_no_gpu, why_no_processor) if reason))


def _nvml() -> tuple[list[EnergyMeter], str]:
    try:
        import pynvml  # noqa: PLC0415 - an extra
    except ImportError:
        return [], "NVML was not read: nvidia-ml-py is not installed (pip install 'scantling[nvml]')."
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return [], f"NVML was not read: {error}."
    counter = pynvml.nvmlDeviceGetTotalEnergyConsumption
    meters = [
        EnergyMeter(f"NVML {index}: {pynvml.nvmlDeviceGetName(handle)}", _scaled(counter, handle))
        for index, handle in enumerate(handles)
    ]
    return meters, "" if meters else "NVML has no device."


def _scaled(counter: Callable[[object], float], handle: object) -> Callable[[], float]:
    return lambda: counter(handle) * _MILLI


def _rapl(folder: Path) -> tuple[list[EnergyMeter], str]:
    zones = sorted(zone for zone in folder.glob("*-rapl:*") if zone.name.count(":") == 1)
    if not zones:
        return [], f"RAPL was not read: {folder} has no zone (a virtual machine, or no Intel or AMD processor)."
    meters = []
    for zone in zones:
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            wraps_at = float((zone / "max_energy_range_uj").read_text(encoding="ascii")) * _MICRO
            counter = zone / "energy_uj"
            float(counter.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            return [], f"RAPL was not read: {error}. On most systems only root may read the counters."
        meters.append(EnergyMeter(f"RAPL {name}", _reader(counter), wraps_at))
    return meters, ""


def _reader(counter: Path) -> Callable[[], float]:
    return lambda: float(counter.read_text(encoding="ascii")) * _MICRO
