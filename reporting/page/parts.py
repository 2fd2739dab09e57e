"""Pieces of a page as records; the template of each writes it as HTML.

Knows nothing about plans, and nothing about HTML.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .svg import Chart


@dataclass(frozen=True)
class Paragraph:
    """A paragraph.

    Attributes:
        words: what it says.
        css: its classes.
    """

    template: ClassVar[str] = "paragraph.html.j2"
    words: str
    css: str = ""


@dataclass(frozen=True)
class Missing:
    """Something that is not there, and the command that makes it.

    Attributes:
        words: what is not there.
        command: what makes it.
    """

    template: ClassVar[str] = "missing.html.j2"
    words: str
    command: str


@dataclass(frozen=True)
class Figure:
    """A picture; it scrolls by itself where the page is narrow.

    Attributes:
        chart: the picture.
        caption: what is to be seen in it.
        details: stands below until a cell is chosen, whose details take its place; empty for a chart without cells.
    """

    template: ClassVar[str] = "figure.html.j2"
    chart: Chart
    caption: str
    details: str = ""


@dataclass(frozen=True)
class Card:
    """A large number.

    Attributes:
        name: what it is.
        value: the number.
        note: what stands below it.
    """

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Cards:
    """Large numbers side by side.

    Attributes:
        entries: from left to right.
    """

    template: ClassVar[str] = "cards.html.j2"
    entries: tuple[Card, ...]


@dataclass(frozen=True)
class TableColumn:
    """The head of a column.

    Attributes:
        heading: its words.
        is_numeric: whether its cells are numbers, aligned on the right.
    """

    heading: str
    is_numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of words; it scrolls by itself where the page is narrow.

    Attributes:
        name: of its kind, for the page's style.
        columns: one a cell of a row.
        rows: the cells.
        caption: what it shows.
    """

    template: ClassVar[str] = "table.html.j2"
    name: str
    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


Part = Paragraph | Missing | Figure | Cards | Table


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        name: for links.
        title: its heading.
        parts: its content.
    """

    name: str
    title: str
    parts: tuple[Part, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The pictures in it."""
        return tuple(part.chart for part in self.parts if isinstance(part, Figure))


def columns(*headings: str) -> tuple[TableColumn, ...]:
    """Name columns; those whose heading ends in ``#`` hold numbers.

    Returns:
        The columns.

    >>> columns("layer", "bytes#")
    (TableColumn(heading='layer', is_numeric=False), TableColumn(heading='bytes', is_numeric=True))
    """
    return tuple(TableColumn(heading.removesuffix("#"), heading.endswith("#")) for heading in headings)


def notes(lines: Sequence[str]) -> tuple[Paragraph, ...]:
    """Small print, a paragraph each."""
    return tuple(Paragraph(line, "note") for line in lines)
