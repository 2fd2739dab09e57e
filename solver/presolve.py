"""A smaller statement with the same optimum: each step says why nothing is lost.

Knows nothing about solvers.
"""

import itertools
import math
from dataclasses import replace

import numpy as np

from .milp.standard_form import Integers, Mask, StandardForm

_LARGEST_CLUSTER = 256


def presolve(statement: StandardForm) -> StandardForm | None:
    """Join ordered groups, tighten rows, take out options that cannot or need not be taken.

    Args:
        statement: the program.

    Returns:
        The smaller program; None where it is proven that nothing meets it.
    """
    joined = join_ordered_groups(statement)
    if joined is None:
        return None
    tightened = tighten_rows(joined)
    if tightened is None:
        return None
    return tightened.keep(~dominated(tightened))


def tighten_rows(statement: StandardForm) -> StandardForm | None:
    """Shift, close, drop and divide rows until nothing changes.

    Every group takes one option, so its smallest amount can be taken from its options and from the bound. An option
    whose amount alone is above what is then left can be in no plan. A row whose largest sum is within its bound holds
    anyway. Amounts with a common divisor d allow only sums that are multiples of d, so the bound may be floored to one.

    Args:
        statement: the program.

    Returns:
        The same program; None where a row cannot be met.
    """
    while True:
        least: Integers = statement.smallest(statement.amounts)  # type: ignore[assignment]
        amounts = statement.amounts - least[:, statement.group_of]
        at_most = statement.at_most - least.sum(axis=1)
        if (at_most < 0).any():
            return None
        needed = -statement.smallest(-amounts).sum(axis=1) > at_most
        amounts, at_most = amounts[needed], at_most[needed]
        divisors = np.gcd.reduce(amounts, axis=1) if len(amounts) else np.ones(0, dtype=np.int64)
        amounts, at_most = amounts // divisors[:, None], at_most // divisors
        tightened = replace(statement, amounts=amounts, at_most=at_most)
        possible = (amounts <= at_most[:, None]).all(axis=0)
        if possible.all():
            return tightened
        smaller = tightened.keep(possible)
        if smaller is None:
            return None
        statement = smaller


def dominated(statement: StandardForm) -> Mask:
    """Find options that need not be considered.

    Option i is dominated by j of its group when j costs no more by any cost vector and takes no more of any row: in any
    plan with i, j may stand instead. Among equals the first stays. Not used on groups under a rule that looks at the
    format itself (orders, distinct formats), where the exchange could break the rule.

    Args:
        statement: the program.

    Returns:
        The dominated options.
    """
    values = np.concatenate([statement.costs, statement.amounts.astype(np.float64)])
    sizes = np.diff(statement.starts)
    bound_by_rules = np.zeros(statement.num_groups, dtype=bool)
    for groups in [*statement.orders, *(groups for groups, _ in statement.distinct)]:
        bound_by_rules[list(groups)] = True
    mask = np.zeros(statement.num_options, dtype=bool)
    for size in np.unique(sizes[sizes > 1]).tolist():
        firsts = statement.starts[:-1][(sizes == size) & ~bound_by_rules]
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


def join_ordered_groups(statement: StandardForm) -> StandardForm | None:
    """Replace groups that orders connect by one group whose options are their lawful combinations.

    Clusters of more than 256 lawful combinations stay apart, and their orders stay for the solver.

    Args:
        statement: the program.

    Returns:
        The same program with fewer orders; None where a cluster has no lawful combination.
    """
    clusters = _clusters(statement)
    if not clusters:
        return statement
    combinations = {}
    ordered = {group for groups, _ in statement.distinct for group in groups}
    for cluster in clusters:
        if ordered & set(cluster):
            continue  # a combination has several formats, which a rule of distinct formats could not count
        found = _lawful(statement, cluster)
        if found is None:
            continue
        if not found:
            return None
        combinations[cluster] = found
    return _joined(statement, combinations)


def _clusters(statement: StandardForm) -> list[tuple[int, ...]]:
    neighbours: dict[int, set[int]] = {}
    for first, second in statement.orders:
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


def _lawful(statement: StandardForm, cluster: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """List the combinations of options that keep to the orders; None where they are too many to list."""
    starts = statement.starts.tolist()
    sizes = [starts[group + 1] - starts[group] for group in cluster]
    if math.prod(sizes) > 16 * _LARGEST_CLUSTER:
        return None
    place = {group: index for index, group in enumerate(cluster)}
    pairs = [(place[finer], place[coarser]) for finer, coarser in statement.orders if finer in place]
    bits = statement.bits.tolist()
    ranges = [range(starts[group], starts[group + 1]) for group in cluster]
    found = [
        combination
        for combination in itertools.product(*ranges)
        if all(bits[combination[finer]] >= bits[combination[coarser]] for finer, coarser in pairs)
    ]
    return found if len(found) <= _LARGEST_CLUSTER else None


def _joined(statement: StandardForm, combinations: dict[tuple[int, ...], list[tuple[int, ...]]]) -> StandardForm:
    cluster_of = {group: cluster for cluster in combinations for group in cluster}
    groups: list[tuple[int, ...]] = []
    members: list[tuple[int, ...]] = []  # of every new option
    counts: list[int] = []
    new_index: dict[int, int] = {}
    starts = statement.starts.tolist()
    for group in range(statement.num_groups):
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
        statement,
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        costs=np.add.reduceat(statement.costs[:, flat], firsts, axis=1),
        amounts=np.add.reduceat(statement.amounts[:, flat], firsts, axis=1),
        bits=statement.bits[flat[firsts]],
        formats=statement.formats[flat[firsts]],
        picks=tuple(tuple(i for option in options for i in statement.picks[option]) for options in members),
        units=tuple(tuple(unit for group in cluster for unit in statement.units[group]) for cluster in groups),
        orders=tuple((new_index[a], new_index[b]) for a, b in statement.orders if a not in cluster_of),
        distinct=tuple((tuple(new_index[group] for group in old), most) for old, most in statement.distinct),
    )
