"""A wish becomes a statement: the rules of the integer program that it stands for, and what it matched.

Knows nothing about where wishes come from; an origin is a text that messages begin with.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ..common.errors import ScantlingError
from ..common.patterns import matching
from ..common.units import exact_number, parse_quantity, render_bytes, render_quantity
from ..hardware.resources import ROW_OF, SECONDS_PER_TOKEN, Rows
from ..sensitivity.calibration.expert_coverage import FEWEST_TOKENS
from ..sensitivity.expert_imputation import siblings_by_coverage
from ..solver.instance import LOSS, Row
from ..solver.rules import Allow, Distinct, Limit, LossLimit, Order, Tie
from .constraint import Constraint, LoweredConstraint, PinToPlan, PlanLimit
from .constraints.rules import AllowRule, DevicesRule, DistinctRule, LinearRule, OrderRule, Per, SumRule, TieRule
from .layer_table import LayerTable
from .linear_rows import linear_row, part_rows

MAX_PAIRS = 200_000


@dataclass(frozen=True)
class Lowering:
    """Makes statements for one profile.

    Attributes:
        layers: of the profile.
        rows: of the profile.
        named: rows by name that can be summed, those of users included.
    """

    layers: LayerTable
    rows: Rows
    named: Mapping[str, Row]

    def state(self, wish: Constraint) -> LoweredConstraint:
        """Make a statement of a wish.

        Args:
            wish: the wish.

        Returns:
            The statement.

        Raises:
            ScantlingError: it matches nothing, has no effect, or needs what is not there; the message begins with the
                wish's origin.
        """
        try:
            return self._state(wish)
        except ScantlingError as error:
            raise ScantlingError(f"{wish.origin}: {error}") from error

    def _state(self, wish: Constraint) -> LoweredConstraint:
        match wish.asked:
            case PlanLimit():
                return self._limit(wish.asked, wish.origin)
            case PinToPlan():
                return self._pins(wish.asked, wish.origin)
            case AllowRule():
                return self._allow(wish.asked, wish.origin)
            case TieRule():
                return self._tie(wish.asked, wish.origin)
            case OrderRule():
                return self._order(wish.asked, wish.origin)
            case DistinctRule():
                return self._distinct(wish.asked, wish.origin)
            case SumRule():
                return self._sum(wish.asked, wish.origin)
            case LinearRule():
                return self._linear(wish.asked, wish.origin)
            case DevicesRule():
                return self._devices(wish.asked, wish.origin)

    # Limits

    def _limit(self, wish: PlanLimit, origin: str) -> LoweredConstraint:
        bound, name = wish.bound, wish.bound.name or wish.key
        says = f"{wish.key} {_describe_bounds(bound.at_most, bound.at_least)}"
        if wish.key == LOSS:
            assert bound.at_most is not None
            nats = float(parse_quantity(bound.at_most, bound.measure))
            return LoweredConstraint(name, origin, says, None, (LossLimit(name, nats, origin),))
        high, low = (None if b is None else parse_quantity(b, bound.measure) for b in (bound.at_most, bound.at_least))
        if wish.key == "power" and self.rows.rate() is None:
            return self._full_speed(name, origin, says, high, low)
        if wish.key == "speed":
            if high == 0 or low == 0:
                raise ScantlingError("a speed of 0 is no limit. State tokens per second above 0.")
            seconds = (None if low is None else 1 / low, None if high is None else 1 / high)
            limits = self._bounded(
                name, self.rows.row(SECONDS_PER_TOKEN), seconds, None, origin, sides=("at least", "at most")
            )
            return LoweredConstraint(name, origin, says, None, limits)
        row = self.rows.row(ROW_OF[wish.key])
        if wish.key == "average_bits":
            high, low = self._times_weights(high, low, self.layers.matched_decided(None))
        if wish.key == "memory":
            self._require_room(row, high)
        return LoweredConstraint(name, origin, says, None, self._bounded(name, row, (high, low), None, origin))

    def _require_room(self, row: Row, at_most_bytes: Fraction | None) -> None:
        """Refuse a limit that the KV cache and the activations fill alone."""
        cache, activations = sum(self.rows.kv_cache_by_block), self.rows.activations
        if at_most_bytes is not None and cache + activations > 0 and row.fixed >= at_most_bytes:
            raise ScantlingError(
                f"the workload leaves no memory for weights: of {render_bytes(math.floor(at_most_bytes))} the KV cache "
                f"takes {render_bytes(cache)} and activations about {render_bytes(activations)}. Lower context, batch, "
                "kv_bits or prompt_chunk, or allow more memory."
            )

    def _full_speed(
        self, name: str, origin: str, says: str, high: Fraction | None, low: Fraction | None
    ) -> LoweredConstraint:
        if low is not None or high is None:
            raise ScantlingError("power at full speed can be limited from above only. State at_most, or a rate.")
        row = self.rows.full_speed_power(f"power at full speed over {high} W", high)
        return LoweredConstraint(
            name, origin, f"{says} at full speed", None, (Limit(name, row.name, 0, origin=origin),), (row,)
        )

    def _times_weights(
        self, high: Fraction | None, low: Fraction | None, units: tuple[int, ...]
    ) -> tuple[Fraction | None, Fraction | None]:
        num_weights = sum(self.layers.records[index].num_weights for index in units)
        return (None if high is None else high * num_weights), (None if low is None else low * num_weights)

    def _bounded(
        self,
        name: str,
        row: Row,
        bounds: tuple[Fraction | None, Fraction | None],
        units: tuple[int, ...] | None,
        origin: str,
        sides: tuple[str, str] = ("at most", "at least"),
    ) -> tuple[Limit, ...]:
        """Bound a row from above and from below, each by a limit of its own."""
        step, (high, low) = exact_number(row.step), bounds
        both = high is not None and low is not None
        limits = []
        if high is not None:
            named = f"{name} ({sides[0]})" if both else name
            limits.append(Limit(named, row.name, at_most=math.floor(high / step), units=units, origin=origin))
        if low is not None:
            named = f"{name} ({sides[1]})" if both else name
            limits.append(Limit(named, row.name, at_least=math.ceil(low / step), units=units, origin=origin))
        return tuple(limits)

    def _sum(self, rule: SumRule, origin: str) -> LoweredConstraint:
        row = self.row(rule.sum)
        says = f"sum of {rule.sum} {_describe_bounds(rule.at_most, rule.at_least)}"
        averaged = rule.sum == "average_bits"
        high, low = (
            None if b is None else exact_number(b) if row.measure == "" else parse_quantity(b, row.measure)
            for b in (rule.at_most, rule.at_least)
        )
        units = None if rule.layers is None else self.layers.matched(rule.layers)
        if averaged:
            units = self.layers.matched_decided(rule.layers)
            high, low = self._times_weights(high, low, units)
        name = rule.name or says
        return LoweredConstraint(name, origin, says, units, self._bounded(name, row, (high, low), units, origin))

    def row(self, name: str) -> Row:
        """Find a row that a user names.

        Args:
            name: of a row, a limit's key, or a linear row's name.

        Returns:
            The row.

        Raises:
            ScantlingError: there is none.
        """
        if name in self.named:
            return self.named[name]
        if name in ROW_OF:
            return self.rows.row(ROW_OF[name])
        raise ScantlingError(f"there is no row {name!r}. Known: {', '.join(sorted({*ROW_OF, *self.named}))}.")

    def _linear(self, rule: LinearRule, origin: str) -> LoweredConstraint:
        row, units = linear_row(self.layers, rule, rule.name or f"linear row ({origin})")
        high, low = (None if b is None else exact_number(b) for b in (rule.at_most, rule.at_least))
        rules = self._bounded(row.name, row, (high, low), None, origin)
        says = "linear row " + (_describe_bounds(rule.at_most, rule.at_least) if rules else "without bounds")
        return LoweredConstraint(rule.name or says, origin, says, units, rules, (row,))

    def _devices(self, rule: DevicesRule, origin: str) -> LoweredConstraint:
        rows = part_rows(self.layers, self.rows, rule)
        limits = []
        for part, row in zip(rule.devices, rows, strict=True):
            at_most = math.floor(parse_quantity(part.at_most, row.measure))
            limits.append(Limit(row.name, row.name, at_most, origin=origin))
        parts = (f"{limit.name} at most {part.at_most}" for limit, part in zip(limits, rule.devices, strict=True))
        says = ", ".join(parts)
        return LoweredConstraint(rule.name or says, origin, says, None, tuple(limits), tuple(rows))

    # Rules about choices

    def _allowing(
        self, name: str, origin: str, says: str, allowed: dict[int, set[str]], left_out: int
    ) -> LoweredConstraint:
        pairs, without = [], []
        for index, names in allowed.items():
            offered = self.layers.formats[index]
            positions = tuple(position for position, offer in enumerate(offered) if offer in names)
            if not positions:
                without.append(index)
            elif len(positions) < len(offered):
                pairs.append((index, positions))
        if without:
            offered_there = ", ".join(self.layers.formats[without[0]])
            raise ScantlingError(
                f"the rule leaves no format for {self.layers.listed(without)}, offered in {offered_there}. "
                "Widen the rule, or profile the model in such a format."
            )
        if not pairs:
            raise ScantlingError(
                "the rule has no effect: all that the profile offers there is allowed by it. Remove or tighten it."
            )
        return LoweredConstraint(name, origin, says, tuple(allowed), (Allow(name, tuple(pairs), origin),), (), left_out)

    def _allow(self, rule: AllowRule, origin: str) -> LoweredConstraint:
        units = self.layers.matched_decided(rule.layers)
        known = self.layers.profile.record.formats
        allowed = set(known)
        words = []
        if rule.format is not None:
            if rule.format not in known:
                raise ScantlingError(f"the profile has no format {rule.format!r}. It has: {', '.join(known)}.")
            allowed, words = {rule.format}, [f"format {rule.format}"]
        if rule.formats is not None:
            allowed = {known[index] for index in matching(rule.formats, known, "format of the profile")}
            words.append(f"formats {', '.join(sorted(allowed, key=known.index))}")
        if rule.min_bits is not None:
            allowed = {name for name in allowed if self.layers.bits_of[name] >= rule.min_bits}
            words.append(f"at least {rule.min_bits:g} bits")
        if rule.max_bits is not None:
            allowed = {name for name in allowed if self.layers.bits_of[name] <= rule.max_bits}
            words.append(f"at most {rule.max_bits:g} bits")
        says = f"{', '.join(words)} on {', '.join(rule.layers)}"
        left_out = len(self.layers.matched(rule.layers)) - len(units)
        return self._allowing(rule.name or says, origin, says, dict.fromkeys(units, allowed), left_out)

    def _pins(self, wish: PinToPlan, origin: str) -> LoweredConstraint:
        units = self.layers.matched_decided(wish.layers)
        allowed = {}
        for index in units:
            name = self.layers.names[index]
            if wish.formats.get(name) not in self.layers.formats[index]:
                raise ScantlingError(
                    f"{wish.plan} has {name} in {wish.formats.get(name)}, which this profile does not offer. "
                    f"It offers {', '.join(self.layers.formats[index])}."
                )
            allowed[index] = {wish.formats[name]}
        says = f"the formats of {wish.plan} on {', '.join(wish.layers)}"
        left_out = len(self.layers.matched(wish.layers)) - len(units)
        return self._allowing(says, origin, says, allowed, left_out)

    def _tie(self, rule: TieRule, origin: str) -> LoweredConstraint:
        units = self.layers.matched_decided(rule.layers)
        per = "" if rule.per == "all" else f" per {rule.per}"
        says = f"same format{per} on {', '.join(rule.layers)}"
        name = rule.name or says
        groups = self.tied_groups(units, rule.per)
        left_out = len(self.layers.matched(rule.layers)) - len(units)
        return LoweredConstraint(name, origin, says, units, (Tie(name, groups, origin),), (), left_out)

    def tied_groups(self, units: tuple[int, ...], per: Per) -> tuple[tuple[int, ...], ...]:
        """Group layers that take the same format.

        Args:
            units: the layers.
            per: how they are grouped.

        Returns:
            The groups of at least two.

        Raises:
            ScantlingError: there is none, or one has no common format.
        """
        groups = tuple(group for group in self.layers.groups(units, per).values() if len(group) > 1)
        if not groups:
            raise ScantlingError(
                "the rule has no effect: it ties no layer to another. Match more layers, or change per."
            )
        for group in groups:
            if not self.layers.common_formats(group):
                other = next(u for u in group if not self.layers.common_formats([group[0], u])) if any(
                    not self.layers.common_formats([group[0], u]) for u in group
                ) else group[-1]  # fmt: skip
                raise ScantlingError(
                    f"layers that are tied have no common format: {self.layers.listed(group)}. For instance "
                    f"{self.layers.names[group[0]]} is offered in {', '.join(self.layers.formats[group[0]])}, "
                    f"{self.layers.names[other]} in {', '.join(self.layers.formats[other])}. Profile them alike."
                )
        return groups

    def _order(self, rule: OrderRule, origin: str) -> LoweredConstraint:
        finer = self.layers.matched_decided(rule.layers)
        coarser = self.layers.matched_decided(rule.at_least_as_fine_as)
        fine_groups, coarse_groups = (self.layers.groups(units, rule.per) for units in (finer, coarser))
        num_pairs = sum(len(group) * len(coarse_groups.get(key, ())) for key, group in fine_groups.items())
        if num_pairs > MAX_PAIRS:
            raise ScantlingError(
                f"the rule orders {num_pairs:,} pairs of layers; at most {MAX_PAIRS:,} are taken. Add per: block."
            )
        pairs = tuple(
            (u, v) for key, group in fine_groups.items() for u in group for v in coarse_groups.get(key, ()) if u != v
        )
        if not pairs:
            raise ScantlingError("the rule has no effect: it orders no two layers. Match more layers, or change per.")
        says = f"{', '.join(rule.layers)} at least as fine as {', '.join(rule.at_least_as_fine_as)}" + (
            "" if rule.per == "all" else f" per {rule.per}"
        )
        name = rule.name or says
        concerned = tuple(sorted({unit for pair in pairs for unit in pair}))
        return LoweredConstraint(name, origin, says, concerned, (Order(name, pairs, origin),))

    def _distinct(self, rule: DistinctRule, origin: str) -> LoweredConstraint:
        units = self.layers.matched_decided(rule.layers)
        limit = rule.distinct_formats
        says = f"at most {limit} different format{'s' if limit > 1 else ''}" + (
            "" if rule.per == "all" else f" per {rule.per}"
        )
        says += "" if rule.layers is None else f" on {', '.join(rule.layers)}"
        name = rule.name or says
        rules = []
        for key, group in self.layers.groups(units, rule.per).items():
            offered = {offer for index in group for offer in self.layers.formats[index]}
            if min(len(offered), len(group)) > limit:
                rules.append(Distinct(name if key == "all" else f"{name} ({key})", group, limit, origin))
        if not rules:
            raise ScantlingError(
                f"the rule has no effect: no {'choice' if rule.per == 'all' else rule.per} could have more than {limit}"
                " different formats. Lower the number or remove the rule."
            )
        left_out = len(self.layers.matched(rule.layers)) - len(units)
        return LoweredConstraint(name, origin, says, units, tuple(rules), (), left_out)


def _describe_bounds(at_most: object, at_least: object) -> str:
    words = [f"{side} {bound}" for side, bound in (("at least", at_least), ("at most", at_most)) if bound is not None]
    return " and ".join(words)


def describe_amount(row: Row, amount: int) -> str:
    """Write an amount of a row in its measure.

    Args:
        row: the row.
        amount: in steps of it.

    Returns:
        For instance ``14.29 ms``.
    """
    return render_quantity(amount * exact_number(row.step), row.measure)


ORIGIN = "profile"

_NAME = f"experts reached by fewer than {FEWEST_TOKENS} calibration tokens, no sibling measured"


def lower_coverage(layers: LayerTable) -> list[LoweredConstraint]:
    """State what experts ask whose price is not known at all.

    Args:
        layers: of the profile.

    Returns:
        One statement; none where there are no such experts.
    """
    unknown = [index for rare, measured in siblings_by_coverage(layers.records) if not measured for index in rare]
    if not unknown:
        return []
    rule = Allow(_NAME, tuple((index, _finest(layers, index)) for index in unknown), ORIGIN)
    return [LoweredConstraint(_NAME, ORIGIN, "as fine as offered", tuple(unknown), (rule,))]


def _finest(layers: LayerTable, index: int) -> tuple[int, ...]:
    """Find the positions of a layer's widest formats."""
    bits = [layers.bits_of[name] for name in layers.formats[index]]
    return tuple(position for position, width in enumerate(bits) if width == max(bits))
