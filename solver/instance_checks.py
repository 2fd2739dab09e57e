"""Checks that an instance makes sense.

Knows nothing about solvers.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from ..common.errors import InputError
from .rules import Allow, Distinct, Limit, LossLimit, Order, Rule, Tie

if TYPE_CHECKING:
    from .instance import DomainCosts, Instance

LOSS: Final = "loss_increase"


def validate_instance(instance: "Instance") -> None:
    """Check shapes of tables, names, costs, objectives, and that rules refer to existing units, rows and formats."""
    for what, names in (
        ("units", [unit.name for unit in instance.units]),
        ("rows", [row.name for row in instance.rows]),
        ("domains", [domain.name for domain in instance.domains]),
    ):
        if len(set(names)) != len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise InputError(f"two {what} are named {repeated!r}. Give each a unique name.")
    _require_formats(instance)
    for row in instance.rows:
        _validate_shapes(instance, row.amounts, f"the row {row.name!r}")
    if not instance.domains:
        raise InputError("the program has no domain. Give the costs of formats on at least one.")
    for domain in instance.domains:
        _validate_shapes(instance, domain.loss_increase_nats, f"the domain {domain.name!r}")
        _validate_costs(instance, domain)
    _validate_objectives(instance)
    for rule in instance.rules:
        _validate_rule(instance, rule)


def _require_formats(instance: "Instance") -> None:
    for unit in instance.units:
        if not unit.formats or len(unit.bits) != len(unit.formats):
            raise InputError(
                f"the unit {unit.name!r} has {len(unit.formats)} formats and {len(unit.bits)} widths. "
                "Offer at least one format, each with its width."
            )
        if len(set(unit.formats)) != len(unit.formats):
            raise InputError(f"the unit {unit.name!r} offers a format twice: {', '.join(unit.formats)}.")


def _validate_shapes(instance: "Instance", table: Sequence[Sequence[object]], name: str) -> None:
    if len(table) != len(instance.units):
        raise InputError(f"{name} covers {len(table)} units of {len(instance.units)}. Cover each.")
    for unit, entries in zip(instance.units, table, strict=True):
        if len(entries) != len(unit.formats):
            raise InputError(
                f"{name} gives {len(entries)} amounts for the {len(unit.formats)} formats of {unit.name!r}. "
                "Give one for each."
            )


def _validate_costs(instance: "Instance", domain: "DomainCosts") -> None:
    for unit, costs in zip(instance.units, domain.loss_increase_nats, strict=True):
        for format_name, cost in zip(unit.formats, costs, strict=True):
            if not math.isfinite(cost):
                raise InputError(
                    f"the loss increase of {unit.name!r} in {format_name!r} is {cost} in the domain {domain.name!r}. "
                    "Every cost must be a finite number: profile the model again."
                )
    if not domain.deviations_nats:
        if instance.loss.standard_errors:
            raise InputError(
                f"the domain {domain.name!r} has no standard errors, which the robust objective needs. "
                "Profile with at least two sequences, or leave the standard errors out."
            )
        return
    _validate_shapes(instance, domain.deviations_nats, f"the deviations of the domain {domain.name!r}")
    samples = [deviations for unit in domain.deviations_nats for deviations in unit]
    if len({len(deviations) for deviations in samples}) > 1 or not np.isfinite(np.array(samples)).all():
        raise InputError(f"the deviations of the domain {domain.name!r} must be finite, equally many for every format.")


def _validate_objectives(instance: "Instance") -> None:
    if not (math.isfinite(instance.loss.standard_errors) and instance.loss.standard_errors >= 0):
        raise InputError(
            f"the standard errors of a robust objective must be 0 or more, got {instance.loss.standard_errors}."
        )
    known = {LOSS, *instance.row_index}
    objectives = instance.minimise
    if not objectives or not set(objectives) <= known or len(set(objectives)) != len(objectives):
        raise InputError(
            f"cannot minimise {', '.join(objectives) or 'nothing'}. Name one or several of these, each once: "
            f"{', '.join(sorted(known))}."
        )


def _validate_rule(instance: "Instance", rule: Rule) -> None:
    if isinstance(rule, Limit):
        _validate_limit(instance, rule)
    if isinstance(rule, LossLimit) and not math.isfinite(rule.at_most_nats):
        raise InputError(f"the limit {rule.name!r} on the loss must be finite, got {rule.at_most_nats}.")
    if isinstance(rule, Distinct) and rule.at_most_formats < 1:
        raise InputError(f"the rule {rule.name!r} must allow at least 1 distinct format, got {rule.at_most_formats}.")
    strays = [unit for unit in _units_of(rule) if not 0 <= unit < len(instance.units)]
    if strays:
        raise InputError(f"the rule {rule.name!r} names the unit {strays[0]}; the program has {len(instance.units)}.")
    if isinstance(rule, Allow):
        for unit, formats in rule.allowed:
            if not set(formats) <= set(range(len(instance.units[unit].formats))):
                raise InputError(
                    f"the rule {rule.name!r} names formats {formats} of {instance.units[unit].name!r}, "
                    f"which has {len(instance.units[unit].formats)}."
                )


def _validate_limit(instance: "Instance", limit: Limit) -> None:
    if limit.row not in instance.row_index:
        raise InputError(
            f"the limit {limit.name!r} is on {limit.row!r}, which is not a row. Rows: "
            f"{', '.join(instance.row_index) or 'none'}."
        )
    if (limit.at_most is None) == (limit.at_least is None):
        raise InputError(f"the limit {limit.name!r} needs either at_most or at_least. Write two limits for two bounds.")


def _units_of(rule: Rule) -> list[int]:
    match rule:
        case Limit():
            return list(rule.units or ())
        case LossLimit():
            return []
        case Allow():
            return [unit for unit, _ in rule.allowed]
        case Tie():
            return [unit for group in rule.groups for unit in group]
        case Order():
            return [unit for pair in rule.pairs for unit in pair]
        case Distinct():
            return list(rule.units)
