"""The program as a record of numbers: what is chosen, what it costs, what limits it.

Let u range over units and f over the formats F(u) that u may have, with binary x(u, f):

    minimise    L(x), or the sum of a row, or several of these one after the other
    subject to  Σ_f x(u, f) = 1                       for every unit u
                the limits and rules of rules.py

A row is a table of integers a(u, f): bytes, bit-weights, picoseconds. What rows add up to is therefore exact, and so
is feasibility. Costs are real numbers.

Knows nothing about engines, nor about what a unit is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from .atomic import whole_file
from .errors import ScantlingError
from .rules import Allow, Distinct, Limit, LossLimit, Order, Rule, Tie

LOSS: Final = "loss_increase"


@dataclass(frozen=True)
class Unit:
    """One decision.

    Attributes:
        name: unique in the instance.
        formats: the names of the formats that it may have, at least one.
        bits: their widths, which orders compare.
    """

    name: str
    formats: tuple[str, ...]
    bits: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """Something that formats add to, in integer steps.

    Attributes:
        name: for instance ``stored_bytes``.
        measure: what it is counted in, for instance ``bytes`` or ``seconds``.
        amounts: a(u, f), one tuple a unit.
        fixed: what is there whatever the units do.
        step: one integer step in ``measure``.
    """

    name: str
    measure: str
    amounts: tuple[tuple[int, ...], ...]
    fixed: int = 0
    step: float = 1.0


@dataclass(frozen=True)
class LoadCase:
    """What formats cost on one kind of text.

    Attributes:
        name: for instance ``prose``.
        loss_increase_nats: c(u, f), one tuple a unit, in nats per token.
        deviations_nats: d(u, f, s), such that the standard error of Σ c(u, f) x(u, f) is √(Σ_s (Σ d(u, f, s) x(u, f))²);
            empty where it is not known.
    """

    name: str
    loss_increase_nats: tuple[tuple[float, ...], ...]
    deviations_nats: tuple[tuple[tuple[float, ...], ...], ...] = ()


@dataclass(frozen=True)
class LossMeasure:
    """How load cases and their uncertainty become one number L(x).

    L(x) = mean or maximum over the load cases of (Σ c x + k · standard error of Σ c x). The mean is that of the cases'
    costs and deviations, case by case independent.

    Attributes:
        over_cases: ``mean`` or ``worst``.
        standard_errors: k ≥ 0.
    """

    over_cases: Literal["mean", "worst"] = "mean"
    standard_errors: float = 0.0


@dataclass(frozen=True)
class Instance:
    """The whole program.

    Attributes:
        units: the decisions.
        rows: what can be limited.
        load_cases: what formats cost, at least one.
        rules: limits and rules.
        loss: how the load cases become one number.
        minimise: ``loss_increase`` or a row's name; the second decides among the optima of the first, and so on.

    Raises:
        ScantlingError: a table of the wrong shape, a repeated name, a cost that is not finite, a rule about a unit or a
            row that is not there.
    """

    units: tuple[Unit, ...]
    rows: tuple[Row, ...]
    load_cases: tuple[LoadCase, ...]
    rules: tuple[Rule, ...] = ()
    loss: LossMeasure = LossMeasure()
    minimise: tuple[str, ...] = (LOSS,)

    def __post_init__(self) -> None:
        _refuse_malformed(self)

    @cached_property
    def row_index(self) -> dict[str, int]:
        """The position of every row by its name."""
        return {row.name: index for index, row in enumerate(self.rows)}

    def row(self, name: str) -> Row:
        """Give a row.

        Args:
            name: its name.

        Returns:
            The row.
        """
        return self.rows[self.row_index[name]]

    def amount(self, name: str, choice: Sequence[int], units: Sequence[int] | None = None) -> int:
        """Add up one row for a choice.

        Args:
            name: the row.
            choice: the index of the format that each unit takes.
            units: the units summed; None for all, and what is fixed.

        Returns:
            Integer steps of the row.
        """
        row = self.row(name)
        chosen = range(len(self.units)) if units is None else units
        return (row.fixed if units is None else 0) + sum(row.amounts[u][choice[u]] for u in chosen)

    def case_loss_nats(self, case: LoadCase, choice: Sequence[int]) -> tuple[float, float]:
        """Add up one load case for a choice, exactly rounded.

        Args:
            case: the load case.
            choice: the index of the format that each unit takes.

        Returns:
            Σ c x and its standard error, in nats per token; the error is 0 where it is not known.
        """
        mean = math.fsum(costs[index] for costs, index in zip(case.loss_increase_nats, choice, strict=True))
        if not case.deviations_nats:
            return mean, 0.0
        chosen = (deviations[index] for deviations, index in zip(case.deviations_nats, choice, strict=True))
        return mean, math.hypot(*(math.fsum(samples) for samples in zip(*chosen, strict=True)))

    def loss_increase_nats(self, choice: Sequence[int]) -> float:
        """Add up the predicted loss increase of a choice.

        Args:
            choice: the index of the format that each unit takes, in the order of ``units``.

        Returns:
            L(x), in nats per token.
        """
        cases = [self.case_loss_nats(case, choice) for case in self.load_cases]
        k = self.loss.standard_errors
        if self.loss.over_cases == "worst":
            return max(mean + k * error for mean, error in cases)
        mean = math.fsum(mean for mean, _ in cases) / len(cases)
        return mean + k * math.hypot(*(error for _, error in cases)) / len(cases)

    def objective(self, name: str, choice: Sequence[int]) -> float:
        """Add up an objective of a choice.

        Args:
            name: ``loss_increase``, or a row's name.
            choice: the index of the format that each unit takes.

        Returns:
            Nats per token, or integer steps of the row.
        """
        return self.loss_increase_nats(choice) if name == LOSS else self.amount(name, choice)

    def with_rules(self, rules: Sequence[Rule]) -> "Instance":
        """Give the same program under other rules.

        Args:
            rules: all of its limits and rules.

        Returns:
            The program.
        """
        return replace(self, rules=tuple(rules))


INSTANCE = TypeAdapter(Instance)


def _refuse_malformed(instance: Instance) -> None:
    for what, names in (
        ("units", [unit.name for unit in instance.units]),
        ("rows", [row.name for row in instance.rows]),
        ("load cases", [case.name for case in instance.load_cases]),
    ):
        if len(set(names)) != len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise ScantlingError(f"two {what} are called {repeated!r}. Each needs a name of its own.")
    if not instance.load_cases:
        raise ScantlingError("the program has no load case. State what formats cost on at least one kind of text.")
    for unit in instance.units:
        if not unit.formats or len(unit.bits) != len(unit.formats):
            raise ScantlingError(
                f"the unit {unit.name!r} has {len(unit.formats)} formats and {len(unit.bits)} widths. "
                "Offer at least one format, each with its width."
            )
        if len(set(unit.formats)) != len(unit.formats):
            raise ScantlingError(f"the unit {unit.name!r} offers a format twice: {', '.join(unit.formats)}.")
    for row in instance.rows:
        _refuse_misshapen(instance, row.amounts, f"the row {row.name!r}")
    for case in instance.load_cases:
        _refuse_misshapen(instance, case.loss_increase_nats, f"the load case {case.name!r}")
        _refuse_unusable_costs(instance, case)
    if not (math.isfinite(instance.loss.standard_errors) and instance.loss.standard_errors >= 0):
        raise ScantlingError(
            f"the robust objective adds {instance.loss.standard_errors} standard errors. Give a number from 0 up."
        )
    known = {LOSS, *instance.row_index}
    if (
        not instance.minimise
        or not set(instance.minimise) <= known
        or len(set(instance.minimise)) != len(instance.minimise)
    ):
        raise ScantlingError(
            f"cannot minimise {', '.join(instance.minimise) or 'nothing'}. Name one or several, each once, "
            f"of: {', '.join(sorted(known))}."
        )
    for rule in instance.rules:
        _refuse_stray(instance, rule)


def _refuse_misshapen(instance: Instance, table: Sequence[Sequence[object]], name: str) -> None:
    if len(table) != len(instance.units):
        raise ScantlingError(f"{name} states {len(table)} units of {len(instance.units)}. State each.")
    for unit, entries in zip(instance.units, table, strict=True):
        if len(entries) != len(unit.formats):
            raise ScantlingError(
                f"{name} states {len(entries)} amounts for the {len(unit.formats)} formats of {unit.name!r}. "
                "State one for each."
            )


def _refuse_unusable_costs(instance: Instance, case: LoadCase) -> None:
    for unit, costs in zip(instance.units, case.loss_increase_nats, strict=True):
        for format_name, cost in zip(unit.formats, costs, strict=True):
            if not math.isfinite(cost):
                raise ScantlingError(
                    f"the loss increase of {unit.name!r} in {format_name!r} is {cost} in the load case {case.name!r}. "
                    "Every cost must be a finite number: profile the model again."
                )
    if not case.deviations_nats:
        if instance.loss.standard_errors:
            raise ScantlingError(
                f"the load case {case.name!r} states no standard errors, which the robust objective needs. "
                "Profile with at least two sequences, or leave the standard errors out."
            )
        return
    _refuse_misshapen(instance, case.deviations_nats, f"the deviations of the load case {case.name!r}")
    samples = [deviations for unit in case.deviations_nats for deviations in unit]
    if len({len(deviations) for deviations in samples}) > 1 or not np.isfinite(np.array(samples)).all():
        raise ScantlingError(
            f"the deviations of the load case {case.name!r} are not finite numbers of equally many samples."
        )


def _refuse_stray(instance: Instance, rule: Rule) -> None:
    match rule:
        case Limit():
            if rule.row not in instance.row_index:
                raise ScantlingError(
                    f"the limit {rule.name!r} is on {rule.row!r}, which is no row. Rows: "
                    f"{', '.join(instance.row_index) or 'none'}."
                )
            if (rule.at_most is None) == (rule.at_least is None):
                raise ScantlingError(
                    f"the limit {rule.name!r} needs either at_most or at_least. Two bounds, two limits."
                )
            units: list[int] = list(rule.units or ())
        case LossLimit():
            if not math.isfinite(rule.at_most_nats):
                raise ScantlingError(f"the limit {rule.name!r} on the loss is {rule.at_most_nats}. Give a number.")
            units = []
        case Allow():
            units = [unit for unit, _ in rule.allowed]
            for unit, formats in rule.allowed:
                if 0 <= unit < len(instance.units) and not set(formats) <= set(
                    range(len(instance.units[unit].formats))
                ):
                    raise ScantlingError(
                        f"the rule {rule.name!r} names formats {formats} of {instance.units[unit].name!r}, "
                        f"which has {len(instance.units[unit].formats)}."
                    )
        case Tie():
            units = [unit for group in rule.groups for unit in group]
        case Order():
            units = [unit for pair in rule.pairs for unit in pair]
        case Distinct():
            units = list(rule.units)
            if rule.at_most_formats < 1:
                raise ScantlingError(
                    f"the rule {rule.name!r} allows {rule.at_most_formats} distinct formats. Allow at least 1."
                )
    strays = [unit for unit in units if not 0 <= unit < len(instance.units)]
    if strays:
        raise ScantlingError(f"the rule {rule.name!r} names the unit {strays[0]}, of {len(instance.units)} in all.")


def write_instance(instance: Instance, path: Path) -> None:
    """Write the program as JSON, whole or not at all.

    Args:
        instance: the program.
        path: the file, replaced where it exists.
    """
    with whole_file(path) as partial:
        partial.write_bytes(INSTANCE.dump_json(instance) + b"\n")


def read_instance(path: Path) -> Instance:
    """Read a program.

    Args:
        path: the file.

    Returns:
        The program.

    Raises:
        ScantlingError: there is no such file, or it is not a program.
    """
    try:
        return INSTANCE.validate_json(path.read_bytes())
    except OSError as error:
        raise ScantlingError(f"cannot read the program {path}: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ScantlingError(f"{path} is not a program: {where}: {first['msg']}.") from error
