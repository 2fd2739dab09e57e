"""A comparison in the terminal: the verdict, the rows, the widths, the layers that changed.

Knows nothing about how it was measured.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ...evaluation.comparison import Comparison, FormatChange
from .tables import Column, fitting_table, name_column, number_columns
from .verdicts import comparison_verdict, render_difference, render_nats, render_signed, render_size

_MOST_CHANGES = 8
_WIDE = 110  # columns
_BLOCKS_A_LINE = 10


def print_comparison(comparison: Comparison, console: Console, *, details: bool = True) -> None:
    """Print a comparison, the verdict first; without ``details`` only the rows and how they were measured."""
    console.print(comparison_verdict(comparison), style="bold")
    wide = console.width >= _WIDE
    console.print(_rows(comparison, console.width, wide=wide))
    if details:
        _print_details(comparison, console, wide=wide)
    console.print(_describe_method(comparison), style="dim")


def _print_details(comparison: Comparison, console: Console, *, wide: bool) -> None:
    if not wide and comparison.differences:
        console.print(_differences(comparison, console.width))
    for row in comparison.entries:
        if row.says and row.role == "baseline":
            console.print(f"{row.name}: {row.says}.", style="dim")
    for reason in comparison.left_out:
        console.print(f"Left out, {reason}")
    console.print()
    _print_widths(comparison, console)
    _print_changes(comparison, console, wide=wide)
    console.print()


def _rows(comparison: Comparison, width: int, *, wide: bool) -> Table:
    headings = ["size", "bits", "predicted\nKL", "measured\nKL", "ppl"]
    columns = number_columns(*headings, *(["plan better by\nKL (interval)"] if wide else []))
    differences = {found.other: render_difference(found) for found in comparison.differences}
    rows = [
        (
            row.name,
            render_size(row.stored_bytes),
            f"{row.average_bits:.2f}",
            render_nats(row.predicted_kl_nats, row.predicted_kl_standard_error_nats) if row.role != "original" else "0",
            render_nats(row.measured_kl_nats, row.measured_kl_standard_error_nats) if row.role != "original" else "0",
            f"{row.measured_perplexity:.2f}",
            *([differences.get(row.name, "")] if wide else []),
        )
        for row in comparison.entries
    ]
    styles = ["bold" if row.role == "plan" else "" for row in comparison.entries]
    return fitting_table((name_column(""), *columns), rows, width, styles=styles)


def _differences(comparison: Comparison, width: int) -> Table:
    columns = (name_column("plan better by, KL (interval)"), Column(""))
    rows = [(f"than {found.other}", render_difference(found)) for found in comparison.differences]
    return fitting_table(columns, rows, width)


def _print_widths(comparison: Comparison, console: Console) -> None:
    plan = comparison.entries[0]
    others = [row for row in comparison.entries if row.role == "plan"][1:] + [
        row for row in comparison.entries if row.name.startswith("even ")
    ]
    headings = [plan.name, *(row.name for row in others)]
    columns = (name_column("average bits by kind"), *(Column(name, gives_way=True) for name in headings))
    rows = [
        (kind, f"{bits:.2f}", *(f"{row.bits_by_kind[kind]:.2f}" for row in others))
        for kind, bits in plan.bits_by_kind.items()
    ]
    console.print(fitting_table(columns, rows, console.width))
    blocks = list(plan.bits_by_block.items())
    if blocks:
        console.print("average bits of the plan by block")
    for start in range(0, len(blocks), _BLOCKS_A_LINE):
        part = blocks[start : start + _BLOCKS_A_LINE]
        console.print(f"  from {part[0][0]:>3}  " + "  ".join(f"{bits:4.2f}" for _, bits in part))


def _print_changes(comparison: Comparison, console: Console, *, wide: bool) -> None:
    if comparison.changes_from is None:
        return
    console.print()
    if not comparison.format_changes:
        console.print(f"No layer differs from {comparison.changes_from}.")
        return
    wider = [change for change in comparison.format_changes if change.stored_bytes > 0]
    narrower = [change for change in comparison.format_changes if change.stored_bytes < 0]
    console.print(
        f"Against {comparison.changes_from}, {len(wider)} layers are larger ({_describe_sum(wider)}) and "
        f"{len(narrower)} smaller ({_describe_sum(narrower)}), predicted. Where most was gained:"
    )
    console.print(_changes_table(largest_changes(comparison.format_changes, _MOST_CHANGES), console.width, wide=wide))
    if any(change.net_nats is None for change in comparison.format_changes):
        console.print("The plan has no shadow prices, so what these bytes are worth elsewhere is not known.")
    else:
        console.print(
            "saved: predicted loss, for the layer alone. net: that less what its bytes and bits are worth in other "
            "layers, at the shadow prices of the plan's limits: what putting it back would cost.",
            style="dim",
        )
    if len(comparison.format_changes) > _MOST_CHANGES:
        console.print(
            f"… and {len(comparison.format_changes) - _MOST_CHANGES} more: --json lists them all.", style="dim"
        )


def largest_changes(found: Sequence[FormatChange], count: int) -> list[FormatChange]:
    """The format changes of the largest net gain, or of the largest change of loss where there are no prices."""
    return sorted(found, key=lambda change: -(abs(change.saved_nats) if change.net_nats is None else change.net_nats))[
        :count
    ]


def _describe_sum(found: Sequence[FormatChange]) -> str:
    num_bytes = sum(change.stored_bytes for change in found)
    nats = sum(change.saved_nats for change in found)
    return f"{'+' if num_bytes >= 0 else '−'}{render_size(abs(num_bytes))}, {-nats:+.4f} nats"


def _changes_table(found: Sequence[FormatChange], width: int, *, wide: bool) -> Table:
    numbers = ("bytes", "share\nof loss", "saved\nnats", *(["paid\nnats"] if wide else []), "net\nnats")
    rows = [
        (
            _short(change),
            f"{change.before} → {change.after}",
            f"{change.stored_bytes:+,}",
            f"{change.share_of_plan_loss:.1%}",
            render_signed(change.saved_nats),
            *([render_signed(change.paid_nats)] if wide else []),
            render_signed(change.net_nats),
        )
        for change in found
    ]
    columns = (name_column("layer"), Column("change", "left"), *number_columns(*numbers))
    return fitting_table(columns, rows, width)


def _short(change: FormatChange) -> str:
    return change.layer if change.block is None else f"{change.block}.{change.kind}"


def _describe_method(comparison: Comparison) -> str:
    inputs = "the same" if comparison.rounding_inputs == "original" else f"{comparison.rounding_inputs} ones"
    return (
        f"KL divergence from the original in nats per token, ± one standard error, on {comparison.num_sequences} × "
        f"{comparison.sequence_length} tokens of {comparison.text_source} that were not calibrated on, from "
        f"{comparison.num_documents} documents. Differences are paired by sequence; their intervals are "
        f"{comparison.bootstrap.confidence:.0%}, by {comparison.bootstrap.num_resamples:,} resamples of whole "
        f"documents (seed {comparison.bootstrap.seed}). Predictions are for rounding against original inputs; measured "
        f"was rounding against {inputs}."
    )
