"""Real costs as integers, and what that rounding may change.

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
        offset: subtracted from every vector.
        resolution: the most by which rounding changes the objective of a plan, in units of cost.
    """

    costs: Integers
    constants: Integers
    scale: float
    offset: float
    resolution: float

    def bound(self, integer_bound: float) -> float:
        """Turn a lower bound on the integer objective into one on the true objective, rounding included."""
        return self.offset + integer_bound / self.scale - self.resolution


def integer_costs(form: StandardForm) -> IntegerCosts:
    """Scale costs to integers whose sum over a plan stays below 2^43, or 2^30 with several vectors.

    Costs that are integers already, such as bytes, stay exact, since the scale is a power of two. Several vectors
    need an integer variable for their maximum; OR-Tools 9.15's presolve has called such models infeasible, which they
    cannot be, when the product of a coefficient and that variable's range left 64 bits.

    Args:
        form: the program.

    Returns:
        The integers, and how to convert back.
    """
    least: Floats = form.smallest(form.costs)  # type: ignore[assignment]
    shifted = form.costs - least[:, form.group_of]
    constants = np.array([math.fsum([*row, constant]) for row, constant in zip(least, form.constants, strict=True)])
    offset = float(constants.min())
    spread = constants - offset
    largest = float((-form.smallest(-shifted)).sum(axis=1).max() + spread.max())
    significant_bits = _SIGNIFICANT_BITS if len(shifted) == 1 else _SIGNIFICANT_BITS_OF_SEVERAL
    scale = math.ldexp(1.0, significant_bits - 1 - math.floor(math.log2(largest))) if largest > 0 else 1.0
    costs = np.rint(shifted * scale)
    rounded_constants = np.rint(spread * scale)
    error = np.abs(costs - shifted * scale)
    worst = (-form.smallest(-error)).sum(axis=1).max() + np.abs(rounded_constants - spread * scale).max()
    floating = 2.0**-52 * (float(np.abs(form.costs).max(initial=0.0)) * form.num_groups + abs(offset))
    exact = not worst and bool((form.costs == np.rint(form.costs)).all())
    return IntegerCosts(
        costs=costs.astype(np.int64),
        constants=rounded_constants.astype(np.int64),
        scale=scale,
        offset=offset,
        resolution=0.0 if exact else float(worst) / scale + floating,
    )
