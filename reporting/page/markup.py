"""Pieces of a page. Whatever is shown passes through here and is escaped.

Knows nothing about plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .svg import Chart


@dataclass(frozen=True)
class Table:
    """Rows of words.

    Attributes:
        name: of its kind, for the page's style.
        headings: one a column; a column whose heading ends in ``#`` holds numbers.
        rows: the cells.
        caption: what it shows.
    """

    name: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def html(self) -> str:
        """Give it for a page.

        Returns:
            An element that scrolls by itself where the page is narrow.
        """
        numeric = [heading.endswith("#") for heading in self.headings]
        head = "".join(
            f'<th scope="col"{_numeric(right)}>{escape(heading.removesuffix("#"))}</th>'
            for heading, right in zip(self.headings, numeric, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td{_numeric(right)}>{escape(cell)}</td>" for cell, right in zip(row, numeric, strict=True))
            + "</tr>"
            for row in self.rows
        )
        label = escape(self.caption or self.name)
        caption = paragraph(self.caption, "caption") if self.caption else ""
        return (
            f'{caption}<div class="scroll {self.name}" tabindex="0" role="region" aria-label="{label}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def _numeric(right: bool) -> str:
    return ' class="number"' if right else ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: for links.
        title: its heading.
        html: its content.
        charts: the pictures in it.
        tables: the tables in it.
    """

    name: str
    title: str
    html: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


def paragraph(words: str, css: str = "") -> str:
    """Give a paragraph.

    Args:
        words: what it says.
        css: classes.

    Returns:
        An element.
    """
    return f'<p class="{css}">{escape(words)}</p>' if css else f"<p>{escape(words)}</p>"


def missing(words: str, command: str) -> str:
    """Say that something is not there, and which command makes it.

    Args:
        words: what is not there.
        command: what makes it.

    Returns:
        An element.
    """
    return f'<p class="missing">{escape(words)} <code>{escape(command)}</code></p>'


def figure(chart: Chart, caption: str) -> str:
    """Give a picture with what is to be seen in it.

    Args:
        chart: the picture.
        caption: below it.

    Returns:
        An element that scrolls by itself where the page is narrow.
    """
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{escape(chart.title)}">'
        f"{chart.inline()}</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def cards(entries: Sequence[tuple[str, str, str]]) -> str:
    """Give large numbers side by side.

    Args:
        entries: what it is, the number, and what stands below it.

    Returns:
        An element.
    """
    inner = "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><span>{escape(note)}</span></dd></div>"
        for name, value, note in entries
    )
    return f'<dl class="cards">{inner}</dl>'
