"""Constraints, lowered to the rows and rules of the solver's instance.

Limits and rows of one's own are lowered here, rules about choices in lower_choices.py.

Knows nothing about where constraints come from; messages begin with a constraint's origin.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.units import exact_number, parse_quantity, render_bytes, render_quantity
from ..hardware.resources import POWER, ROW_OF, SECONDS_PER_TOKEN, Rows
from ..hardware.specification import Hardware
from ..hardware.workload import Workload
from ..sensitivity.profile import Profile
from ..solver.instance import LOSS, DomainCosts, Instance, LossMeasure, Row, Unit
from ..solver.rules import Limit, LossLimit
from .constraint import Constraint, LoweredConstraint, PinToPlan, PlanLimit, with_origin
from .constraints.inference_engines import EngineProfile
from .constraints.limits import Limits
from .constraints.rules import AllowRule, DevicesRule, DistinctRule, LinearRule, OrderRule, SumRule, TieRule
from .layer_table import LayerTable
from .linear_rows import linear_row, part_rows
from .lower_choices import (
    lower_allow,
    lower_coverage,
    lower_distinct,
    lower_engine,
    lower_order,
    lower_pin_to_plan,
    lower_tie,
)

_UPPER_AND_LOWER: Final = ("at most", "at least")
_LOWER_AND_UPPER: Final = ("at least", "at most")  # of speed, whose row counts seconds per token
Bounds = tuple[Fraction | None, Fraction | None]
"""The upper and the lower bound."""


def lower_constraints(
    layers: LayerTable, rows: Rows, constraints: Sequence[Constraint], engine: EngineProfile | None
) -> tuple[LoweredConstraint, ...]:
    """Lower everything that holds for a plan.

    Args:
        layers: of the profile.
        rows: of the profile, for its workload and hardware.
        constraints: of the user.
        engine: the inference engine; None where there is none.

    Returns:
        The engine's rules, what hardware and workload imply, experts without a price, then the constraints in order.

    Raises:
        InputError: a constraint matches nothing, has no effect, or needs a number that was not given.
    """
    lowering = Lowering(layers, rows, dict(rows.available()))
    lowered: dict[int, LoweredConstraint] = {}
    for index, constraint in enumerate(constraints):  # rows of one's own come first: other constraints may name them
        if isinstance(constraint.request, LinearRule | DevicesRule):
            lowered[index] = lowering.lower(constraint)
            for row in lowered[index].rows:
                if row.name in lowering.named:
                    raise InputError(f"{constraint.origin}: two rows are called {row.name!r}. Rename one.")
                lowering.named[row.name] = row
    for index, constraint in enumerate(constraints):
        if index not in lowered:
            lowered[index] = lowering.lower(constraint)
    of_engine = [] if engine is None else lower_engine(layers, engine)
    splits_devices = any(isinstance(constraint.request, DevicesRule) for constraint in constraints)
    implied = [lowering.lower(one) for one in _implied(rows.hardware, rows.workload, splits_devices=splits_devices)]
    return (*of_engine, *implied, *lower_coverage(layers), *(lowered[index] for index in range(len(constraints))))


def _implied(hardware: Hardware | None, workload: Workload, *, splits_devices: bool) -> list[Constraint]:
    """Limit memory to the hardware's, unless devices share it, and speed to the demanded rate."""
    implied = []
    if hardware is not None and hardware.memory is not None and not splits_devices:
        bound = {"at_most": hardware.memory.value, "name": f"memory of {hardware.name}"}
        limits = Limits.model_validate({"memory": bound})
        implied.append(Constraint(PlanLimit("memory", limits.bounds()["memory"]), f"machine {hardware.name}"))
    if workload.rate is not None:
        bound = {"at_least": workload.rate, "name": "rate of the workload"}
        limits = Limits.model_validate({"speed": bound})
        implied.append(Constraint(PlanLimit("speed", limits.bounds()["speed"]), "workload"))
    return implied


