"""Fitted laws as records and as hardware files.

Knows nothing about how laws are fitted.
"""

from collections.abc import Sequence
from typing import Final

from ..common.records import Finite, Record
from .fit import FittedNumber, LawFit
from .points import MeasuredPoints
from .specification import FormatEfficiency, Hardware, SourcedNumber

_PREFIX: Final = "efficiency of "
WRITTEN_UNITS: Final = {"overhead": (1e3, "ms"), "base_power": (1.0, "W"), "traffic_power": (1.0, "W")}


class NumberRecord(Record):
    """A fitted parameter.

    Attributes:
        name: as in hardware files.
        value: in SI units.
        interval_half_width: at 95 %; None without degrees of freedom.
        held_at_zero: whether the points alone would give less than zero.
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
        num_points: the number of points fitted.
        largest_error: the largest relative residual.
        largest_left_out_error: the largest relative error at a point predicted from the others; None if no point can be
            left out.
        r_squared: share of the variance that is explained; None if nothing varies.
    """

    law: str
    numbers: tuple[NumberRecord, ...]
    num_points: int
    largest_error: Finite
    largest_left_out_error: Finite | None
    r_squared: Finite | None


def law_record(fit: LawFit) -> LawRecord:
    """Turn a fit into its record."""
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


def hardware_of(base: Hardware, fits: Sequence[LawFit], points: MeasuredPoints) -> Hardware:
    """Replace a machine's numbers by fitted ones; efficiencies of formats that were not fitted are kept.

    Args:
        base: the other numbers; efficiencies are shares of its bandwidth.
        fits: of speed, and of power if it was measured.
        points: where the numbers come from.

    Returns:
        The machine.
    """
    numbers = [(fit, number) for fit in fits for number in fit.numbers]
    shares = tuple(
        FormatEfficiency(
            formats=number.name.removeprefix(_PREFIX), share=_figure(number, f"{number.value:.5g}", fit, points)
        )
        for fit, number in numbers
        if number.name.startswith(_PREFIX)
    )
    kept = () if any(share.formats == "*" for share in shares) else base.efficiency
    fitted = {share.formats for share in shares}
    efficiency = {"efficiency": shares + tuple(share for share in kept if share.formats not in fitted)}
    scalars = {
        number.name: _figure(number, _with_unit(number), fit, points)
        for fit, number in numbers
        if not number.name.startswith(_PREFIX)
    }
    note = f"Fitted to {len(points.points)} measured points of {points.name}."
    return base.model_copy(update={**efficiency, **scalars, "note": note})


def _with_unit(number: FittedNumber) -> str:
    factor, unit = WRITTEN_UNITS[number.name]
    return f"{number.value * factor:.5g} {unit}"


def _figure(number: FittedNumber, value: str, fit: LawFit, points: MeasuredPoints) -> SourcedNumber:
    tested = number.half_width is not None
    if number.held:
        remark = "held at zero, since the points alone would give less"
    elif number.half_width is None:
        remark = "no point is left to test it"
    else:
        remark = f"± {abs(number.half_width / number.value):.1%} (95 % interval)" if number.value else "95 % interval"
    source = (
        f"least squares fit to {len(fit.residuals)} points of {points.name}, SHA-256 {points.sha256[:16]}: {remark}"
    )
    return SourcedNumber(value=value, origin="measured" if tested else "estimate", source=source)
