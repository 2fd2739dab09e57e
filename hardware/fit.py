"""The laws of decode fitted to measured points by least squares.

Speed: t = b / (η(f) · B) + t0 is linear in the seconds per byte s(f) = 1 / (η(f) B) and in t0. The sum of squared
relative residuals Σ (1 − t̂ / t)² is minimal, since clocks and engines err in proportion. Only s is identified; η needs
the bandwidth B, which is given.

Power: P = P0 + c · u with the utilisation u = b · r / B; the sum of squared residuals in watts is minimal.

Intervals are at 95 %, from Student's t with as many degrees of freedom as there are points beyond parameters; with none
left there are no intervals, and the fit cannot be tested. If the minimum lies at t0 < 0 or P0 < 0, that number is held
at zero, and marked.

Knows nothing about files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..common.errors import InputError
from .points import MeasuredPoint

CONFIDENCE: Final = 0.95
_WELL_CONDITIONED: Final = 1e6
_LARGEST_SHARE: Final = 2.0
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class FittedNumber:
    """A parameter.

    Attributes:
        name: as in hardware files; an efficiency with its formats.
        value: in SI units.
        half_width: of the 95 % interval; None without degrees of freedom, or if held at zero.
        held: whether it is held at zero.
    """

    name: str
    value: float
    half_width: float | None
    held: bool = False


@dataclass(frozen=True)
class Residual:
    """A point and what the fit makes of it.

    Attributes:
        point: the point.
        measured: seconds per token, or watts.
        fitted: likewise.
        left_out: what a fit to all other points predicts here; None if they do not suffice.
    """

    point: MeasuredPoint
    measured: float
    fitted: float
    left_out: float | None


@dataclass(frozen=True)
class LawFit:
    """The fit of one law.

    Attributes:
        law: ``speed`` or ``power``.
        numbers: the parameters.
        residuals: one per point.
    """

    law: str
    numbers: tuple[FittedNumber, ...]
    residuals: tuple[Residual, ...]

    @property
    def largest_error(self) -> float:
        """The largest relative residual."""
        return max(abs(r.fitted / r.measured - 1) for r in self.residuals)

    @property
    def r_squared(self) -> float | None:
        """The share of the measured variance that the fit explains; None if nothing varies."""
        measured = np.array([r.measured for r in self.residuals])
        spread = float(((measured - measured.mean()) ** 2).sum())
        left = sum((r.measured - r.fitted) ** 2 for r in self.residuals)
        return None if spread == 0 else 1 - left / spread

    def number(self, name: str) -> FittedNumber:
        """Return the parameter of this name."""
        return next(found for found in self.numbers if found.name == name)


def fit_speed(points: Sequence[MeasuredPoint], bandwidth: float) -> LawFit:
    """Fit η by format and t0.

    Args:
        points: the measurements.
        bandwidth: B in bytes per second.

    Returns:
        The fit.

    Raises:
        InputError: the points do not identify the parameters, or an efficiency is outside (0, 2].
    """
    formats = list(dict.fromkeys(point.format for point in points))
    design = np.array([[p.read_bytes * (p.format == f) for f in formats] + [1.0] for p in points])
    seconds = np.array([1 / p.tokens_per_second for p in points])
    _require_identified_speed(points, formats, design)
    solution = _least_squares(design / seconds[:, None], np.ones(len(points)))
    numbers = []
    for index, name in enumerate(formats):
        pace, half = float(solution.values[index]), solution.half_width(index)
        share = 1 / (pace * bandwidth) if pace > 0 else float("inf")
        if not 0 < share <= _LARGEST_SHARE:
            raise InputError(
                f"the points give an efficiency of {share:.3g} for {name}, which is not a share of "
                f"{bandwidth / 1e9:.4g} GB/s. Check the bandwidth, the units, and that the bytes are those read, not "
                "those stored; caches that hold the whole model also cause this."
            )
        numbers.append(FittedNumber(f"efficiency of {name}", share, None if half is None else share * half / pace))
    overhead = FittedNumber("overhead", float(solution.values[-1]), solution.half_width(-1), solution.held)
    return LawFit("speed", (*numbers, overhead), _residuals(points, design, seconds, solution, relative=True))


def fit_power(points: Sequence[MeasuredPoint], bandwidth: float) -> LawFit:
    """Fit P0 and c.

    Args:
        points: the measurements; those without watts are skipped.
        bandwidth: B in bytes per second.

    Returns:
        The fit.

    Raises:
        InputError: the points do not identify the parameters, or power falls with traffic.
    """
    powered = [point for point in points if point.watts is not None]
    design = np.array([[p.read_bytes * p.rate / bandwidth, 1.0] for p in powered]).reshape(-1, 2)
    watts = np.array([p.watts for p in powered], dtype=np.float64)
    if len(powered) < 2 or np.linalg.cond(design / np.abs(design).max(axis=0)) > _WELL_CONDITIONED:
        raise InputError(
            f"{len(powered)} point(s) with watts, at {len(set(design[:, 0]))} traffic(s), do not tell base_power from "
            "traffic_power. Missing: watts at a clearly different number of bytes per second, such as a lower rate."
        )
    solution = _least_squares(design, watts)
    slope, base = (float(value) for value in solution.values)
    if slope < 0:
        raise InputError(
            f"the points say that power falls with traffic, by {-slope:.4g} W from none to full bandwidth. Check watts "
            "and rates: each must be an average over the run (10 s and more), of this machine alone."
        )
    numbers = (
        FittedNumber("traffic_power", slope, solution.half_width(0)),
        FittedNumber("base_power", base, solution.half_width(1), solution.held),
    )
    return LawFit("power", numbers, _residuals(powered, design, watts, solution, relative=False))


def fit_laws(points: Sequence[MeasuredPoint], bandwidth: float) -> list[LawFit]:
    """Fit speed, and power if any point has watts; ``bandwidth`` in bytes per second."""
    fits = [fit_speed(points, bandwidth)]
    if any(point.watts is not None for point in points):
        fits.append(fit_power(points, bandwidth))
    return fits


@dataclass(frozen=True)
class _Solution:
    """Values, their covariance, the degrees of freedom, and whether the last value is held at zero."""

    values: Matrix
    covariance: Matrix | None
    freedom: int
    held: bool = False

    def half_width(self, index: int) -> float | None:
        if self.covariance is None or (self.held and index in {-1, len(self.values) - 1}):
            return None
        return float(student.ppf((1 + CONFIDENCE) / 2, self.freedom) * np.sqrt(self.covariance[index, index]))


def _least_squares(design: Matrix, target: Matrix) -> _Solution:
    """Solve with the constant (the number of the last column) not below zero."""
    free = _unconstrained(design, target)
    if free.values[-1] >= 0:
        return free
    rest = _unconstrained(design[:, :-1], target)
    padded = None if rest.covariance is None else np.pad(rest.covariance, (0, 1))
    return _Solution(np.append(rest.values, 0.0), padded, rest.freedom, held=True)


def _unconstrained(design: Matrix, target: Matrix) -> _Solution:
    scale = np.abs(design).max(axis=0)
    values = np.linalg.lstsq(design / scale, target, rcond=None)[0] / scale
    freedom = len(target) - design.shape[1]
    if freedom < 1:
        return _Solution(values, None, freedom)
    variance = float(((design @ values - target) ** 2).sum()) / freedom
    inverse = np.linalg.inv((design / scale).T @ (design / scale)) / np.outer(scale, scale)
    return _Solution(values, variance * inverse, freedom)


def _residuals(
    points: Sequence[MeasuredPoint], design: Matrix, measured: Matrix, solution: _Solution, *, relative: bool
) -> tuple[Residual, ...]:
    weight = measured if relative else np.ones(len(measured))
    fitted = design @ solution.values
    found = []
    for index, point in enumerate(points):
        others = np.arange(len(points)) != index
        kept = design[others] / weight[others, None]
        left_out = None
        if len(kept) >= design.shape[1] and _identified(kept):
            values = _least_squares(kept, measured[others] / weight[others]).values
            left_out = float(design[index] @ values)
        found.append(Residual(point, float(measured[index]), float(fitted[index]), left_out))
    return tuple(found)


def _identified(design: Matrix) -> bool:
    largest = np.abs(design).max(axis=0)
    return bool((largest > 0).all()) and float(np.linalg.cond(design / largest)) < _WELL_CONDITIONED


def _require_identified_speed(points: Sequence[MeasuredPoint], formats: list[str], design: Matrix) -> None:
    if len(points) > len(formats) > 0 and _identified(design):
        return
    sizes = {name: len({p.read_bytes for p in points if p.format == name}) for name in formats}
    listed = ", ".join(f"{name}: {count} size{'s' if count > 1 else ''}" for name, count in sizes.items())
    raise InputError(
        f"{len(points)} point(s) do not identify {len(formats)} efficienc{'ies' if len(formats) > 1 else 'y'} and the "
        f"overhead ({listed or 'no points'}). Missing: one more model size, clearly different, in at least one of "
        "these formats; or write * as the format of all points, for one efficiency."
    )
