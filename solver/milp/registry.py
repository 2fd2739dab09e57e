"""The engines by name.

Knows nothing about programs.
"""

from ...common.errors import ScantlingError
from .base import MilpSolver
from .cpsat import CpSatSolver
from .highs import HighsSolver

SOLVERS: dict[str, MilpSolver] = {"cpsat": CpSatSolver(), "highs": HighsSolver()}


def solver_named(name: str) -> MilpSolver:
    """Give an engine.

    Args:
        name: ``cpsat`` or ``highs``.

    Returns:
        The engine.

    Raises:
        ScantlingError: no such engine.
    """
    if name not in SOLVERS:
        raise ScantlingError(f"{name!r} is not an engine. Known: {', '.join(SOLVERS)}.")
    return SOLVERS[name]