@dataclass(frozen=True)
class Lowering:
    """Lowers the constraints on one profile.

    Attributes:
        layers: of the profile.
        rows: of the profile.
        named: rows by name that can be summed, those of users included.
    """

    layers: LayerTable
    rows: Rows
    named: dict[str, Row]

    def lower(self, constraint: Constraint) -> LoweredConstraint:
        """Lower a constraint; what is wrong with it is said with its origin in front."""
        return with_origin(constraint.origin, self._lower, constraint)

    def _lower(self, constraint: Constraint) -> LoweredConstraint:
        origin, layers = constraint.origin, self.layers
        match constraint.request:
            case PlanLimit() as limit:
                return self._plan_limit(limit, origin)
            case SumRule() as rule:
                return self._sum(rule, origin)
            case LinearRule() as rule:
                return self._linear(rule, origin)
            case DevicesRule() as rule:
                return self._devices(rule, origin)
            case PinToPlan() as pin:
                return lower_pin_to_plan(layers, pin, origin)
            case AllowRule() as rule:
                return lower_allow(layers, rule, origin)
            case TieRule() as rule:
                return lower_tie(layers, rule, origin)
            case OrderRule() as rule:
                return lower_order(layers, rule, origin)
            case DistinctRule() as rule:
                return lower_distinct(layers, rule, origin)

    def _plan_limit(self, limit: PlanLimit, origin: str) -> LoweredConstraint:
        bound, name = limit.bound, limit.bound.name or limit.key
        says = f"{limit.key} {_describe_bounds(bound.at_most, bound.at_least)}"
        if limit.key == LOSS:
            assert bound.at_most is not None
            nats = float(parse_quantity(bound.at_most, bound.measure))
            return LoweredConstraint(name, origin, says, None, (LossLimit(name, nats, origin),))
        high, low = (None if b is None else parse_quantity(b, bound.measure) for b in (bound.at_most, bound.at_least))
        if limit.key == "power" and self.rows.rate() is None:
            return self._full_speed_power(name, origin, says, (high, low))
        if limit.key == "speed":
            if high == 0 or low == 0:
                raise InputError("a speed of 0 is no limit. Give tokens per second above 0.")
            seconds = (None if low is None else 1 / low, None if high is None else 1 / high)
            row = self.rows.row(SECONDS_PER_TOKEN)
            return LoweredConstraint(
                name, origin, says, None, _limits(name, row, seconds, None, origin, _LOWER_AND_UPPER)
            )
        row = self.rows.row(ROW_OF[limit.key])
        if limit.key == "average_bits":
            high, low = self._times_weights((high, low), self.layers.matched_decided(None))
        if limit.key == "memory":
            self._require_room(row, high)
        return LoweredConstraint(name, origin, says, None, _limits(name, row, (high, low), None, origin))

    def _require_room(self, row: Row, at_most_bytes: Fraction | None) -> None:
        """Refuse a limit that the KV cache and the activations fill alone."""
        cache, activations = sum(self.rows.kv_cache_by_block), self.rows.activations
        if at_most_bytes is not None and cache + activations > 0 and row.fixed >= at_most_bytes:
            raise InputError(
                f"the workload leaves no memory for weights: of {render_bytes(math.floor(at_most_bytes))} the KV cache "
                f"takes {render_bytes(cache)} and activations about {render_bytes(activations)}. Lower context, batch, "
                "kv_bits or prompt_chunk, or allow more memory."
            )

    def _full_speed_power(self, name: str, origin: str, says: str, bounds: Bounds) -> LoweredConstraint:
        high, low = bounds
        if low is not None or high is None:
            raise InputError("power at full speed can be limited from above only. Give at_most, or a rate.")
        row = self.rows.full_speed_power(f"power at full speed over {high} W", high)
        rules = (Limit(name, row.name, 0, origin=origin),)
        return LoweredConstraint(name, origin, f"{says} at full speed", None, rules, (row,))

    def _times_weights(self, bounds: Bounds, units: tuple[int, ...]) -> Bounds:
        """Turn bounds on average bits into bounds on bits in all."""
        num_weights = sum(self.layers.records[index].num_weights for index in units)
        high, low = bounds
        return (None if high is None else high * num_weights), (None if low is None else low * num_weights)

    def _sum(self, rule: SumRule, origin: str) -> LoweredConstraint:
        row = self._row(rule.sum)
        says = f"sum of {rule.sum} {_describe_bounds(rule.at_most, rule.at_least)}"
        high, low = (
            None if b is None else exact_number(b) if row.measure == "" else parse_quantity(b, row.measure)
            for b in (rule.at_most, rule.at_least)
        )
        units = None if rule.layers is None else self.layers.matched(rule.layers)
        if rule.sum == "average_bits":
            units = self.layers.matched_decided(rule.layers)
            high, low = self._times_weights((high, low), units)
        name = rule.name or says
        return LoweredConstraint(name, origin, says, units, _limits(name, row, (high, low), units, origin))

    def _row(self, name: str) -> Row:
        """Find a row by its name, a limit's key, or the name that a user gave it."""
        if name in self.named:
            return self.named[name]
        if name in ROW_OF:
            return self.rows.row(ROW_OF[name])
        raise InputError(f"there is no row {name!r}. Known: {', '.join(sorted({*ROW_OF, *self.named}))}.")

    def _linear(self, rule: LinearRule, origin: str) -> LoweredConstraint:
        row, units = linear_row(self.layers, rule, rule.name or f"linear row ({origin})")
        high, low = (None if b is None else exact_number(b) for b in (rule.at_most, rule.at_least))
        rules = _limits(row.name, row, (high, low), None, origin)
        says = "linear row " + (_describe_bounds(rule.at_most, rule.at_least) if rules else "without bounds")
        return LoweredConstraint(rule.name or says, origin, says, units, rules, (row,))

    def _devices(self, rule: DevicesRule, origin: str) -> LoweredConstraint:
        rows = part_rows(self.layers, self.rows, rule)
        limits = tuple(
            Limit(row.name, row.name, math.floor(parse_quantity(part.at_most, row.measure)), origin=origin)
            for part, row in zip(rule.devices, rows, strict=True)
        )
        says = ", ".join(
            f"{limit.name} at most {part.at_most}" for limit, part in zip(limits, rule.devices, strict=True)
        )
        return LoweredConstraint(rule.name or says, origin, says, None, limits, tuple(rows))


