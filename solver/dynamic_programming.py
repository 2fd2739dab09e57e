"""Exact dynamic programming over the sums of a single row.

A model's layers come in few shapes, so the amounts of a byte row, divided by their common divisor, are small integers,
and the least cost for every sum up to the bound can be tabulated (Dudziński and Walukiewicz 1987):

    best_0(b) = 0,    best_g(b) = min_{i ∈ g} cost(i) + best_{g-1}(b − amount(i))    for 0 ≤ b ≤ at_most.

Knows nothing about solvers.
"""

import numpy as np

from .milp.standard_form import Integers, StandardForm

_MOST_ENTRIES = 40_000_000


def is_tabulable(form: StandardForm) -> bool:
    """Tell whether a tightened form has one row of few sums, one cost vector, and no other rule."""
    plain = len(form.amounts) == 1 and len(form.costs) == 1
    if not plain or form.orders or form.distinct or form.slack_prices is not None:
        return False
    return (int(form.at_most[0]) + 1) * form.num_options <= _MOST_ENTRIES


def tabulate(form: StandardForm) -> Integers:
    """Find the best choice; a tightened form always has one.

    Args:
        form: the program; amounts are not negative, with a 0 in every group, as ``tighten_rows`` leaves them.

    Returns:
        One option per group, int64 [groups]; optimal up to the rounding of a sum of floats.
    """
    bound = int(form.at_most[0])
    amounts, costs = form.amounts[0].tolist(), form.costs[0].tolist()
    starts = form.starts.tolist()
    best = np.zeros(bound + 1)
    taken = np.empty((form.num_groups, bound + 1), dtype=np.int16)
    for group in range(form.num_groups):
        options = range(starts[group], starts[group + 1])
        table = np.full((len(options), bound + 1), np.inf)
        for row, option in zip(table, options, strict=True):
            row[amounts[option] :] = best[: bound + 1 - amounts[option]] + costs[option]
        taken[group] = table.argmin(axis=0)
        best = table.min(axis=0)
    chosen = np.empty(form.num_groups, dtype=np.int64)
    left = bound
    for group in reversed(range(form.num_groups)):
        chosen[group] = starts[group] + int(taken[group, left])
        left -= amounts[chosen[group]]
    return chosen
