"""The program as a record of numbers: what is chosen, what it costs, what limits it.

Let u range over units and f over the formats F(u) that u may have, with binary x(u, f):

    minimise    L(x), or the sum of a row, or several of these one after the other
    subject to  Σ_f x(u, f) = 1                       for every unit u
                the limits and rules of rules.py

A row is a table of integers a(u, f): bytes, bit-weights, picoseconds. What rows add up to is therefore exact, and so
is feasibility. Costs are real numbers.

Knows nothing about solvers, nor about what a unit is.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ..common.errors import FileFormatError
from ..common.files import whole_file
from ..common.records import with_renamed_keys
from .instance_checks import LOSS, validate_instance
from .rules import Limit, LossLimit, Rule


@dataclass(frozen=True)
class Unit:
    """One decision.

    Attributes:
        name: unique in the instance.
        formats: the names of the formats that it may take, at least one.
        bits: their widths, which orders compare.
    """

    name: str
    formats: tuple[str, ...]
    bits: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A quantity that every format adds to, in integer steps.

    Attributes:
        name: for instance ``stored_bytes``.
        measure: its unit, for instance ``bytes`` or ``seconds``.
        amounts: a(u, f), one tuple per unit.
        fixed: the part that no unit changes.
        step: one integer step in ``measure``.
    """

    name: str
    measure: str
    amounts: tuple[tuple[int, ...], ...]
    fixed: int = 0
    step: float = 1.0


@dataclass(frozen=True)
class DomainCosts:
    """What formats cost on one domain of text.

    Attributes:
        name: for instance ``prose``.
        loss_increase_nats: c(u, f), one tuple per unit, in nats per token.
        deviations_nats: d(u, f, s), such that the standard error of Σ c(u, f) x(u, f) is √(Σ_s (Σ d(u, f, s) x(u,
            f))²); empty if it is not known.
    """

    name: str
    loss_increase_nats: tuple[tuple[float, ...], ...]
    deviations_nats: tuple[tuple[tuple[float, ...], ...], ...] = ()


@dataclass(frozen=True)
class LossMeasure:
    """How domains and their uncertainty become one number L(x).

    L(x) = mean or maximum over the domains of (Σ c x + k · standard error of Σ c x). The mean is that of the domains'
    costs and deviations, the domains being independent.

    Attributes:
        over_domains: ``mean`` or ``worst``.
        standard_errors: k ≥ 0.
    """

    over_domains: Literal["mean", "worst"] = "mean"
    standard_errors: float = 0.0


