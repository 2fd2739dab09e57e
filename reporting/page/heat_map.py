"""The allocation as a picture: one row a kind of layer, one column a block, the digit is the width.

Kinds that differ only in a number, as the experts of a mixture do, share a row; a cell of several layers shows their
average.

Knows nothing about pages.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from html import escape

from ...planning.plan import Assignment, Plan, average_bits
from ..terminal.colours import bits_colours
from .svg import Chart, number, text

_CELL, _LEFT, _TOP = 22, 150, 34
_NUMBERED = re.compile(r"(?<=\.)\d+(?=\.)")
_FLOAT = "f"


def heat_map(plan: Plan) -> Chart:
    """Draw a plan.

    Args:
        plan: the plan.

    Returns:
        The picture; every cell has its details as its title.
    """
    cells: dict[tuple[str, int], list[Assignment]] = defaultdict(list)
    for one in plan.assignments:
        if one.block is not None:
            cells[_NUMBERED.sub("*", one.kind), one.block].append(one)
    kinds = list(dict.fromkeys(kind for kind, _ in cells))
    blocks = sorted({block for _, block in cells})
    parts = [_head(blocks)]
    for row, kind in enumerate(kinds):
        y = _TOP + row * _CELL
        parts.append(text(_LEFT - 8, y + 15, kind, "", "end"))
        for column, block in enumerate(blocks):
            if cells[kind, block]:
                parts.append(_cell(plan, cells[kind, block], _LEFT + column * _CELL, y))
        members = [one for block in blocks for one in cells[kind, block]]
        parts.append(text(_LEFT + len(blocks) * _CELL + 8, y + 15, f"{_average(members):.2f}", "faint"))
    for column, block in enumerate(blocks):
        members = [one for kind in kinds for one in cells[kind, block]]
        x, y = _LEFT + column * _CELL + _CELL / 2, _TOP + len(kinds) * _CELL + 15
        parts.append(f'<g class="cell">{text(x, y, f"{_average(members):.1f}", "faint")}</g>')
    height = _TOP + len(kinds) * _CELL + 24
    return Chart(
        "allocation",
        "Bits of every layer, by kind and block",
        _LEFT + len(blocks) * _CELL + 46,
        height,
        "".join(parts),
    )


def outside_blocks(plan: Plan) -> Sequence[Assignment]:
    """List the layers that the picture does not show.

    Args:
        plan: the plan.

    Returns:
        Those outside the blocks.
    """
    return [one for one in plan.assignments if one.block is None]


def _head(blocks: Sequence[int]) -> str:
    parts = [text(_LEFT - 8, _TOP - 9, "block", "faint", "end")]
    for column, block in enumerate(blocks):
        x = _LEFT + column * _CELL + _CELL / 2
        parts.append(f'<g class="cell">{text(x, _TOP - 9, str(block), "faint")}</g>')
    parts.append(text(_LEFT + len(blocks) * _CELL + 8, _TOP - 9, "mean", "faint"))
    return "".join(parts)


def _cell(plan: Plan, members: Sequence[Assignment], x: float, y: float) -> str:
    bits = _average(members)
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


def _average(members: Sequence[Assignment]) -> float:
    return average_bits([(one.bits, one.num_weights) for one in members])
