"""A good plan to start from, by greedy exchanges.

Knows nothing about solvers.
"""

from collections.abc import Iterable

import numpy as np

from .milp.standard_form import Floats, Integers, StandardForm

_MAX_EXCHANGES = 4000


def best_start(statement: StandardForm, candidates: Iterable[Integers], reduced_costs: Floats) -> Integers | None:
    """Mend and improve some choices, and keep the best.

    Args:
        statement: the program.
        candidates: one option a group each, within the limits or not.
        reduced_costs: how dear each option is beside the best of its group, float64 [options].

    Returns:
        A choice that meets all limits and rules; None where the exchanges led to none.
    """
    best, best_objective = None, np.inf
    for candidate in candidates:
        mended = _repair(statement, candidate, reduced_costs)
        if mended is None:
            continue
        improved = _improve(statement, mended)
        objective = statement.objective(improved)
        if objective < best_objective and statement.meets_limits(improved):
            best, best_objective = improved, objective
    return best


def _repair(statement: StandardForm, candidate: Integers, reduced_costs: Floats) -> Integers | None:
    """Exchange options until every row holds: the least reduced cost per share of violation that goes away."""
    chosen = candidate.copy()
    scale = np.maximum(np.abs(statement.at_most), 1).astype(np.float64)
    excess = statement.amounts[:, chosen].sum(axis=1) - statement.at_most
    for _ in range(_MAX_EXCHANGES):
        violated = np.maximum(excess, 0) / scale
        if not violated.any():
            return chosen
        current = chosen[statement.group_of]
        change = statement.amounts - statement.amounts[:, current]
        left = np.maximum(excess[:, None] + change, 0) / scale[:, None]
        gain = violated.sum() - left.sum(axis=0)
        cost = np.maximum(reduced_costs - reduced_costs[current], 0.0)
        useful = gain > 0
        if not useful.any():
            return None
        ratio = np.where(useful, cost / np.where(useful, gain, 1.0), np.inf)
        taken = int(ratio.argmin())
        excess = excess + change[:, taken]
        chosen[statement.group_of[taken]] = taken
    return None


def _improve(statement: StandardForm, candidate: Integers) -> Integers:
    """Take the exchange of one option that lowers the objective most, while there is one within the limits."""
    chosen = candidate.copy()
    slack = statement.at_most - statement.amounts[:, chosen].sum(axis=1)
    totals = statement.costs[:, chosen].sum(axis=1) + statement.constants
    for _ in range(_MAX_EXCHANGES):
        current = chosen[statement.group_of]
        objectives = (totals[:, None] + statement.costs - statement.costs[:, current]).max(axis=0)
        change = statement.amounts - statement.amounts[:, current]
        allowed = (change <= slack[:, None]).all(axis=0) & (objectives < totals.max())
        if not allowed.any():
            return chosen
        taken = int(np.where(allowed, objectives, np.inf).argmin())
        slack = slack - change[:, taken]
        totals = totals + statement.costs[:, taken] - statement.costs[:, current[taken]]
        chosen[statement.group_of[taken]] = taken
    return chosen
