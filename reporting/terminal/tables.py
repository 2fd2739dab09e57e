"""Tables that fit the width of a console: names give way, numbers stay whole.

Knows nothing about what they show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.table import Table

from .lines import shorten_left

_LEAST = 6


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: may have several lines.
        justify: of its cells.
        gives_way: whether its cells are cut at the left where the table would be too wide.
    """

    heading: str
    justify: Literal["left", "right"] = "right"
    gives_way: bool = False

    def width(self, cells: Sequence[str]) -> int:
        """The cells of the console that heading and content take."""
        lines = [line for text in (self.heading, *cells) for line in text.split("\n")]
        return max(map(cell_len, lines), default=0)


def name_column(heading: str) -> Column:
    """A column of names, which give way to numbers."""
    return Column(heading, "left", gives_way=True)


def number_columns(*headings: str) -> tuple[Column, ...]:
    """Columns of numbers, which stay whole."""
    return tuple(Column(heading) for heading in headings)


def fitting_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, *, styles: Sequence[str] = ()
) -> Table:
    """Lay out a table; where it would be too wide, first the gaps between its columns give way, then names.

    Args:
        columns: its columns.
        rows: a cell a column.
        width: of the console.
        styles: one a row; none by default.

    Returns:
        The table, no wider than ``width`` as long as numbers alone are not.
    """
    widths = [column.width([row[index] for row in rows]) for index, column in enumerate(columns)]
    gap = 2 if sum(widths) + 2 * (len(columns) - 1) <= width else 1
    room = width - gap * (len(columns) - 1)
    yielding = [index for index, column in enumerate(columns) if column.gives_way]
    while sum(widths) > room and any(widths[index] > _LEAST for index in yielding):
        widest = max(yielding, key=lambda index: widths[index])
        widths[widest] -= 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for column, allowed in zip(columns, widths, strict=True):
        heading = shorten_left(column.heading, allowed) if column.gives_way else column.heading
        table.add_column(heading, justify=column.justify, no_wrap=True, vertical="bottom")
    for index, row in enumerate(rows):
        cells = [
            shorten_left(cell, allowed) if column.gives_way else cell
            for column, cell, allowed in zip(columns, row, widths, strict=True)
        ]
        table.add_row(*cells, style=styles[index] if styles else "")
    return table
