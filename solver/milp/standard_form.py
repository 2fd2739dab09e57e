"""The program in arrays, as presolve and solvers work on it.

Ties have become groups of units, forbidden formats are gone, every limit is a row of integers with an upper bound,
and the objective is the largest of one or several cost vectors (one for the mean, several for worst cases and robust
objectives):

    minimise max_v (Σ_i cost(v, i) x(i) + constant(v))    subject to   Σ_i amount(k, i) x(i) ≤ at_most(k),
    one option i of every group; orders; at most N distinct formats among some groups.

Knows nothing about layers, files or solvers.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class DistinctLimit:
    """At most ``at_most`` distinct formats among some groups."""

    groups: tuple[int, ...]
    at_most: int


@dataclass(frozen=True)
class StandardForm:
    """The arrays; the options of one group are adjacent.

    Attributes:
        starts: first option of every group, int64 [groups + 1].
        costs: float64 [vectors, options].
        constants: float64 [vectors].
        amounts: int64 [rows, options].
        at_most: int64 [rows].
        bits: float64 [options], which orders compare.
        formats: int64 [options], the same number for the same format.
        picks: for every option the index of the format that each unit of its group takes.
        units: the units of every group.
        orders: (finer group, coarser group).
        distinct: limits on the number of distinct formats.
        slack_prices: None; or int64 [rows], then a row may be exceeded at this price per step, and costs do not count.
    """

    starts: Integers
    costs: Floats
    constants: Floats
    amounts: Integers
    at_most: Integers
    bits: Floats
    formats: Integers
    picks: tuple[tuple[int, ...], ...] = field(repr=False)
    units: tuple[tuple[int, ...], ...] = field(repr=False)
    orders: tuple[tuple[int, int], ...] = ()
    distinct: tuple[DistinctLimit, ...] = ()
    slack_prices: Integers | None = None

    @property
    def num_groups(self) -> int:
        """The number of decisions."""
        return len(self.starts) - 1

    @property
    def num_options(self) -> int:
        """The number of binaries."""
        return int(self.starts[-1])

    @cached_property
    def group_of(self) -> Integers:
        """The group of every option, int64 [options]."""
        return np.repeat(np.arange(self.num_groups), np.diff(self.starts))

    def smallest(self, values: Floats | Integers) -> Floats | Integers:
        """Return the minimum over every group, [..., options] to [..., groups]."""
        smallest: Floats | Integers = np.minimum.reduceat(values, self.starts[:-1], axis=-1)
        return smallest

    def ranges(self) -> Integers:
        """Return the distance between the smallest and the largest sum of every row, int64 [rows]."""
        ranges: Integers = (-self.smallest(-self.amounts) - self.smallest(self.amounts)).sum(axis=1)
        return ranges

    def cheapest(self, values: Floats) -> Integers:
        """Find the first option of least value in every group, [options] to int64 [groups]."""
        at_minimum = values == self.smallest(values)[self.group_of]
        positions = np.where(at_minimum, np.arange(self.num_options), self.num_options)
        cheapest: Integers = np.minimum.reduceat(positions, self.starts[:-1])
        return cheapest

    def keep(self, mask: Mask) -> "StandardForm | None":
        """Return the form with the masked options only; None if a group would have no option left."""
        if mask.all():
            return self
        counts = np.add.reduceat(mask.astype(np.int64), self.starts[:-1])
        if not counts.all():
            return None
        return replace(
            self,
            starts=np.concatenate([[0], np.cumsum(counts)]),
            costs=self.costs[:, mask],
            amounts=self.amounts[:, mask],
            bits=self.bits[mask],
            formats=self.formats[mask],
            picks=tuple(self.picks[i] for i in np.flatnonzero(mask)),
        )

    def objective(self, chosen: Integers) -> float:
        """Return max_v (Σ cost + constant) of chosen options, one per group, in floating point."""
        return float((self.costs[:, chosen].sum(axis=1) + self.constants).max())

    def meets_limits(self, chosen: Integers) -> bool:
        """Tell whether chosen options, one per group, meet every row, order and limit on distinct formats."""
        if (self.amounts[:, chosen].sum(axis=1) > self.at_most).any():
            return False
        bits, formats = self.bits[chosen], self.formats[chosen]
        return all(bits[finer] >= bits[coarser] for finer, coarser in self.orders) and all(
            len(set(formats[list(limit.groups)].tolist())) <= limit.at_most for limit in self.distinct
        )

    def choice(self, chosen: Integers) -> tuple[int, ...]:
        """Translate chosen options into the index of the format that each unit takes."""
        index_of_unit = {
            unit: index
            for units, option in zip(self.units, chosen.tolist(), strict=True)
            for unit, index in zip(units, self.picks[option], strict=True)
        }
        return tuple(index_of_unit[unit] for unit in range(len(index_of_unit)))

    def chosen(self, choice: tuple[int, ...]) -> Integers | None:
        """Translate a choice of the instance into one option per group; None if it takes an option that is gone."""
        found = []
        for group, units in enumerate(self.units):
            pick = tuple(choice[unit] for unit in units)
            options = range(int(self.starts[group]), int(self.starts[group + 1]))
            matching = [option for option in options if self.picks[option] == pick]
            if not matching:
                return None
            found.append(matching[0])
        return np.array(found, dtype=np.int64)