def _limits(
    name: str,
    row: Row,
    bounds: Bounds,
    units: tuple[int, ...] | None,
    origin: str,
    sides: tuple[str, str] = _UPPER_AND_LOWER,
) -> tuple[Limit, ...]:
    """Bound a row from above and from below, each by a limit of its own."""
    step, (high, low) = exact_number(row.step), bounds
    names = [f"{name} ({side})" for side in sides] if high is not None and low is not None else [name, name]
    limits = []
    if high is not None:
        limits.append(Limit(names[0], row.name, at_most=math.floor(high / step), units=units, origin=origin))
    if low is not None:
        limits.append(Limit(names[1], row.name, at_least=math.ceil(low / step), units=units, origin=origin))
    return tuple(limits)


def _describe_bounds(at_most: object, at_least: object) -> str:
    words = [f"{side} {bound}" for side, bound in (("at least", at_least), ("at most", at_most)) if bound is not None]
    return " and ".join(words)


def describe_amount(row: Row, amount: int) -> str:
    """Write an amount, in steps of a row, in its measure: ``14.29 ms``."""
    return render_quantity(amount * exact_number(row.step), row.measure)


def costs_by_domain(profile: Profile, *, with_deviations: bool) -> tuple[DomainCosts, ...]:
    """Give the instance what formats cost on each of the profile's domains.

    The standard error of a sum of means over S samples is √(Σ_s (Σ_u d(u, f, s))²) with
    d(u, f, s) = (sample − mean) / √(S (S − 1)).

    Args:
        profile: the profile.
        with_deviations: whether d is needed, as it is for a robust objective.

    Returns:
        Costs, and deviations where they are needed and there are at least two samples.
    """
    return tuple(
        _domain_costs(profile, name, samples, with_deviations=with_deviations)
        for name, samples in profile.prices_by_domain.items()
    )


