"""Hardware in the terminal: known, measured and fitted.

Knows nothing about how anything was measured.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...common.units import render_bytes
from ...hardware.fit import FittedNumber, LawFit
from ...hardware.fitted_file import WRITTEN_UNITS
from ...hardware.measured_hardware import MeasuredHardware
from ...hardware.specification import Hardware
from .pictures import figure_class, save_picture
from .tables import Column, fitting_table, name_column, number_columns


def print_measured(found: MeasuredHardware, console: Console) -> None:
    """Print what was measured."""
    console.print(
        f"Memory was read at {found.read_bytes_per_second / 1e9:.1f} GB/s at best, "
        f"{found.median_bytes_per_second / 1e9:.1f} in the median (measured). Run by {found.engine}."
    )
    console.print(_runs(found, console.width))
    for words in (*found.not_read, found.law_not_tested):
        if words:
            console.print(words)


def _runs(found: MeasuredHardware, width: int) -> Table:
    headings = [
        found.counted,
        "read a\ntoken",
        "measured\ntok/s",
        "in the\nmedian",
        f"from fewer\n{found.counted}",
        "error",
    ]
    rows = []
    for row in found.runs:
        predicted, measured = row.predicted_tokens_per_second, row.measured_tokens_per_second
        compared = ("", "") if predicted is None else (f"{predicted:.4g}", f"{predicted / measured - 1:+.1%}")
        cells = [row.format, str(row.num_blocks), render_bytes(row.read_bytes).split(" (")[0], f"{measured:.4g}"]
        cells += [f"{row.median_tokens_per_second:.4g}", *compared]
        rows.append([*cells, *([f"{row.measured_watts:.4g}"] if found.energy_counters else [])])
    headings += ["measured\nW"] if found.energy_counters else []
    return fitting_table((name_column("format"), *number_columns(*headings)), rows, width)


def print_hardware(machines: Sequence[Hardware], console: Console) -> None:
    """List hardware, with a mark where a number is an estimate."""
    rows = []
    for hardware in machines:
        figures = [
            hardware.memory,
            hardware.bandwidth,
            hardware.power_limit,
            hardware.base_power,
            hardware.traffic_power,
        ]
        cells = ("–" if one is None else f"{one.value}{' ~' * (one.origin == 'estimate')}" for one in figures)
        rows.append((hardware.name, *cells))
    headings = ("memory", "bandwidth", "power\nlimit", "with no\ntraffic", "more when\nfull")
    console.print(fitting_table((name_column(""), *number_columns(*headings)), rows, console.width))
    console.print("~ estimate; – not known, state yours in a hardware file")


def print_fits(fits: Sequence[LawFit], console: Console) -> None:
    """Print parameters with their intervals, and every point with its residual."""
    for fit in fits:
        columns = (name_column(f"{fit.law}: parameter"), Column("value", "left"), Column("95 % interval", "left"))
        rows = [(number.name, *_describe_number(number)) for number in fit.numbers]
        console.print(fitting_table(columns, rows, console.width))
        console.print(_residuals(fit, console.width))
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


def _residuals(fit: LawFit, width: int) -> Table:
    unit, scale = ("ms", 1e3) if fit.law == "speed" else ("W", 1.0)
    rows = []
    for r in fit.residuals:
        left_out = "–" if r.left_out is None else f"{r.left_out / r.measured - 1:+.1%}"
        amounts = (f"{r.point.read_bytes / 1e9:.4g}", f"{r.measured * scale:.4g}", f"{r.fitted * scale:.4g}")
        rows.append((r.point.format, *amounts, f"{r.fitted / r.measured - 1:+.1%}", left_out))
    headings = ("GB read", f"measured {unit}", f"fitted {unit}", "residual", "error if left out")
    return fitting_table((name_column("format"), *number_columns(*headings)), rows, width)


def draw_fits(fits: Sequence[LawFit], title: str, path: Path) -> None:
    """Draw measured against fitted, one panel a law, as a .png, .svg or .pdf file."""
    picture = figure_class(path)(figsize=(5 * len(fits), 4.5), layout="constrained")
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
    save_picture(picture, path)
