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
class StandardForm:
    """The arrays; options of one group stand beside each other.

    Attributes:
        starts: first option of every group, int64 [groups + 1].
        costs: float64 [vectors, options].
        constants: float64 [vectors].
        amounts: int64 [rows, options].
        at_most: int64 [rows].
        bits: float64 [options], what orders compare.
        formats: int64 [options], the same number for the same format.
        picks: for every option the index of the format that each unit of its group takes.
        units: the units of every group.
        orders: (finer group, coarser group).
        distinct: (groups, at most that many formats).
        slack_prices: None; or int64 [rows], then a row may be exceeded at this price a step, and costs do not count.
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
    distinct: tuple[tuple[tuple[int, ...], int], ...] = ()
    slack_prices: Integers | None = None

    @property
    def num_groups(self) -> int:
        """Decisions."""
        return len(self.starts) - 1

    @property
    def num_options(self) -> int:
        """Binaries."""
        return int(self.starts[-1])

    @cached_property
    def group_of(self) -> Integers:
        """The group of every option, int64 [options]."""
        return np.repeat(np.arange(self.num_groups), np.diff(self.starts))

    def smallest(self, values: Floats | Integers) -> Floats | Integers:
        """Take the minimum over every group.

        Args:
            values: one number an option, [..., options].

        Returns:
            [..., groups].
        """
        smallest: Floats | Integers = np.minimum.reduceat(values, self.starts[:-1], axis=-1)
        return smallest

    def ranges(self) -> Integers:
        """Give how far apart the smallest and the largest sum of every row are.

        Returns:
            int64 [rows].
        """
        ranges: Integers = (-self.smallest(-self.amounts) - self.smallest(self.amounts)).sum(axis=1)
        return ranges

    def cheapest(self, values: Floats) -> Integers:
        """Find the first option of least value in every group.

        Args:
            values: one number an option, [options].

        Returns:
            Positions of options, int64 [groups].
        """
        at_minimum = values == self.smallest(values)[self.group_of]
        positions = np.where(at_minimum, np.arange(self.num_options), self.num_options)
        cheapest: Integers = np.minimum.reduceat(positions, self.starts[:-1])
        return cheapest

    def keep(self, mask: Mask) -> "StandardForm | None":
        """Give the statement without some options.

        Args:
            mask: the options that stay.

        Returns:
            The smaller statement; None where a group would have no option left.
        """
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
        """Add up the objective of chosen options in floating point.

        Args:
            chosen: one option a group, int64 [groups].

        Returns:
            max_v (Σ cost + constant).
        """
        return float((self.costs[:, chosen].sum(axis=1) + self.constants).max())

    def meets_limits(self, chosen: Integers) -> bool:
        """Tell whether chosen options keep to every row, order and rule of distinct formats.

        Args:
            chosen: one option a group, int64 [groups].

        Returns:
            Whether they do.
        """
        if (self.amounts[:, chosen].sum(axis=1) > self.at_most).any():
            return False
        bits, formats = self.bits[chosen], self.formats[chosen]
        return all(bits[finer] >= bits[coarser] for finer, coarser in self.orders) and all(
            len(set(formats[list(groups)].tolist())) <= most for groups, most in self.distinct
        )

    def choice(self, chosen: Integers) -> tuple[int, ...]:
        """Translate chosen options into the instance's terms.

        Args:
            chosen: one option a group, int64 [groups].

        Returns:
            The index of the format that each unit takes, in the order of the units.
        """
        index_of_unit = {
            unit: index
            for units, option in zip(self.units, chosen.tolist(), strict=True)
            for unit, index in zip(units, self.picks[option], strict=True)
        }
        return tuple(index_of_unit[unit] for unit in range(len(index_of_unit)))

    def chosen(self, choice: tuple[int, ...]) -> Integers | None:
        """Translate a choice of the instance into options of this statement.

        Args:
            choice: the index of the format that each unit takes.

        Returns:
            One option a group; None where the choice takes an option that is not there.
        """
        found = []
        for group, units in enumerate(self.units):
            pick = tuple(choice[unit] for unit in units)
            options = range(int(self.starts[group]), int(self.starts[group + 1]))
            matching = [option for option in options if self.picks[option] == pick]
            if not matching:
                return None
            found.append(matching[0])
        return np.array(found, dtype=np.int64)
