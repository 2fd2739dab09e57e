"""Pictures as files, by matplotlib where it is installed.

Knows nothing about what is drawn.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import InputError, MissingDependencyError
from ...common.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".svg", ".pdf")


def figure_class(path: Path) -> "type[Figure]":
    """Import matplotlib's figure for a picture at ``path``.

    Returns:
        The class.

    Raises:
        InputError: the file is none of the kinds that can be drawn.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(f"cannot draw {path}: give a name that ends in {', '.join(_SUFFIXES)}.")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError("pictures need matplotlib: pip install 'scantling[pictures]'") from error
    return Figure


def save_picture(picture: "Figure", path: Path) -> None:
    """Write a picture, whole or not at all."""
    with whole_file(path) as partial:
        picture.savefig(partial, format=path.suffix[1:], dpi=150)
