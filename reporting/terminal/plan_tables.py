"""Two plans side by side, and frontiers, in the terminal.

Knows nothing about how they came about.
"""

from rich.console import Console
from rich.table import Table

from ...common.units import BYTES
from ...planning.pareto import Frontier, FrontierAxis
from ...planning.plan_diff import Difference
from .tables import Column, fitting_table, name_column, number_columns
from .verdicts import render_nats, render_size

_MOST_ROWS = 60
_WIDE = 110  # columns


def print_difference(found: Difference, first: str, second: str, console: Console) -> None:
    """Print where two plans, called ``first`` and ``second``, differ."""
    rows = [
        (change.layer, change.before, change.after, f"{change.stored_bytes:+,}", f"{change.loss_increase_nats:+.6f}")
        for change in found.changes[:_MOST_ROWS]
    ]
    columns = [name_column(heading) for heading in ("layer", first, second)]
    if rows:
        console.print(fitting_table([*columns, *number_columns("bytes", "loss, nats")], rows, console.width))
    if len(found.changes) > _MOST_ROWS:
        console.print(f"… and {len(found.changes) - _MOST_ROWS} more: --json lists them all.")
    console.print(f"{len(found.changes)} of {found.num_layers} layers differ.")
    console.print(_summary(found, first, second, console.width))
    if not found.same_profile:
        console.print("The plans were priced by different profiles: their predicted losses need not compare.")


def _summary(found: Difference, first: str, second: str, width: int) -> Table:
    size, bits, losses = found.stored_bytes, found.average_bits, found.loss_increase_nats
    rows = [
        ("size", *(render_size(value) for value in size), f"{size[1] - size[0]:+,} bytes"),
        ("average bits", *(f"{value:.4f}" for value in bits), f"{bits[1] - bits[0]:+.4f}"),
        ("predicted loss, nats", *(f"{value:.6f}" for value in losses), f"{losses[1] - losses[0]:+.6f}"),
    ]
    plans = [Column(name, gives_way=True) for name in (first, second)]
    return fitting_table((Column("", "left"), *plans, Column("difference")), rows, width)


def print_frontier(found: Frontier, console: Console) -> None:
    """Print the points of a frontier; of a grid what is used only where the console is wide."""
    with_used = len(found.rows) == 1 or console.width >= _WIDE
    columns = [Column(f"{row.name}\nat most") for row in found.rows]
    columns += number_columns(*(["used"] if with_used else []), "bits", "predicted\nloss, nats", "gap", "status")
    rows = []
    for point in found.points:
        bounds = [_amount(row, bound) for row, bound in zip(found.rows, point.bounds, strict=True)]
        if point.objective is None or point.bound is None or point.predicted_loss_nats is None:
            status = "no plan" if point.status == "INFEASIBLE" else point.status.lower()
            rows.append([*bounds, *[""] * (3 + with_used), status])
            continue
        used = ", ".join(_amount(row, amount) for row, amount in zip(found.rows, point.used, strict=True))
        loss = render_nats(point.predicted_loss_nats, point.predicted_loss_standard_error_nats)
        proof = (f"{point.average_bits:.3f}", loss, f"{point.objective - point.bound:.0e}", point.status.lower())
        rows.append([*bounds, *([used] if with_used else []), *proof])
    console.print(fitting_table(columns, rows, console.width))
    console.print(
        f"{len(found.points)} points, each minimising {found.objective}; {found.solver}; "
        f"{sum(point.seconds for point in found.points):.1f} s in all.",
        style="dim",
    )


def _amount(row: FrontierAxis, steps: int) -> str:
    return render_size(int(steps * row.step)) if row.measure == BYTES else row.show(steps)
