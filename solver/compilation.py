"""From the instance to arrays: tied units become groups, and formats that the rules close are removed.

Knows nothing about solvers.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np

from ..common.errors import InputError
from .instance import LOSS, Instance
from .milp.standard_form import DistinctLimit, Floats, Integers, StandardForm
from .rules import Allow, Distinct, Limit, LossLimit, Order, Tie

Direction = tuple[float, ...]
LARGEST_SUM = 2**62
_LOSS_LIMIT_BITS = 46


def compile_instance(instance: Instance, directions: Sequence[Direction] = ()) -> StandardForm | None:
    """Compile an instance's first objective and all of its rules into arrays.

    Args:
        instance: the program.
        directions: unit vectors over the samples of the domains, by which a robust objective is approximated from
            below (see ``loss_vectors``); empty without standard errors.

    Returns:
        The standard form; None if the rules leave a unit without any format.
    """
    groups = _tied_units(instance)
    allowed = _allowed_formats(instance)
    picks_of_group = [_open_picks(instance, allowed, units) for units in groups]
    if not all(picks_of_group):
        return None
    counts = [len(picks) for picks in picks_of_group]
    units_flat = [units for units, count in zip(groups, counts, strict=True) for _ in range(count)]
    picks_flat = tuple(pick for picks in picks_of_group for pick in picks)
    firsts = [(instance.units[us[0]], pick[0]) for us, pick in zip(units_flat, picks_flat, strict=True)]
    names = [unit.formats[index] for unit, index in firsts]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    option_sums = _OptionSums(instance, units_flat, picks_flat)
    losses = loss_vectors(instance, directions, option_sums)
    amounts, at_most = _rows(instance, option_sums, losses)
    name = instance.minimise[0]
    costs = losses if name == LOSS else option_sums.integers(instance.row(name).amounts).astype(np.float64)[None]
    group_of_unit = {unit: group for group, units in enumerate(groups) for unit in units}
    return StandardForm(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        costs=costs,
        constants=np.full(len(costs), 0.0 if name == LOSS else float(instance.row(name).fixed)),
        amounts=amounts,
        at_most=at_most,
        bits=np.array([unit.bits[index] for unit, index in firsts]),
        formats=np.array([numbers[name] for name in names], dtype=np.int64),
        picks=picks_flat,
        units=groups,
        orders=_orders(instance, group_of_unit),
        distinct=_distinct_limits(instance, group_of_unit),
    )


def _tied_units(instance: Instance) -> tuple[tuple[int, ...], ...]:
    parent = list(range(len(instance.units)))

    def root(unit: int) -> int:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    for rule in instance.rules:
        if isinstance(rule, Tie):
            for group in rule.groups:
                for unit in group[1:]:
                    first, second = sorted((root(group[0]), root(unit)))
                    parent[second] = first
    members: dict[int, list[int]] = {}
    for unit in range(len(instance.units)):
        members.setdefault(root(unit), []).append(unit)
    return tuple(tuple(units) for units in members.values())


def _allowed_formats(instance: Instance) -> dict[int, set[int]]:
    allowed: dict[int, set[int]] = {}
    for rule in instance.rules:
        if isinstance(rule, Allow):
            for unit, formats in rule.allowed:
                allowed[unit] = allowed.get(unit, set(formats)) & set(formats)
    return allowed


def _open_picks(instance: Instance, allowed: dict[int, set[int]], units: tuple[int, ...]) -> list[tuple[int, ...]]:
    positions = []
    for unit in units:
        formats = instance.units[unit].formats
        open_here = allowed.get(unit, range(len(formats)))
        positions.append({formats[index]: index for index in open_here})
    common = [name for name in instance.units[units[0]].formats if all(name in found for found in positions)]
    return [tuple(found[name] for found in positions) for name in common]


class _OptionSums:
    """Sums a table of the instance over the units of every option."""

    def __init__(self, instance: Instance, units: Sequence[tuple[int, ...]], picks: Sequence[tuple[int, ...]]) -> None:
        sizes = [len(unit.formats) for unit in instance.units]
        offsets = list(accumulate(sizes, initial=0))
        members = [offsets[u] + i for us, pick in zip(units, picks, strict=True) for u, i in zip(us, pick, strict=True)]
        self._members = np.array(members, dtype=np.int64)
        self._starts = np.array(list(accumulate((len(us) for us in units), initial=0))[:-1], dtype=np.int64)
        self._unit_of_entry = np.repeat(np.arange(len(sizes)), sizes)

    def integers(self, table: Sequence[Sequence[int]], counted: Sequence[int] | None = None) -> Integers:
        """Sum integers, optionally over some units only.

        Args:
            table: one tuple per unit, one number per format.
            counted: the units that count; None for all.

        Returns:
            int64 [options].

        Raises:
            InputError: the numbers are too large for exact sums in 64 bits.
        """
        largest = max(chain([0], map(abs, chain.from_iterable(table))))
        if largest * len(self._members) >= LARGEST_SUM:
            raise InputError(
                f"a row has amounts up to {largest:,}, which over {len(self._members):,} options could exceed 2^62. "
                "State it in coarser steps."
            )
        entries = np.fromiter(chain.from_iterable(table), dtype=np.int64)
        if counted is not None:
            entries = entries * np.isin(self._unit_of_entry, counted)
        sums: Integers = np.add.reduceat(entries[self._members], self._starts)
        return sums

    def floats(self, table: Sequence[Sequence[float]]) -> Floats:
        """Sum real numbers, one tuple per unit, into float64 [options]."""
        entries = np.fromiter(chain.from_iterable(table), dtype=np.float64)
        sums: Floats = np.add.reduceat(entries[self._members], self._starts)
        return sums

    def samples(self, table: Sequence[Sequence[Sequence[float]]]) -> Floats:
        """Sum vectors, one tuple per unit and one vector per format, into float64 [samples, options]."""
        entries = np.array(list(chain.from_iterable(table)), dtype=np.float64)
        sums: Floats = np.add.reduceat(entries[self._members], self._starts, axis=0).T
        return sums


def loss_vectors(instance: Instance, directions: Sequence[Direction], option_sums: _OptionSums) -> Floats:
    """Return the cost vectors whose largest sum is the predicted loss increase, or bounds it from below.

    ‖D x‖ ≥ v·D x for every unit vector v, so mean + k · standard error is the maximum of c + k Dᵀv over all v. With
    the mean over domains, a direction spans the samples of all of them; in the worst case it is applied to each domain
    in turn, restricted to that domain's samples.

    Args:
        instance: the program.
        directions: the unit vectors v.
        option_sums: sums tables over options.

    Returns:
        float64 [vectors, options].
    """
    means = np.array([option_sums.floats(domain.loss_increase_nats) for domain in instance.domains])
    k, worst = instance.loss.standard_errors, instance.loss.over_domains == "worst"
    plain = means if worst else means.mean(axis=0, keepdims=True)
    if not k or not directions:
        return plain
    deviations = [option_sums.samples(domain.deviations_nats) for domain in instance.domains]
    vectors = list(plain)
    for direction in directions:
        parts = np.split(np.array(direction), np.cumsum([len(part) for part in deviations])[:-1])
        terms = [part @ deviation for part, deviation in zip(parts, deviations, strict=True)]
        if worst:
            vectors.extend(mean + k * term for mean, term, part in zip(means, terms, parts, strict=True) if part.any())
        else:
            vectors.append(plain[0] + k / len(means) * np.sum(terms, axis=0))
    return np.array(vectors)


def _rows(instance: Instance, option_sums: _OptionSums, losses: Floats) -> tuple[Integers, Integers]:
    rows: list[Integers] = []
    bounds: list[int] = []
    for rule in instance.rules:
        if isinstance(rule, Limit):
            row = instance.row(rule.row)
            amounts = option_sums.integers(row.amounts, rule.units)
            fixed = row.fixed if rule.units is None else 0
            if rule.at_most is not None:
                rows.append(amounts)
                bounds.append(rule.at_most - fixed)
            elif rule.at_least is not None:
                rows.append(-amounts)
                bounds.append(fixed - rule.at_least)
        elif isinstance(rule, LossLimit):
            for vector in losses:
                steps, bound = _loss_row(vector, rule.at_most_nats)
                rows.append(steps)
                bounds.append(bound)
    if any(abs(bound) >= LARGEST_SUM for bound in bounds):
        raise InputError("a limit is beyond 2^62 steps of its row. State it in coarser steps.")
    amounts_2d = np.array(rows, dtype=np.int64).reshape(len(rows), len(losses[0]))
    return amounts_2d, np.array(bounds, dtype=np.int64)


def _loss_row(vector: Floats, at_most_nats: float) -> tuple[Integers, int]:
    """Bound Σ vector x by integers that err on the safe side, by less than 2^-46 of the largest sum."""
    largest = float(np.abs(vector).sum()) + abs(at_most_nats) or 1.0
    scale = math.ldexp(1.0, _LOSS_LIMIT_BITS - math.floor(math.log2(largest)))
    return np.ceil(vector * scale).astype(np.int64), math.floor(at_most_nats * scale)


def _distinct_limits(instance: Instance, group_of_unit: dict[int, int]) -> tuple[DistinctLimit, ...]:
    return tuple(
        DistinctLimit(tuple(sorted({group_of_unit[unit] for unit in rule.units})), rule.at_most_formats)
        for rule in instance.rules
        if isinstance(rule, Distinct)
    )


def _orders(instance: Instance, group_of_unit: dict[int, int]) -> tuple[tuple[int, int], ...]:
    pairs = [pair for rule in instance.rules if isinstance(rule, Order) for pair in rule.pairs]
    found = dict.fromkeys((group_of_unit[finer], group_of_unit[coarser]) for finer, coarser in pairs)
    return tuple((finer, coarser) for finer, coarser in found if finer != coarser)
