"""Real costs as integers, with what that may change.

Knows nothing about solvers.
"""

import math
from dataclasses import dataclass

import numpy as np

from .standard_form import Floats, Integers, StandardForm

_SIGNIFICANT_BITS = 42
_SIGNIFICANT_BITS_OF_SEVERAL = 29


@dataclass(frozen=True)
class IntegerCosts:
    """The costs as integers: round((cost(v, i) − min over i's group) · scale), constants likewise.

    Attributes:
        costs: int64 [vectors, options], not negative.
        constants: int64 [vectors], the least of them 0.
        scale: integer steps per unit of cost, a power of two.
        offset: what was taken from every vector.
        resolution: the most by which rounding changes the objective of a plan, in units of cost.
    """

    costs: Integers
    constants: Integers
    scale: float
    offset: float
    resolution: float

    def bound(self, integer_bound: float) -> float:
        """Turn a bound on the integer objective into one on the true objective.

        Args:
            integer_bound: a lower bound of max_v (Σ costs + constant).

        Returns:
            A lower bound in units of cost, valid in spite of the rounding.
        """
        return self.offset + integer_bound / self.scale - self.resolution


def integer_costs(statement: StandardForm) -> IntegerCosts:
    """Scale costs to integers whose sum over a plan stays below 2^43, or 2^30 where there are several vectors.

    Costs that are integers already, such as bytes, stay exact, since the scale is a power of two. Several vectors
    need an integer variable for their maximum; OR-Tools 9.15's presolve has called such models infeasible, which they
    cannot be, when the product of a coefficient and that variable's range left 64 bits.

    Args:
        statement: the program.

    Returns:
        The integers and how to get back.
    """
    least: Floats = statement.smallest(statement.costs)  # type: ignore[assignment]
    shifted = statement.costs - least[:, statement.group_of]
    constants = np.array([
        math.fsum([*row, constant]) for row, constant in zip(least, statement.constants, strict=True)
    ])
    offset = float(constants.min())
    spread = constants - offset
    largest = float((-statement.smallest(-shifted)).sum(axis=1).max() + spread.max())
    significant_bits = _SIGNIFICANT_BITS if len(shifted) == 1 else _SIGNIFICANT_BITS_OF_SEVERAL
    scale = math.ldexp(1.0, significant_bits - 1 - math.floor(math.log2(largest))) if largest > 0 else 1.0
    costs = np.rint(shifted * scale)
    rounded_constants = np.rint(spread * scale)
    error = np.abs(costs - shifted * scale)
    worst = (-statement.smallest(-error)).sum(axis=1).max() + np.abs(rounded_constants - spread * scale).max()
    floating = 2.0**-52 * (float(np.abs(statement.costs).max(initial=0.0)) * statement.num_groups + abs(offset))
    exact = not worst and bool((statement.costs == np.rint(statement.costs)).all())
    return IntegerCosts(
        costs=costs.astype(np.int64),
        constants=rounded_constants.astype(np.int64),
        scale=scale,
        offset=offset,
        resolution=0.0 if exact else float(worst) / scale + floating,
    )