@dataclass(frozen=True)
class Instance:
    """The whole program.

    Attributes:
        units: the decisions.
        rows: what can be limited.
        domains: what formats cost, at least one.
        rules: limits and rules.
        loss: how the domains become one number.
        minimise: ``loss_increase`` or a row's name; the second decides among the optima of the first, and so on.

    Raises:
        InputError: a table of the wrong shape, a repeated name, a cost that is not finite, or a rule about a unit or a
            row that does not exist.
    """

    units: tuple[Unit, ...]
    rows: tuple[Row, ...]
    domains: tuple[DomainCosts, ...]
    rules: tuple[Rule, ...] = ()
    loss: LossMeasure = LossMeasure()
    minimise: tuple[str, ...] = (LOSS,)

    def __post_init__(self) -> None:
        validate_instance(self)

    @cached_property
    def row_index(self) -> dict[str, int]:
        """The position of every row by its name."""
        return {row.name: index for index, row in enumerate(self.rows)}

    def row(self, name: str) -> Row:
        """Return the row of this name."""
        return self.rows[self.row_index[name]]

    def amount(self, name: str, choice: Sequence[int], units: Sequence[int] | None = None) -> int:
        """Sum one row for a choice.

        Args:
            name: the row.
            choice: the index of the format that each unit takes.
            units: the units summed; None for all, and the fixed part.

        Returns:
            Integer steps of the row.
        """
        row = self.row(name)
        chosen = range(len(self.units)) if units is None else units
        return (row.fixed if units is None else 0) + sum(row.amounts[u][choice[u]] for u in chosen)

    def span(self, limit: Limit) -> tuple[int, int]:
        """Return the smallest and the largest sum that a limit bounds, in steps of its row, rules aside."""
        row = self.row(limit.row)
        units = range(len(self.units)) if limit.units is None else limit.units
        fixed = row.fixed if limit.units is None else 0
        return fixed + sum(min(row.amounts[u]) for u in units), fixed + sum(max(row.amounts[u]) for u in units)

    def used(self, limit: Limit | LossLimit, choice: Sequence[int]) -> int | float:
        """Sum what a limit bounds, in steps of its row or in nats per token."""
        if isinstance(limit, LossLimit):
            return self.loss_increase_nats(choice)
        return self.amount(limit.row, choice, limit.units)

    def domain_loss_nats(self, domain: DomainCosts, choice: Sequence[int]) -> tuple[float, float]:
        """Sum one domain for a choice, exactly rounded.

        Args:
            domain: the domain.
            choice: the index of the format that each unit takes.

        Returns:
            Σ c x and its standard error, in nats per token; the error is 0 if it is not known.
        """
        mean = math.fsum(costs[index] for costs, index in zip(domain.loss_increase_nats, choice, strict=True))
        if not domain.deviations_nats:
            return mean, 0.0
        chosen = (deviations[index] for deviations, index in zip(domain.deviations_nats, choice, strict=True))
        return mean, math.hypot(*(math.fsum(samples) for samples in zip(*chosen, strict=True)))

    def loss_increase_nats(self, choice: Sequence[int]) -> float:
        """Return L(x) of a choice, the index of the format that each unit takes, in nats per token."""
        domains = [self.domain_loss_nats(domain, choice) for domain in self.domains]
        k = self.loss.standard_errors
        if self.loss.over_domains == "worst":
            return max(mean + k * error for mean, error in domains)
        mean = math.fsum(mean for mean, _ in domains) / len(domains)
        return mean + k * math.hypot(*(error for _, error in domains)) / len(domains)

    def objective(self, name: str, choice: Sequence[int]) -> float:
        """Return an objective of a choice, in nats per token or integer steps of the row."""
        return self.loss_increase_nats(choice) if name == LOSS else self.amount(name, choice)

    def with_rules(self, rules: Sequence[Rule]) -> "Instance":
        """Return the same program under other limits and rules."""
        return replace(self, rules=tuple(rules))


__all__ = [
    "INSTANCE",
    "LOSS",
    "DomainCosts",
    "Instance",
    "LossMeasure",
    "Row",
    "Unit",
    "read_instance",
    "write_instance",
]
_RENAMED_KEYS: Final = {"load_cases": "domains", "over_cases": "over_domains"}  # of version 0.1
INSTANCE = TypeAdapter(Instance)


def write_instance(instance: Instance, path: Path) -> None:
    """Write the program as JSON, whole or not at all; an existing file is replaced."""
    with whole_file(path) as partial:
        partial.write_bytes(INSTANCE.dump_json(instance) + b"\n")


def read_instance(path: Path) -> Instance:
    """Read a program, also one of version 0.1.

    Args:
        path: the file.

    Returns:
        The program.

    Raises:
        FileFormatError: the file does not exist, or is no program.
        InputError: it is a program that makes no sense.
    """
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise FileFormatError(f"cannot read the program {path}: {error.strerror}.") from error
    except ValueError as error:
        raise FileFormatError(f"{path} is not a program: it is not JSON: {error}.") from error
    try:
        return INSTANCE.validate_json(json.dumps(with_renamed_keys(raw, _RENAMED_KEYS)))
    except PydanticCustomError as error:
        raise FileFormatError(f"{path} is not a program: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FileFormatError(f"{path} is not a program: {where}: {first['msg']}.") from error
