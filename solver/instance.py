"""The program as a record of numbers: what is chosen, what it costs, what limits it.

Let u range over units and f over the formats F(u) that u may have, with binary x(u, f):

    minimise    Σ c(u, f) x(u, f)
    subject to  Σ_f x(u, f) = 1                       for every unit u
                Σ a_k(u, f) x(u, f) ≤ b_k             for every limit k

The amounts a_k and the bounds b_k are integers (bytes, bit-weights), so that feasibility is exact.
Knows nothing about engines, nor about what a unit is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ScantlingError


@dataclass(frozen=True)
class Option:
    """One format that a unit may have.

    Attributes:
        format: the format's name.
        loss_increase_nats: c(u, f), in nats per token.
        amounts: a_k(u, f), one integer for every limit of the instance, in its order.
    """

    format: str
    loss_increase_nats: float
    amounts: tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """One decision: a layer, or layers that share their format.

    Attributes:
        name: unique in the instance.
        options: the formats to choose from, at least one.
    """

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Limit:
    """One row of the program: Σ a(u, f) x(u, f) ≤ at_most.

    Attributes:
        name: what is limited, for instance ``stored_bytes``.
        at_most: the bound b, in the row's unit.
    """

    name: str
    at_most: int


@dataclass(frozen=True)
class Instance:
    """The whole program.

    Attributes:
        units: the decisions.
        limits: the rows.

    Raises:
        ScantlingError: a unit without options, a repeated name, a row of the wrong length, a cost that is not finite.
    """

    units: tuple[Unit, ...]
    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        names = [unit.name for unit in self.units]
        if len(set(names)) != len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise ScantlingError(f"two units are called {repeated[0]!r}. Every unit needs a name of its own.")
        for unit in self.units:
            if not unit.options:
                raise ScantlingError(f"the unit {unit.name!r} has no format to choose from. Offer at least one.")
            for option in unit.options:
                if len(option.amounts) != len(self.limits):
                    raise ScantlingError(
                        f"{unit.name!r} in {option.format!r} states {len(option.amounts)} amounts "
                        f"for {len(self.limits)} limits. State one for each."
                    )
                if not math.isfinite(option.loss_increase_nats):
                    raise ScantlingError(
                        f"the loss increase of {unit.name!r} in {option.format!r} is {option.loss_increase_nats}. "
                        "Every cost must be a finite number: profile the model again."
                    )

    def loss_increase_nats(self, choice: Sequence[int]) -> float:
        """Add up the objective of a choice, exactly rounded.

        Args:
            choice: the index of the option that each unit takes, in the order of ``units``.

        Returns:
            Σ c(u, f) x(u, f), in nats per token.
        """
        return math.fsum(unit.options[index].loss_increase_nats for unit, index in zip(self.units, choice, strict=True))

    def amount(self, limit_index: int, choice: Sequence[int]) -> int:
        """Add up one row for a choice.

        Args:
            limit_index: the row k.
            choice: the index of the option that each unit takes.

        Returns:
            Σ a_k(u, f) x(u, f).
        """
        return sum(unit.options[index].amounts[limit_index] for unit, index in zip(self.units, choice, strict=True))

    def smallest_amount(self, limit_index: int) -> int:
        """Give the least that a row can come to.

        Args:
            limit_index: the row k.

        Returns:
            Σ_u min_f a_k(u, f).
        """
        return sum(min(option.amounts[limit_index] for option in unit.options) for unit in self.units)

    def largest_amount(self, limit_index: int) -> int:
        """Give the most that a row can come to.

        Args:
            limit_index: the row k.

        Returns:
            Σ_u max_f a_k(u, f).
        """
        return sum(max(option.amounts[limit_index] for option in unit.options) for unit in self.units)
