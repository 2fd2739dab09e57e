"""Which layer got which format.

Knows nothing about why.
"""

from ...planning.plan import Assignment, Plan
from ..allocation import outside_blocks
from .heat_map import heat_map
from .parts import Figure, Section, Table, columns, notes


def allocation_section(plan: Plan) -> Section:
    """The heat map, and the formats that were chosen."""
    caption = (
        "Every cell is a layer, the digit its bits (f: 16), dark for wide; on the right the row's average, below the "
        "block's, weighted by weights. Hover over a cell, or reach it with Tab and the arrow keys, for its details."
    )
    chart = Figure(heat_map(plan), caption, "Details of a cell appear here.")
    outside = notes([_outside(one) for one in outside_blocks(plan.assignments)])
    return Section("allocation", "Bits of every layer", (chart, _formats(plan), *outside))


def _outside(one: Assignment) -> str:
    fixed = "" if one.decided else ", not in the program"
    return f"{one.layer} ({one.kind}): {one.format}, {one.stored_bytes:,} bytes{fixed}"


def _formats(plan: Plan) -> Table:
    decided = [one for one in plan.assignments if one.decided]
    weights = sum(one.num_weights for one in decided)
    loss = sum(one.loss_increase_nats for one in decided)
    rows = []
    for name in sorted({one.format for one in decided}, key=lambda n: min(o.bits for o in decided if o.format == n)):
        chosen = [one for one in decided if one.format == name]
        nats = sum(one.loss_increase_nats for one in chosen)
        share = f"{nats / loss:.1%}" if loss else ""
        stored = sum(one.stored_bytes for one in chosen)
        weight_share = f"{sum(one.num_weights for one in chosen) / weights:.1%}"
        rows.append((name, str(len(chosen)), weight_share, f"{stored:,}", f"{nats:.5f}", share))
    headings = columns("format", "layers#", "share of weights#", "bytes#", "predicted loss, nats#", "share of it#")
    return Table("formats", headings, tuple(rows), "What the program decided, by format")
