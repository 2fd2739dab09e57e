"""The seam between the program and the solvers.

Knows nothing about any particular solver.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from .standard_form import Integers, StandardForm


class Status(Enum):
    """What a solver can answer; the value is advice for a person."""

    OPTIMAL = "optimal: no other plan within the limits has a smaller objective"
    FEASIBLE = "feasible: the search was ended before the proof; a better plan may exist, by at most the gap"
    INFEASIBLE = "infeasible: no plan meets all limits and rules. Relax one"
    UNKNOWN = "unknown: the time limit ended the search before any plan was found. Allow more time"


@dataclass(frozen=True)
class SolverSettings:
    """How to search.

    Attributes:
        time_limit_seconds: when to stop and return the best plan so far.
        seed: of the solver's own random choices.
        num_threads: how many it may use. One thread is reproducible.
        relative_gap: stop once the gap is proven to be at most this share of the objective; 0 for a proven optimum.
    """

    time_limit_seconds: float = 60.0
    seed: int = 0
    num_threads: int = 1
    relative_gap: float = 0.0


@dataclass(frozen=True)
class SolverAnswer:
    """What a solver found out about a program.

    Attributes:
        status: what is known.
        chosen: one option per group, int64 [groups]; None without a plan.
        bound: no plan has a smaller objective; None without a plan.
        resolution: how far the numbers that the solver worked on may be from the true costs, over a whole plan.
    """

    status: Status
    chosen: Integers | None = None
    bound: float | None = None
    resolution: float = 0.0


class MilpSolver(Protocol):
    """Solves a program in standard form to proven optimality, given time."""

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    def solve(self, form: StandardForm, settings: SolverSettings, hint: Integers | None = None) -> SolverAnswer:
        """Search for the best choice.

        Args:
            form: the program.
            settings: limits of the search.
            hint: one option per group within the limits, if one is known.

        Returns:
            The answer; infeasibility is a status, not an exception.
        """
        ...
