"""The Lagrangian relaxation: a bound, prices of the limits, and reduced costs.

With prices λ ≥ 0 on the rows and weights μ ≥ 0, Σ μ = 1, on the cost vectors, every plan within the limits costs at
least

    D(μ, λ) = Σ_g min_{i ∈ g} (Σ_v μ_v cost(v, i) + Σ_k λ_k amount(k, i)) + Σ_v μ_v constant(v) − Σ_k λ_k at_most(k).

D is concave and piecewise linear; its maximum equals the optimum of the linear relaxation (Geoffrion 1974), and the λ
there are the shadow prices. It is found by cutting planes (Kelley 1960): each evaluation gives a linear upper bound
on D, and a small linear program over all bounds so far says where to evaluate next. Orders and rules of distinct
formats are left out, which can only lower D.

Knows nothing about solvers.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from .milp.standard_form import Floats, Integers, StandardForm

_MAX_EVALUATIONS = 400
_RELATIVE_TOLERANCE = 1e-10
_LARGEST_PRICE = 1e9  # in spreads of the costs per spread of the row


@dataclass(frozen=True)
class LagrangianBound:
    """The best bound found.

    Attributes:
        bound: no plan within the limits costs less; rounding errors of the summation are included.
        prices: λ, cost per step of each row, float64 [rows].
        reduced_costs: the least increase of the bound if the option is taken, float64 [options]; 0 in every group.
        starts: choices that the relaxation proposed, best bound first, each int64 [groups].
        evaluations: the number of evaluations of D.
        rounding: the bound on the summation errors, already subtracted from ``bound``.
    """

    bound: float
    prices: Floats
    reduced_costs: Floats
    starts: tuple[Integers, ...]
    evaluations: int
    rounding: float


@dataclass(frozen=True)
class _Multipliers:
    """Where D is evaluated: μ, float64 [vectors], and λ in scaled units, float64 [rows]."""

    weights: Floats
    prices: Floats


@dataclass(frozen=True)
class _Cut:
    """One evaluation: D(μ', λ') ≤ μ'·costs + λ'·excess for all μ', λ'."""

    costs: Floats
    excess: Floats
    chosen: Integers
    value: float


def relax(form: StandardForm) -> LagrangianBound:
    """Maximise D; any prices give a valid bound."""
    num_rows, num_vectors = len(form.amounts), len(form.costs)
    scales = _row_scales(form)
    rows = form.amounts / scales[:, None]
    at_most = form.at_most / scales
    cuts: list[_Cut] = []
    best_value, best = -np.inf, _Multipliers(np.full(num_vectors, 1.0 / num_vectors), np.zeros(num_rows))
    point = best
    largest = largest_objective(form)
    for _ in range(_MAX_EVALUATIONS):
        cut = _evaluate(form, rows, at_most, point)
        cuts.append(cut)
        if cut.value > best_value:
            best_value, best = cut.value, point
        if (num_rows == 0 and num_vectors == 1) or best_value > largest:
            break
        ceiling, point = _highest_point(cuts, _LARGEST_PRICE)
        if ceiling - best_value <= _RELATIVE_TOLERANCE * max(abs(ceiling), 1e-300):
            break
    weights, scaled_prices = best.weights, best.prices
    values = weights @ form.costs + scaled_prices @ rows
    reduced = values - form.smallest(values)[form.group_of]
    margin = _rounding_margin(form, np.abs(weights) @ np.abs(form.costs) + scaled_prices @ np.abs(rows))
    margin += 2.0**-50 * float(scaled_prices @ np.abs(at_most))
    order = sorted(cuts, key=lambda cut: -cut.value)
    return LagrangianBound(
        bound=best_value - margin,
        prices=scaled_prices / scales,
        reduced_costs=reduced,
        starts=tuple(cut.chosen for cut in order[:4]),
        evaluations=len(cuts),
        rounding=margin,
    )


def largest_objective(form: StandardForm) -> float:
    """Return a number that no plan's objective exceeds; a bound above it proves infeasibility.

    max_v (Σ_g max cost + constant), plus a little more than its rounding errors.

    Args:
        form: the program.

    Returns:
        The number.
    """
    totals = -form.smallest(-form.costs).sum(axis=1) + form.constants
    magnitude = float(np.abs(form.costs).max(initial=0.0)) * form.num_groups
    return float(totals.max()) + 2.0**-40 * magnitude


def _row_scales(form: StandardForm) -> Floats:
    """Bring rows to the magnitude of the costs, so that prices are of the order of 1."""
    spread = (-form.smallest(-form.costs) - form.smallest(form.costs)).sum(axis=1).max()
    return np.maximum(form.ranges(), 1) / (spread or 1.0)


def _evaluate(form: StandardForm, rows: Floats, at_most: Floats, point: _Multipliers) -> _Cut:
    chosen = form.cheapest(point.weights @ form.costs + point.prices @ rows)
    costs = form.costs[:, chosen].sum(axis=1) + form.constants
    excess = rows[:, chosen].sum(axis=1) - at_most
    return _Cut(costs, excess, chosen, float(point.weights @ costs + point.prices @ excess))


def _highest_point(cuts: list[_Cut], largest_price: float) -> tuple[float, _Multipliers]:
    """Maximise the smallest of the linear bounds: max θ, θ ≤ μ·costs + λ·excess for every cut."""
    num_vectors, num_rows = len(cuts[0].costs), len(cuts[0].excess)
    objective = np.zeros(num_vectors + num_rows + 1)
    objective[-1] = -1.0
    matrix = np.ones((len(cuts) + 1, len(objective)))
    for row, cut in zip(matrix, cuts, strict=False):
        row[:num_vectors], row[num_vectors:-1] = -cut.costs, -cut.excess
    matrix[-1, num_vectors:] = 0.0  # the weights add up to 1
    upper = np.zeros(len(matrix))
    upper[-1] = 1.0
    lower = np.full(len(matrix), -np.inf)
    lower[-1] = 1.0
    least = np.zeros(len(objective))
    least[-1] = -np.inf
    most = np.concatenate([np.ones(num_vectors), np.full(num_rows, largest_price), [np.inf]])
    found = milp(objective, bounds=Bounds(least, most), constraints=LinearConstraint(matrix, lower, upper))
    if found.x is None:
        return -np.inf, _Multipliers(np.full(num_vectors, 1.0 / num_vectors), np.zeros(num_rows))
    weights = np.maximum(found.x[:num_vectors], 0.0)
    return -float(found.fun), _Multipliers(weights / weights.sum(), np.maximum(found.x[num_vectors:-1], 0.0))


def _rounding_margin(form: StandardForm, magnitudes: Floats) -> float:
    """Bound the rounding errors of D: a few units in the last place of the sum of all magnitudes."""
    terms = len(form.costs) + len(form.amounts) + 4
    largest = -form.smallest(-magnitudes)
    return 2.0**-52 * terms * float(largest.sum()) * (1 + math.log2(form.num_groups + 1))
