"""Progress bars in the terminal.

Knows nothing about what makes progress.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


@dataclass(frozen=True)
class TerminalProgress:
    """A bar on standard error where that is a terminal; nothing elsewhere.

    Attributes:
        console: on standard error.
    """

    console: Console

    def __call__(self, items: Sequence[Item], label: str) -> Iterator[Item]:
        """Iterate over ``items`` while a bar with ``label`` advances."""
        if self.console.is_terminal:
            yield from track(items, description=f"{label:24}", console=self.console, transient=True)
        else:
            yield from items


@contextmanager
def waiting(progress: TerminalProgress, label: str) -> Iterator[None]:
    """Show a spinner while something of unknown length runs."""
    if progress.console.is_terminal:
        with progress.console.status(label):
            yield
    else:
        yield
