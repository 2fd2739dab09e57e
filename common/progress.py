"""How long-running work reports its progress.

Knows nothing about terminals.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Wraps a sequence that is worked through, to report how far the work is."""

    def __call__(self, items: Sequence[Item], label: str) -> Iterator[Item]:
        """Iterate over the items; the label says what is being done."""
        ...


def silent(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Iterate over the items without reporting."""
    del label
    return iter(items)


def unreported(line: str) -> None:
    """Report nothing: where a caller wants no lines about long work."""
    del line