def _domain_costs(profile: Profile, name: str, samples: NDArray[np.float64], *, with_deviations: bool) -> DomainCosts:
    num_samples = samples.shape[2]
    costs, deviations = [], []
    for index, layer in enumerate(profile.record.layers):
        offered = samples[index, list(layer.formats)]
        means = offered.mean(axis=1)
        costs.append(tuple(means.tolist()))
        if with_deviations and num_samples > 1:
            spread = (offered - means[:, None]) / (num_samples * (num_samples - 1)) ** 0.5
            deviations.append(tuple(map(tuple, spread.tolist())))
    return DomainCosts(name, tuple(costs), tuple(deviations))


@dataclass(frozen=True)
class Aim:
    """What is minimised.

    Attributes:
        objectives: one after the other; empty for the loss.
        origin: where they were given.
        loss: how domains and uncertainty become one loss.
        full_speed_watts: what power at full speed is counted from where it is minimised, see power_ratio.py; else None.
    """

    objectives: tuple[str, ...]
    origin: str
    loss: LossMeasure
    full_speed_watts: Fraction | None = None


def build_instance(layers: LayerTable, rows: Rows, lowered: Sequence[LoweredConstraint], aim: Aim) -> Instance:
    """Put the solver's instance together; its units are the profile's layers in their order.

    Args:
        layers: of the profile.
        rows: of the profile.
        lowered: its limits and rules.
        aim: what is minimised.

    Returns:
        The instance.

    Raises:
        InputError: an objective is no row, or a row that cannot be computed.
    """
    by_name = rows.available()
    by_name |= {row.name: row for constraint in lowered for row in constraint.rows}
    objectives, watts = aim.objectives, aim.full_speed_watts
    if watts is not None:
        row = rows.full_speed_power(f"power at full speed over {float(watts):.7g} W", watts)
        by_name[row.name] = row
        objectives = tuple(row.name if ROW_OF.get(name, name) == POWER else name for name in objectives)
    return Instance(
        units=tuple(
            Unit(name, formats, tuple(layers.bits_of[offer] for offer in formats))
            for name, formats in zip(layers.names, layers.formats, strict=True)
        ),
        rows=tuple(by_name.values()),
        domains=costs_by_domain(layers.profile, with_deviations=aim.loss.standard_errors > 0),
        rules=tuple(rule for constraint in lowered for rule in constraint.rules),
        loss=aim.loss,
        minimise=tuple(with_origin(aim.origin, _resolve, name, rows, by_name) for name in objectives) or (LOSS,),
    )


def _resolve(name: str, rows: Rows, known_rows: Mapping[str, Row]) -> str:
    """Find the instance's name of an objective."""
    if name == LOSS or name in known_rows:
        return name
    if name == "speed":
        raise InputError(
            "cannot minimise 'speed': more of it is better. For the fastest plan minimise seconds_per_token."
        )
    row_name = ROW_OF.get(name, name)
    if row_name in known_rows:
        return row_name
    if name in ROW_OF:
        try:
            rows.row(row_name)
        except InputError as error:  # says which number it lacks
            raise type(error)(f"cannot minimise {name}: {error}") from error
    known = sorted({LOSS, *known_rows, *(key for key, row in ROW_OF.items() if row in known_rows)})
    raise InputError(f"cannot minimise {name!r}. What can be: {', '.join(known)}.")
