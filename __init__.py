"""Decides how many bits each layer of a language model gets, by an exact integer program."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .planning.program import Program

__version__ = "0.1.0"
__all__ = ["Program", "__version__"]


def __getattr__(name: str) -> object:
    """Import what users import from here when they ask for it, so that the version alone costs nothing."""
    if name == "Program":
        from .planning.program import Program  # noqa: PLC0415

        return Program
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
