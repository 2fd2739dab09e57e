"""The engines by name.

Knows nothing about programs.
"""

from ...common.errors import ScantlingError
from .base import Engine
from .cpsat import CpSat
from .highs import Highs

ENGINES: dict[str, Engine] = {"cpsat": CpSat(), "highs": Highs()}


def engine_named(name: str) -> Engine:
    """Give an engine.

    Args:
        name: ``cpsat`` or ``highs``.

    Returns:
        The engine.

    Raises:
        ScantlingError: no such engine.
    """
    if name not in ENGINES:
        raise ScantlingError(f"{name!r} is not an engine. Known: {', '.join(ENGINES)}.")
    return ENGINES[name]
