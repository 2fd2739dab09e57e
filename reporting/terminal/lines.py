"""Lines that fit the width of a console.

Knows nothing about what they say.
"""

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_INDENT = 12


def print_labelled(console: Console, label: str, words: str, style: str = "") -> None:
    """Print words behind a label, with a hanging indent; never wider than the console."""
    lines = Text(words).wrap(console, max(console.width - _INDENT, 1))
    for index, line in enumerate(lines):
        line.rstrip()
        head = f"{label if index == 0 else '':<{_INDENT}}"
        console.print(Text(head, style="dim") + Text(line.plain, style=style), soft_wrap=True)


def print_warnings(warnings: Iterable[str], console: Console) -> None:
    """Print one paragraph a warning."""
    for warning in warnings:
        console.print(f"Warning: {warning}", style="bold red")


def shorten_left(name: str, width: int) -> str:
    """Cut a name to a width and keep its end, which tells layers apart.

    Returns:
        The name, or its end behind ``…``.

    >>> shorten_left("self_attn.q_proj", 8)
    '….q_proj'
    """
    if cell_len(name) <= width:
        return name
    kept = name
    while cell_len(kept) > width - 1:
        kept = kept[1:]
    return f"…{kept}"
