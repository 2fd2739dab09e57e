"""Exact dynamic programming over the sums of a single row.

Layers of a model come in few shapes, so that the amounts of a byte row, divided by what they have in common, are small
integers, and the least cost for every sum up to the bound can be tabulated (Dudziński and Walukiewicz 1987):

    best_0(b) = 0,    best_g(b) = min_{i ∈ g} cost(i) + best_{g-1}(b − amount(i))    for 0 ≤ b ≤ at_most.

Knows nothing about solvers.
"""

import numpy as np

from .milp.standard_form import Integers, StandardForm

_MOST_ENTRIES = 40_000_000


def is_tabulable(statement: StandardForm) -> bool:
    """Tell whether a tightened statement has one row of few sums, one cost vector, and no other rule.

    Args:
        statement: the program.

    Returns:
        Whether ``tabulate`` answers it within about a second.
    """
    plain = len(statement.amounts) == 1 and len(statement.costs) == 1
    if not plain or statement.orders or statement.distinct or statement.slack_prices is not None:
        return False
    return (int(statement.at_most[0]) + 1) * statement.num_options <= _MOST_ENTRIES


def tabulate(statement: StandardForm) -> Integers:
    """Find the best choice; a tightened statement always has one.

    Args:
        statement: the program; amounts not negative, as tighten_rows leaves them, with 0 in every group.

    Returns:
        One option a group, int64 [groups]; optimal up to the rounding of a sum of floats.
    """
    bound = int(statement.at_most[0])
    amounts, costs = statement.amounts[0].tolist(), statement.costs[0].tolist()
    starts = statement.starts.tolist()
    best = np.zeros(bound + 1)
    taken = np.empty((statement.num_groups, bound + 1), dtype=np.int16)
    for group in range(statement.num_groups):
        options = range(starts[group], starts[group + 1])
        table = np.full((len(options), bound + 1), np.inf)
        for row, option in zip(table, options, strict=True):
            row[amounts[option] :] = best[: bound + 1 - amounts[option]] + costs[option]
        taken[group] = table.argmin(axis=0)
        best = table.min(axis=0)
    chosen = np.empty(statement.num_groups, dtype=np.int64)
    left = bound
    for group in reversed(range(statement.num_groups)):
        chosen[group] = starts[group] + int(taken[group, left])
        left -= amounts[chosen[group]]
    return chosen
