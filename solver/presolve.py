"""A smaller program with the same optimum; each step says why nothing is lost.

Knows nothing about solvers.
"""

import itertools
import math
from dataclasses import replace

import numpy as np

from .milp.standard_form import Integers, Mask, StandardForm

_LARGEST_CLUSTER = 256


def presolve(form: StandardForm) -> StandardForm | None:
    """Join ordered groups, tighten rows and drop needless options; None if the program is proven infeasible."""
    joined = join_ordered_groups(form)
    if joined is None:
        return None
    tightened = tighten_rows(joined)
    if tightened is None:
        return None
    return tightened.keep(~dominated(tightened))


def tighten_rows(form: StandardForm) -> StandardForm | None:
    """Shift, close, drop and divide rows until nothing changes.

    Every group takes one option, so its smallest amount can be subtracted from its options and from the bound. An
    option whose amount alone then exceeds the bound is in no plan. A row whose largest sum is within its bound always
    holds. Amounts with a common divisor d only have sums that are multiples of d, so the bound may be floored to one.

    Args:
        form: the program.

    Returns:
        The same program; None if a row cannot be met.
    """
    while True:
        least: Integers = form.smallest(form.amounts)  # type: ignore[assignment]
        amounts = form.amounts - least[:, form.group_of]
        at_most = form.at_most - least.sum(axis=1)
        if (at_most < 0).any():
            return None
        needed = -form.smallest(-amounts).sum(axis=1) > at_most
        amounts, at_most = amounts[needed], at_most[needed]
        divisors = np.gcd.reduce(amounts, axis=1) if len(amounts) else np.ones(0, dtype=np.int64)
        amounts, at_most = amounts // divisors[:, None], at_most // divisors
        tightened = replace(form, amounts=amounts, at_most=at_most)
        possible = (amounts <= at_most[:, None]).all(axis=0)
        if possible.all():
            return tightened
        smaller = tightened.keep(possible)
        if smaller is None:
            return None
        form = smaller


def dominated(form: StandardForm) -> Mask:
    """Find options that need not be considered.

    Option i is dominated by j of its group if j costs no more in every cost vector and takes no more of any row: in any
    plan with i, j may stand instead. Among equals the first stays. Groups under a rule about the format itself (orders,
    distinct formats) are skipped, where the exchange could break the rule.

    Args:
        form: the program.

    Returns:
        Whether each option is dominated, bool [options].
    """
    values = np.concatenate([form.costs, form.amounts.astype(np.float64)])
    sizes = np.diff(form.starts)
    bound_by_rules = np.zeros(form.num_groups, dtype=bool)
    for groups in [*form.orders, *(limit.groups for limit in form.distinct)]:
        bound_by_rules[list(groups)] = True
    mask = np.zeros(form.num_options, dtype=bool)
    for size in np.unique(sizes[sizes > 1]).tolist():
        firsts = form.starts[:-1][(sizes == size) & ~bound_by_rules]
        options = firsts[:, None] + np.arange(size)
        worse = np.zeros((len(firsts), size), dtype=bool)
        for j in range(size):
            no_more = np.ones((len(firsts), size), dtype=bool)
            some_less = np.zeros((len(firsts), size), dtype=bool)
            for row in values:
                here = row[options]
                no_more &= here[:, j : j + 1] <= here
                some_less |= here[:, j : j + 1] < here
            worse |= no_more & (some_less | (np.arange(size) > j))
        mask[options[worse]] = True
    return mask


def join_ordered_groups(form: StandardForm) -> StandardForm | None:
    """Replace groups connected by orders by one group whose options are their allowed combinations.

    Clusters of more than 256 allowed combinations stay apart, and their orders are left to the solver.

    Args:
        form: the program.

    Returns:
        The same program with fewer orders; None if a cluster has no allowed combination.
    """
    clusters = _clusters(form)
    if not clusters:
        return form
    combinations = {}
    counted = {group for limit in form.distinct for group in limit.groups}
    for cluster in clusters:
        if counted & set(cluster):
            continue  # a combination has several formats, which a limit on distinct formats could not count
        found = _allowed_combinations(form, cluster)
        if found is None:
            continue
        if not found:
            return None
        combinations[cluster] = found
    return _join(form, combinations)


def _clusters(form: StandardForm) -> list[tuple[int, ...]]:
    neighbours: dict[int, set[int]] = {}
    for first, second in form.orders:
        neighbours.setdefault(first, set()).add(second)
        neighbours.setdefault(second, set()).add(first)
    clusters = []
    seen: set[int] = set()
    for start in neighbours:
        if start in seen:
            continue
        cluster, waiting = {start}, [start]
        while waiting:
            fresh = neighbours[waiting.pop()] - cluster
            cluster |= fresh
            waiting.extend(fresh)
        seen |= cluster
        clusters.append(tuple(sorted(cluster)))
    return clusters


def _allowed_combinations(form: StandardForm, cluster: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """List the combinations of options that meet the orders; None if there are too many to list."""
    starts = form.starts.tolist()
    sizes = [starts[group + 1] - starts[group] for group in cluster]
    if math.prod(sizes) > 16 * _LARGEST_CLUSTER:
        return None
    place = {group: index for index, group in enumerate(cluster)}
    pairs = [(place[finer], place[coarser]) for finer, coarser in form.orders if finer in place]
    bits = form.bits.tolist()
    ranges = [range(starts[group], starts[group + 1]) for group in cluster]
    found = [
        combination
        for combination in itertools.product(*ranges)
        if all(bits[combination[finer]] >= bits[combination[coarser]] for finer, coarser in pairs)
    ]
    return found if len(found) <= _LARGEST_CLUSTER else None


def _join(form: StandardForm, combinations: dict[tuple[int, ...], list[tuple[int, ...]]]) -> StandardForm:
    cluster_of = {group: cluster for cluster in combinations for group in cluster}
    groups: list[tuple[int, ...]] = []
    members: list[tuple[int, ...]] = []  # of every new option
    counts: list[int] = []
    new_index: dict[int, int] = {}
    starts = form.starts.tolist()
    for group in range(form.num_groups):
        cluster = cluster_of.get(group, (group,))
        if group != cluster[0]:
            continue
        options = combinations.get(cluster) or [(option,) for option in range(starts[group], starts[group + 1])]
        new_index[group] = len(groups)
        groups.append(cluster)
        counts.append(len(options))
        members.extend(options)
    flat = np.array([option for options in members for option in options])
    firsts = np.concatenate([[0], np.cumsum([len(options) for options in members])[:-1]])
    return replace(
        form,
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        costs=np.add.reduceat(form.costs[:, flat], firsts, axis=1),
        amounts=np.add.reduceat(form.amounts[:, flat], firsts, axis=1),
        bits=form.bits[flat[firsts]],
        formats=form.formats[flat[firsts]],
        picks=tuple(tuple(i for option in options for i in form.picks[option]) for options in members),
        units=tuple(tuple(unit for group in cluster for unit in form.units[group]) for cluster in groups),
        orders=tuple((new_index[a], new_index[b]) for a, b in form.orders if a not in cluster_of),
        distinct=tuple(
            replace(limit, groups=tuple(new_index[group] for group in limit.groups)) for limit in form.distinct
        ),
    )
