"""How other tools solve one budget: greedy by gain per byte, a binned dynamic program, one Lagrange multiplier.

Each takes losses and bytes [units, formats] and a budget, and gives one format a unit. Re-stated from their
public descriptions, for comparison only.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def greedy(losses: Floats, stored: Integers, budget: int) -> Integers:
    """From the smallest plan, take the upgrade with the largest gain per byte that still fits, until none does."""
    units = np.arange(len(losses))
    chosen = stored.argmin(axis=1)
    left = budget - int(stored[units, chosen].sum())
    while True:
        gain = losses[units, chosen][:, None] - losses
        cost = stored - stored[units, chosen][:, None]
        fits = (cost > 0) & (cost <= left) & (gain > 0)
        if not fits.any():
            return chosen
        best = int(np.where(fits, gain / np.maximum(cost, 1), -np.inf).argmax())
        unit, target = divmod(best, losses.shape[1])
        left -= int(cost[unit, target])
        chosen[unit] = target


def binned_dynamic_program(losses: Floats, stored: Integers, budget: int, num_bins: int = 10_000) -> Integers:
    """Exact for bytes rounded up to whole bins of budget / num_bins."""
    width = -(-budget // num_bins)
    steps = -(-stored // width)
    best = np.zeros(num_bins + 1)
    taken = np.zeros((len(losses), num_bins + 1), dtype=np.int8)
    for unit, (row, sizes) in enumerate(zip(losses, steps, strict=True)):
        candidates = np.full((len(row), num_bins + 1), np.inf)
        for target, size in enumerate(sizes):
            if size <= num_bins:
                candidates[target, size:] = best[: num_bins + 1 - size] + row[target]
        taken[unit] = candidates.argmin(axis=0)
        best = candidates.min(axis=0)
    place = int(best.argmin())
    if not np.isfinite(best[place]):
        msg = "no plan in bins"
        raise ValueError(msg)
    chosen = np.zeros(len(losses), dtype=np.int64)
    for unit in reversed(range(len(losses))):
        chosen[unit] = taken[unit, place]
        place -= int(steps[unit, chosen[unit]])
    return chosen


def one_multiplier(losses: Floats, stored: Integers, budget: int) -> Integers:
    """Bisect the price of a byte; the last plan within the budget."""
    low, high = 0.0, float(np.ptp(losses)) + 1.0
    units, chosen = np.arange(len(losses)), stored.argmin(axis=1)
    for _ in range(200):
        price = (low + high) / 2
        trial = (losses + price * stored).argmin(axis=1)
        if int(stored[units, trial].sum()) <= budget:
            high, chosen = price, trial
        else:
            low = price
    return chosen


PEERS = {
    "greedy by gain per byte": greedy,
    "dynamic program, 10,000 bins": binned_dynamic_program,
    "one Lagrange multiplier": one_multiplier,
}
