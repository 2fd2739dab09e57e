"""Two plans side by side, and frontiers, in the terminal.

Knows nothing about how they came about.
"""

from rich.console import Console
from rich.table import Table

from ...common.units import BYTES
from ...planning.pareto import Frontier, FrontierAxis
from ...planning.plan_diff import Difference
from .verdicts import render_nats, render_size

_MOST_ROWS = 60


def print_difference(found: Difference, first: str, second: str, console: Console) -> None:
    """Print where two plans, called ``first`` and ``second``, differ."""
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", first, second):
        table.add_column(heading, overflow="fold")
    for heading in ("bytes", "predicted\nloss, nats"):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in found.changes[:_MOST_ROWS]:
        table.add_row(
            change.layer, change.before, change.after, f"{change.stored_bytes:+,}", f"{change.loss_increase_nats:+.6f}"
        )
    if found.changes:
        console.print(table)
    if len(found.changes) > _MOST_ROWS:
        console.print(f"… and {len(found.changes) - _MOST_ROWS} more: --json lists them all.")
    console.print(f"{len(found.changes)} of {found.num_layers} layers differ.")
    summary = Table("", box=None, pad_edge=False)
    for heading in (first, second, "difference"):
        summary.add_column(heading, justify="right", overflow="fold")
    bytes_, bits, losses = found.stored_bytes, found.average_bits, found.loss_increase_nats
    summary.add_row("stored", *(render_size(value) for value in bytes_), f"{bytes_[1] - bytes_[0]:+,} bytes")
    summary.add_row("average bits", *(f"{value:.4f}" for value in bits), f"{bits[1] - bits[0]:+.4f}")
    summary.add_row("predicted loss, nats", *(f"{value:.6f}" for value in losses), f"{losses[1] - losses[0]:+.6f}")
    console.print(summary)
    if not found.same_profile:
        console.print("The plans were priced by different profiles: their predicted losses need not compare.")


def print_frontier(found: Frontier, console: Console) -> None:
    """Print the points of a frontier."""
    table = Table(box=None, pad_edge=False)
    for row in found.rows:
        table.add_column(f"{row.name}\nat most", overflow="fold")
    for heading in ("used", "bits", "predicted\nloss, nats", "gap", "status"):
        table.add_column(heading, justify="right")
    for point in found.points:
        bounds = [_amount(row, bound) for row, bound in zip(found.rows, point.bounds, strict=True)]
        if point.objective is None or point.bound is None or point.predicted_loss_nats is None:
            table.add_row(*bounds, "", "", "", "", "no plan" if point.status == "INFEASIBLE" else point.status.lower())
            continue
        used = "\n".join(_amount(row, amount) for row, amount in zip(found.rows, point.used, strict=True))
        loss = render_nats(point.predicted_loss_nats, point.predicted_loss_standard_error_nats)
        gap = point.objective - point.bound
        table.add_row(*bounds, used, f"{point.average_bits:.3f}", loss, f"{gap:.0e}", point.status.lower())
    console.print(table)
    console.print(
        f"{len(found.points)} points, each minimising {found.objective}; {found.solver}; "
        f"{sum(point.seconds for point in found.points):.1f} s in all.",
        style="dim",
    )


def _amount(row: FrontierAxis, steps: int) -> str:
    return render_size(int(steps * row.step)) if row.measure == BYTES else row.show(steps)
