"""The allocation of a plan as a grid: one row a kind of layer, one column a block.

Kinds that differ only in a number, as the experts of a mixture do, share a row.

Knows nothing about how a grid is drawn.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..planning.plan import Assignment, average_bits

_NUMBERED = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class AllocationGrid:
    """Layers inside the blocks, by kind and block.

    Attributes:
        kinds: the rows, in the model's order.
        blocks: the columns.
        cells: the layers of each cell that has any.
    """

    kinds: tuple[str, ...]
    blocks: tuple[int, ...]
    cells: Mapping[tuple[str, int], tuple[Assignment, ...]]

    def cell(self, kind: str, block: int) -> tuple[Assignment, ...]:
        """The layers of one cell; empty where there are none."""
        return self.cells.get((kind, block), ())

    def row(self, kind: str) -> list[Assignment]:
        """The layers of one kind."""
        return [one for block in self.blocks for one in self.cell(kind, block)]

    def column(self, block: int) -> list[Assignment]:
        """The layers of one block."""
        return [one for kind in self.kinds for one in self.cell(kind, block)]


def grid_of(assignments: Sequence[Assignment]) -> AllocationGrid:
    """Arrange the layers that lie inside blocks."""
    cells: dict[tuple[str, int], list[Assignment]] = defaultdict(list)
    for one in assignments:
        if one.block is not None:
            cells[_NUMBERED.sub("*", one.kind), one.block].append(one)
    return AllocationGrid(
        kinds=tuple(dict.fromkeys(kind for kind, _ in cells)),
        blocks=tuple(sorted({block for _, block in cells})),
        cells={place: tuple(members) for place, members in cells.items()},
    )


def outside_blocks(assignments: Sequence[Assignment]) -> list[Assignment]:
    """The layers that a grid does not show: embedding and head."""
    return [one for one in assignments if one.block is None]


def mean_bits(assignments: Sequence[Assignment]) -> float:
    """Σ bits · weights / Σ weights."""
    return average_bits([(one.bits, one.num_weights) for one in assignments])
