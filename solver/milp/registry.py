"""The solvers by name.

Knows nothing about programs.
"""

from ...common.errors import InputError
from .base import MilpSolver
from .cpsat import CpSatSolver
from .highs import HighsSolver

SOLVERS: dict[str, MilpSolver] = {"cpsat": CpSatSolver(), "highs": HighsSolver()}


def solver_named(name: str) -> MilpSolver:
    """Return the solver of this name, one of SOLVERS."""
    if name not in SOLVERS:
        raise InputError(f"{name!r} is not a solver. Known: {', '.join(SOLVERS)}.")
    return SOLVERS[name]
