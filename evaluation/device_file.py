"""Fitted laws as a device file, as tables and as a picture.

Knows nothing about how laws are fitted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from ..solver.atomic import whole_file
from ..solver.device import Device, Efficiency, Figure
from ..solver.errors import ScantlingError
from ..solver.record_file import Finite, Record
from .device_fit import FittedNumber, LawFit
from .device_points import MeasuredPoints

_PREFIX: Final = "efficiency of "
_FORMATS: Final = (".png", ".svg", ".pdf")
_WRITTEN: Final = {"overhead": (1e3, "ms"), "base_power": (1.0, "W"), "traffic_power": (1.0, "W")}


class NumberRecord(Record):
    """A fitted parameter.

    Attributes:
        name: as device files call it.
        value: in SI units.
        interval_half_width: at 95 %; None where no point is left to tell.
        held_at_zero: whether the points asked for less than zero.
    """

    name: str
    value: Finite
    interval_half_width: Finite | None
    held_at_zero: bool


class LawRecord(Record):
    """A fitted law.

    Attributes:
        law: ``speed`` or ``power``.
        numbers: its parameters.
        num_points: that it was fitted to.
        largest_error: the largest relative residual.
        largest_left_out_error: the largest relative error at a point that a fit to the others predicts; None where no
            point can be left out.
        r_squared: share of the variance that is explained; None where nothing varies.
    """

    law: str
    numbers: tuple[NumberRecord, ...]
    num_points: int
    largest_error: Finite
    largest_left_out_error: Finite | None
    r_squared: Finite | None


def law_record(fit: LawFit) -> LawRecord:
    """Write a fit down.

    Args:
        fit: the fit.

    Returns:
        The record.
    """
    left_out = [abs(r.left_out / r.measured - 1) for r in fit.residuals if r.left_out is not None]
    return LawRecord(
        law=fit.law,
        numbers=tuple(
            NumberRecord(name=n.name, value=n.value, interval_half_width=n.half_width, held_at_zero=n.held)
            for n in fit.numbers
        ),
        num_points=len(fit.residuals),
        largest_error=fit.largest_error,
        largest_left_out_error=max(left_out, default=None),
        r_squared=fit.r_squared,
    )


def device_of(base: Device, fits: Sequence[LawFit], points: MeasuredPoints) -> Device:
    """Put fitted numbers in place of a device's own, and keep its efficiencies of formats that were not fitted.

    Args:
        base: the other numbers; its bandwidth is what efficiencies are shares of.
        fits: of speed, and of power where it was measured.
        points: where the numbers come from.

    Returns:
        The device.
    """
    numbers = [(fit, number) for fit in fits for number in fit.numbers]
    shares = tuple(
        Efficiency(formats=number.name.removeprefix(_PREFIX), share=_figure(number, f"{number.value:.5g}", fit, points))
        for fit, number in numbers
        if number.name.startswith(_PREFIX)
    )
    kept = () if any(share.formats == "*" for share in shares) else base.efficiency
    first = {share.formats for share in shares}
    found = {"efficiency": shares + tuple(share for share in kept if share.formats not in first)}
    scalars = {
        number.name: _figure(number, _with_unit(number), fit, points)
        for fit, number in numbers
        if not number.name.startswith(_PREFIX)
    }
    note = f"Fitted to {len(points.points)} measured points of {points.name}."
    return base.model_copy(update={**found, **scalars, "note": note})


def _with_unit(number: FittedNumber) -> str:
    factor, unit = _WRITTEN[number.name]
    return f"{number.value * factor:.5g} {unit}"


def _figure(number: FittedNumber, value: str, fit: LawFit, points: MeasuredPoints) -> Figure:
    tested = number.half_width is not None
    if number.held:
        words = "held at zero, since the points ask for less"
    elif number.half_width is None:
        words = "no point is left to test it"
    else:
        words = f"± {abs(number.half_width / number.value):.1%} (95 % interval)" if number.value else "95 % interval"
    source = f"least squares fit to {len(fit.residuals)} points of {points.name}, SHA-256 {points.sha256[:16]}: {words}"
    return Figure(value=value, origin="measured" if tested else "estimate", source=source)


def print_devices(devices: Sequence[Device], console: Console) -> None:
    """List devices, with a mark where a number is an estimate.

    Args:
        devices: to be listed.
        console: where.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("memory", "bandwidth", "power\nlimit", "with no\ntraffic", "more when\nfull"):
        table.add_column(heading, justify="right")
    for device in devices:
        figures = [device.memory, device.bandwidth, device.power_limit, device.base_power, device.traffic_power]
        cells = ("–" if one is None else f"{one.value}{' ~' * (one.origin == 'estimate')}" for one in figures)
        table.add_row(device.name, *cells)
    console.print(table)
    console.print("~ estimate; – not known, state yours in a device file")


def print_fits(fits: Sequence[LawFit], console: Console) -> None:
    """Show parameters with their intervals, and every point with its residual.

    Args:
        fits: the fits.
        console: where.
    """
    for fit in fits:
        table = Table(f"{fit.law}: parameter", "value", "95 % interval", box=None, pad_edge=False)
        for number in fit.numbers:
            table.add_row(number.name, *_number_in_words(number))
        console.print(table)
        console.print(_residuals(fit))
        explained = "" if fit.r_squared is None else f", R² {fit.r_squared:.4f}"
        console.print(f"Largest residual {fit.largest_error:.1%}{explained}.\n")


def _number_in_words(number: FittedNumber) -> tuple[str, str]:
    factor, unit = _WRITTEN.get(number.name, (1.0, ""))
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
