"""What plans need of the hardware, predicted, in the terminal.

Knows nothing about how they came about.
"""

from rich.console import Console
from rich.table import Table

from ...common.units import BYTES_PER_UNIT, render_bytes
from ...evaluation.prediction import PointRecord, PredictedEntry, Prediction

_GIB, _MIB = BYTES_PER_UNIT["GiB"], BYTES_PER_UNIT["MiB"]


def print_prediction(found: Prediction, console: Console) -> None:
    """Print what each plan needs of the hardware, and what that rests on."""
    console.print(_entries(found))
    for row in found.entries:
        for note in row.notes:
            console.print(f"{row.name}: {note}")
    console.print(_describe(found), style="dim")
    table = Table(box=None, pad_edge=False)
    for heading in ("number of the hardware", "value", "origin", "source"):
        table.add_column(heading, overflow="fold")
    for parameter in found.parameters:
        table.add_row(parameter.name, str(parameter.value), parameter.origin, parameter.source)
    console.print(table)


def _entries(found: Prediction) -> Table:
    unit, name = (_GIB, "GiB") if min(row.stored_bytes for row in found.entries) >= _GIB else (_MIB, "MiB")
    rate = found.same_rate_tokens_per_second
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    headings = [f"exact\n{name}", f"resident\n{name}", "predicted\nKL", "predicted\ntok/s"]
    headings += ["W, J/token at\nfull speed", "no common\nrate" if rate is None else f"W, J/token at\n{rate:.4g} tok/s"]
    queried = any(row.query is not None for row in found.entries)
    for heading in [*headings, *(["s, J a\nquery"] if queried else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.entries:
        cells = [f"{row.stored_bytes / unit:.2f}", f"{row.resident_bytes / unit:.2f}", _shown(row.loss_increase_nats)]
        cells += [_shown(row.tokens_per_second), _point(row.full_speed), _point(row.same_rate)]
        table.add_row(row.name, *cells, *([_query(row)] if queried else []), style="" if _is_uniform(row) else "bold")
    return table


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
    words = [
        f"On {found.hardware}, decode of {work.batch or 1} sequence(s). Bytes of weights are exact, all else predicted."
    ]
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
