"""The seam between the program and the engines that solve it.

Knows nothing about any engine.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from .instance import Instance


class Status(Enum):
    """What an engine can answer; the value is advice for a person."""

    OPTIMAL = "optimal: no other plan within the limits has a smaller predicted loss increase"
    FEASIBLE = "feasible: the time limit ended the search; a better plan may exist, by at most the gap. Allow more time"
    INFEASIBLE = "infeasible: no plan meets all limits. Relax one"
    UNKNOWN = "unknown: the time limit ended the search before any plan was found. Allow more time"


@dataclass(frozen=True)
class SearchSettings:
    """How an engine searches.

    Attributes:
        time_limit_seconds: when to stop and return the best plan so far.
        seed: of the engine's own random choices.
        num_threads: how many it may use. One thread repeats exactly.
    """

    time_limit_seconds: float = 60.0
    seed: int = 0
    num_threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What an engine found.

    Attributes:
        status: what is known.
        choice: the index of each unit's option; None where there is no plan.
        bound_nats: no plan within the limits has a smaller predicted loss increase; None where there is no plan.
        resolution_nats: how far the integers that the engine worked on may be from the costs, over a whole plan.
        solve_seconds: wall time inside the engine.
        engine: its name and version.
    """

    status: Status
    choice: tuple[int, ...] | None
    bound_nats: float | None
    resolution_nats: float
    solve_seconds: float
    engine: str


class Engine(Protocol):
    """Something that solves an instance to proven optimality, given time."""

    def solve(self, instance: Instance, settings: SearchSettings) -> Outcome:
        """Search for the best choice.

        Args:
            instance: the program.
            settings: limits of the search.

        Returns:
            The outcome; infeasibility is a status, not an exception.
        """
        ...


@dataclass(frozen=True)
class IntegerCosts:
    """The costs as integers: round((c(u, f) − offset(u)) · scale), offset(u) = min_f c(u, f).

    Attributes:
        costs: one tuple a unit.
        scale: integer steps per nat, a power of two.
        offset_nats: Σ_u offset(u).
    """

    costs: tuple[tuple[int, ...], ...]
    scale: float
    offset_nats: float

    @property
    def resolution_nats(self) -> float:
        """The most by which rounding may change the objective of a whole plan: half a step a unit."""
        return 0.5 * len(self.costs) / self.scale

    def bound_nats(self, integer_bound: float) -> float:
        """Turn a bound on the integer objective into one on the true objective.

        Args:
            integer_bound: a lower bound of Σ costs.

        Returns:
            A lower bound in nats, valid in spite of the rounding.
        """
        return self.offset_nats + integer_bound / self.scale - self.resolution_nats


def integer_costs(instance: Instance, *, significant_bits: int = 42) -> IntegerCosts:
    """Scale the costs to integers whose sum over a plan stays below 2^significant_bits.

    Args:
        instance: the program.
        significant_bits: 42 leaves a resolution of about 1e-12 of the largest plan's loss and room in 64 bits.

    Returns:
        The integers and how to get back.

    >>> from scantling.solver.instance import Option, Unit
    >>> unit = Unit("layer", (Option("int2", 1.5, ()), Option("int8", 0.5, ())))
    >>> integer_costs(Instance((unit,), ()), significant_bits=8).costs
    ((128, 0),)
    """
    offsets = [min(option.loss_increase_nats for option in unit.options) for unit in instance.units]
    largest = math.fsum(
        max(option.loss_increase_nats for option in unit.options) - offset
        for unit, offset in zip(instance.units, offsets, strict=True)
    )
    exponent = significant_bits - 1 - math.floor(math.log2(largest)) if largest > 0 else 0
    scale = math.ldexp(1.0, exponent)
    costs = tuple(
        tuple(round((option.loss_increase_nats - offset) * scale) for option in unit.options)
        for unit, offset in zip(instance.units, offsets, strict=True)
    )
    return IntegerCosts(costs, scale, math.fsum(offsets))
