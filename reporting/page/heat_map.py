"""The allocation as a picture: one row a kind of layer, one column a block, the digit is the width.

A cell of several layers, as the experts of a mixture are, shows their average.

Knows nothing about pages.
"""

from collections.abc import Sequence
from html import escape

from ...planning.plan import Assignment, Plan
from ..allocation import grid_of, mean_bits
from ..terminal.colours import bits_colours
from .svg import Chart, number, text

_CELL, _LEFT, _TOP = 22, 150, 34
_FLOAT = "f"


def heat_map(plan: Plan) -> Chart:
    """Draw a plan; every cell has its details as its title."""
    grid = grid_of(plan.assignments)
    parts = [_head(grid.blocks)]
    right = _LEFT + len(grid.blocks) * _CELL
    for row, kind in enumerate(grid.kinds):
        y = _TOP + row * _CELL
        parts.append(text(_LEFT - 8, y + 15, kind, "", "end"))
        parts += [
            _cell(plan, grid.cell(kind, block), _LEFT + column * _CELL, y)
            for column, block in enumerate(grid.blocks)
            if grid.cell(kind, block)
        ]
        parts.append(text(right + 8, y + 15, f"{mean_bits(grid.row(kind)):.2f}", "faint"))
    bottom = _TOP + len(grid.kinds) * _CELL
    for column, block in enumerate(grid.blocks):
        mean = text(_LEFT + column * _CELL + _CELL / 2, bottom + 15, f"{mean_bits(grid.column(block)):.1f}", "faint")
        parts.append(f'<g class="cell">{mean}</g>')
    return Chart("allocation", "Bits of every layer, by kind and block", right + 46, bottom + 24, "".join(parts))


def _head(blocks: Sequence[int]) -> str:
    parts = [text(_LEFT - 8, _TOP - 9, "block", "faint", "end")]
    for column, block in enumerate(blocks):
        x = _LEFT + column * _CELL + _CELL / 2
        parts.append(f'<g class="cell">{text(x, _TOP - 9, str(block), "faint")}</g>')
    parts.append(text(_LEFT + len(blocks) * _CELL + 8, _TOP - 9, "mean", "faint"))
    return "".join(parts)


def _cell(plan: Plan, members: Sequence[Assignment], x: float, y: float) -> str:
    bits = mean_bits(members)
    ink, ground = bits_colours(bits)
    digit = _FLOAT if bits == 16 else f"{bits:.1f}".removesuffix(".0")
    centre = f'x="{number(x + _CELL / 2)}" y="{number(y + 15)}"'
    return (
        f'<g class="cell" tabindex="-1"><title>{escape(_details(plan, members))}</title>'
        f'<rect x="{number(x)}" y="{number(y)}" width="{_CELL - 1}" height="{_CELL - 1}" fill="{ground}"/>'
        f'<text {centre} style="fill:{ink}">{digit}</text></g>'
    )


def _details(plan: Plan, members: Sequence[Assignment]) -> str:
    nats = sum(one.loss_increase_nats for one in members)
    stored = sum(one.stored_bytes for one in members)
    share = f", {nats / plan.loss_increase_nats:.1%} of the plan's" if plan.loss_increase_nats > 0 else ""
    name = members[0].layer if len(members) == 1 else f"{len(members)} layers such as {members[0].layer}"
    formats = ", ".join(dict.fromkeys(one.format for one in members))
    return f"{name}: {formats}; {stored:,} bytes; predicted loss {nats:.3g} nats{share}"
