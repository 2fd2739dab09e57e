"""How long work tells how far it is.

Knows nothing about terminals.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Wraps a sequence that is worked through, to show how far the work is."""

    def __call__(self, items: Sequence[Item], label: str) -> Iterator[Item]:
        """Go through items.

        Args:
            items: what is worked through.
            label: what is being done, for a person.

        Returns:
            An iterator over the same items.
        """
        ...


def silent(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Show nothing.

    Args:
        items: what is worked through.
        label: not used.

    Returns:
        An iterator over the items.
    """
    del label
    return iter(items)
