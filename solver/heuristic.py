"""A good plan to start from, by greedy exchanges.

Knows nothing about solvers.
"""

from collections.abc import Iterable

import numpy as np

from .milp.standard_form import Floats, Integers, StandardForm

_MAX_EXCHANGES = 4000


def best_start(form: StandardForm, candidates: Iterable[Integers], reduced_costs: Floats) -> Integers | None:
    """Repair and improve some choices, and keep the best.

    Args:
        form: the program.
        candidates: choices of one option per group, within the limits or not.
        reduced_costs: float64 [options], the least of every group 0.

    Returns:
        A choice that meets all limits and rules; None if the exchanges led to none.
    """
    best, best_objective = None, np.inf
    for candidate in candidates:
        mended = _repair(form, candidate, reduced_costs)
        if mended is None:
            continue
        improved = _improve(form, mended)
        objective = form.objective(improved)
        if objective < best_objective and form.meets_limits(improved):
            best, best_objective = improved, objective
    return best


def _repair(form: StandardForm, candidate: Integers, reduced_costs: Floats) -> Integers | None:
    """Exchange options until every row holds: the least reduced cost per share of violation removed."""
    chosen = candidate.copy()
    scale = np.maximum(np.abs(form.at_most), 1).astype(np.float64)
    excess = form.amounts[:, chosen].sum(axis=1) - form.at_most
    for _ in range(_MAX_EXCHANGES):
        violated = np.maximum(excess, 0) / scale
        if not violated.any():
            return chosen
        current = chosen[form.group_of]
        change = form.amounts - form.amounts[:, current]
        left = np.maximum(excess[:, None] + change, 0) / scale[:, None]
        gain = violated.sum() - left.sum(axis=0)
        cost = np.maximum(reduced_costs - reduced_costs[current], 0.0)
        useful = gain > 0
        if not useful.any():
            return None
        ratio = np.where(useful, cost / np.where(useful, gain, 1.0), np.inf)
        taken = int(ratio.argmin())
        excess = excess + change[:, taken]
        chosen[form.group_of[taken]] = taken
    return None


def _improve(form: StandardForm, candidate: Integers) -> Integers:
    """Make the exchange of one option within the limits that lowers the objective most, as long as there is one."""
    chosen = candidate.copy()
    slack = form.at_most - form.amounts[:, chosen].sum(axis=1)
    totals = form.costs[:, chosen].sum(axis=1) + form.constants
    for _ in range(_MAX_EXCHANGES):
        current = chosen[form.group_of]
        objectives = (totals[:, None] + form.costs - form.costs[:, current]).max(axis=0)
        change = form.amounts - form.amounts[:, current]
        allowed = (change <= slack[:, None]).all(axis=0) & (objectives < totals.max())
        if not allowed.any():
            return chosen
        taken = int(np.where(allowed, objectives, np.inf).argmin())
        slack = slack - change[:, taken]
        totals = totals + form.costs[:, taken] - form.costs[:, current[taken]]
        chosen[form.group_of[taken]] = taken
    return chosen
