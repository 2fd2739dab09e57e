"""What plans need of the hardware, predicted, in the terminal.

Knows nothing about how they came about.
"""

from rich.console import Console
from rich.table import Table

from ...common.units import BYTES_PER_UNIT, render_bytes
from ...evaluation.prediction import PointRecord, PredictedEntry, Prediction
from .tables import fitting_table, name_column, number_columns

_GIB, _MIB = BYTES_PER_UNIT["GiB"], BYTES_PER_UNIT["MiB"]


def print_prediction(found: Prediction, console: Console) -> None:
    """Print what each plan needs of the hardware, and what that rests on."""
    console.print(_entries(found, console.width))
    for row in found.entries:
        for note in row.notes:
            console.print(f"{row.name}: {note}")
    console.print(_describe(found), style="dim")
    table = Table("number of the hardware", "value", "origin", box=None, pad_edge=False)
    table.add_column("source", overflow="fold")  # prose: it takes several lines where the console is narrow
    for one in found.parameters:
        table.add_row(one.name, str(one.value), one.origin, one.source)
    console.print(table)


def _entries(found: Prediction, width: int) -> Table:
    unit, name = (_GIB, "GiB") if min(row.stored_bytes for row in found.entries) >= _GIB else (_MIB, "MiB")
    rate = found.same_rate_tokens_per_second
    headings = [f"exact\n{name}", f"resident\n{name}", "KL", "tok/s", "W, J/token\nfull speed"]
    headings.append("no common\nrate" if rate is None else f"W, J/token\n{rate:.4g} tok/s")
    queried = any(row.query is not None for row in found.entries)
    headings += ["s, J a\nquery"] if queried else []
    rows = [
        (
            row.name,
            f"{row.stored_bytes / unit:.2f}",
            f"{row.resident_bytes / unit:.2f}",
            _shown(row.loss_increase_nats),
            _shown(row.tokens_per_second),
            _point(row.full_speed),
            _point(row.same_rate),
            *([_query(row)] if queried else []),
        )
        for row in found.entries
    ]
    styles = ["" if _is_uniform(row) else "bold" for row in found.entries]
    return fitting_table((name_column(""), *number_columns(*headings)), rows, width, styles=styles)


def _is_uniform(row: PredictedEntry) -> bool:
    return row.name.startswith(("uniform", "original"))


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _point(point: PointRecord | None) -> str:
    return "–" if point is None else f"{point.watts:.4g}, {point.joules_per_token:.3g}"


def _query(row: PredictedEntry) -> str:
    return "–" if row.query is None else f"{row.query.seconds:.3g}, {row.query.joules:.3g}"


def _describe(found: Prediction) -> str:
    work = found.workload
    words = [f"On {found.hardware}, decode at batch {work.batch or 1}. Bytes of weights are exact, all else predicted."]
    if found.kv_cache_bytes:
        words.append(
            f"Resident: with {render_bytes(found.kv_cache_bytes)} of KV cache, which every token reads, and about "
            f"{render_bytes(found.activation_bytes)} of activations (estimate)."
        )
    else:
        words.append("Resident: without KV cache, since no context is stated (--context).")
    if found.same_rate_tokens_per_second is not None:
        words.append(
            f"Powers are comparable at the same rate only: {found.same_rate_tokens_per_second:.4g} tok/s "
            f"({found.same_rate_origin}); at full speed each plan does a different amount of work."
        )
    if found.estimates:
        words.append(f"These rest on estimates: {', '.join(found.estimates)}.")
    return " ".join(words)
