"""Conflicts, least changes, shadow prices and frontiers, each against brute force."""

import itertools
from dataclasses import replace

import pytest

from helpers.random_programs import all_choices, feasible_choices, layers_of_a_real_size, random_program
from scantling.common.errors import InputError
from scantling.solver.frontier import every_breakpoint, frontier, grid
from scantling.solver.infeasibility import explain_infeasibility
from scantling.solver.instance import LossMeasure
from scantling.solver.milp.base import SolverSettings, Status
from scantling.solver.milp.cpsat import CpSatSolver
from scantling.solver.rules import Allow, Limit, LossLimit
from scantling.solver.shadow_prices import sensitivities
from scantling.solver.solve import solve
from scantling.solver.verify import violations

SETTINGS = SolverSettings(time_limit_seconds=20)
SEEDS = range(400)


def infeasible_programs():
    for seed in SEEDS:
        instance = random_program(seed)
        if not feasible_choices(instance):
            kept = {c: [not violations(instance, c, [rule]) for rule in instance.rules] for c in all_choices(instance)}
            yield instance, kept


def can_hold(kept, rules):
    return any(all(holds[rule] for rule in rules) for holds in kept.values())


def test_conflicts_are_smallest():
    sizes = set()
    for instance, kept in infeasible_programs():
        conflict = explain_infeasibility(instance, CpSatSolver(), SETTINGS)
        assert conflict.smallest
        assert not can_hold(kept, conflict.rules)
        for size in range(len(conflict.rules)):
            for fewer in itertools.combinations(range(len(instance.rules)), size):
                assert can_hold(kept, fewer)
        sizes.add(len(conflict.rules))
    assert sizes >= {1, 2, 3}


def test_changes_that_mend_are_least():
    helped = hopeless = 0
    for instance, kept in infeasible_programs():
        for relaxation in explain_infeasibility(instance, CpSatSolver(), SETTINGS).relaxations:
            rule = instance.rules[relaxation.rule]
            assert isinstance(rule, Limit | LossLimit)
            others = [index for index in range(len(instance.rules)) if index != relaxation.rule]
            open_choices = [choice for choice, holds in kept.items() if all(holds[index] for index in others)]
            assert relaxation.proven
            if not open_choices:
                assert relaxation.needed is None
                hopeless += 1
                continue
            used = [instance.used(rule, choice) for choice in open_choices]
            upper = isinstance(rule, LossLimit) or rule.at_most is not None
            assert relaxation.needed == pytest.approx(min(used) if upper else max(used), abs=1e-7)
            helped += 1
    assert helped > 50
    assert hopeless > 20


def test_changes_of_several_bounds_add_up_to_the_least():
    found = 0
    for instance, _ in infeasible_programs():
        conflict = explain_infeasibility(instance, CpSatSolver(), SETTINGS)
        if not conflict.together:
            continue
        changed = dict(conflict.together)
        rules = [
            moved(rule, int(changed[index])) if index in changed else rule for index, rule in enumerate(instance.rules)
        ]
        assert feasible_choices(instance.with_rules(rules))
        soft = [index for index, rule in enumerate(instance.rules) if isinstance(rule, Limit)]
        hard = instance.with_rules([rule for rule in instance.rules if not isinstance(rule, Limit)])
        shares = [_share(instance, index) for index in soft]
        totals = [sum(share(choice) for share in shares) for choice in feasible_choices(hard)]
        chosen = sum(
            abs(bound - _bound(instance.rules[index])) / _range(instance, index) for index, bound in changed.items()
        )
        assert chosen <= min(totals) * 1.07 + 1e-9  # prices are whole sixteenths of the widest row's
        found += 1
    assert found > 5


def moved(rule, bound):
    return replace(rule, at_most=bound) if rule.at_most is not None else replace(rule, at_least=bound)


def _bound(rule) -> int:
    return rule.at_most if rule.at_most is not None else rule.at_least


def _range(instance, index):
    """The range of the row as the rules that close formats leave it, ties included: as the form has it."""
    from scantling.solver.compilation import compile_instance  # noqa: PLC0415

    form = compile_instance(instance)
    assert form is not None
    limits = [k for k, rule in enumerate(instance.rules) if isinstance(rule, Limit)]
    return max(int(form.ranges()[limits.index(index)]), 1)


def _share(instance, index):
    rule, width = instance.rules[index], _range(instance, index)

    def share(choice):
        used = instance.used(rule, choice)
        return max(used - rule.at_most if rule.at_most is not None else rule.at_least - used, 0) / width

    return share


def test_a_program_with_plans_has_no_conflict():
    instance = next(i for i in map(random_program, SEEDS) if feasible_choices(i))
    with pytest.raises(InputError, match="nothing is in conflict"):
        explain_infeasibility(instance, CpSatSolver(), SETTINGS)


def test_limits_without_effect_are_distinguished_from_those_with_one():
    kinds = set()
    for seed in SEEDS:
        instance = replace(random_program(seed), minimise=("loss_increase",))
        feasible = feasible_choices(instance)
        if not feasible:
            continue
        found = sensitivities(instance, solve(instance, CpSatSolver(), SETTINGS), CpSatSolver(), SETTINGS)
        best = min(map(instance.loss_increase_nats, feasible))
        for price in found.limits:
            without = instance.with_rules([r for k, r in enumerate(instance.rules) if k != price.rule])
            same = min(map(instance.loss_increase_nats, feasible_choices(without))) >= best - 1e-8 * (1 + abs(best))
            kinds.add((price.has_effect, price.price > 0))
            if price.has_effect is False:
                assert same
            elif price.price == 0:
                assert not same
    assert {(False, False), (True, True)} <= kinds


def test_the_shadow_price_is_the_slope_of_the_frontier():
    """On a row with many formats the relaxation's price lies between the optimum's gains to both sides."""
    instance = layers_of_a_real_size()
    instance = instance.with_rules(instance.rules[:1])
    solution = solve(instance, CpSatSolver(), SETTINGS)
    (price,) = sensitivities(instance, solution, CpSatSolver(), SETTINGS).limits
    step = 1_000_000
    (memory,) = instance.rules
    assert isinstance(memory, Limit)
    assert memory.at_most is not None
    looser, tighter = (
        solve(instance.with_rules([replace(memory, at_most=memory.at_most + change)]), CpSatSolver(), SETTINGS)
        for change in (step, -step)
    )
    here = solution.proofs[0].value
    assert (here - looser.proofs[0].value) / step <= price.price * 1.02
    assert (tighter.proofs[0].value - here) / step >= price.price * 0.98


def test_a_budget_without_freedom_is_seen():
    instance = layers_of_a_real_size(2)
    least = sum(min(amounts) for amounts in instance.rows[0].amounts)
    instance = instance.with_rules([Limit("memory", "bytes", at_most=least)])
    found = sensitivities(instance, solve(instance, CpSatSolver(), SETTINGS), CpSatSolver(), SETTINGS)
    assert (found.num_free_units, found.num_units) == (0, 14)


def bounds_of(instance, num_points=12):
    row = instance.rows[0]
    low, high = (sum(f(amounts) for amounts in row.amounts) for f in (min, max))
    return [low + (high - low) * k // (num_points - 1) for k in range(num_points)]


def test_every_point_of_a_frontier_is_the_optimum_there():
    instance = layers_of_a_real_size(6).with_rules(())
    points = list(frontier(instance, "bytes", bounds_of(instance), CpSatSolver(), SETTINGS))
    assert [point.bounds[0] for point in points] == sorted(bounds_of(instance), reverse=True)
    for point in points:
        alone = instance.with_rules([Limit("memory", "bytes", at_most=point.bounds[0])])
        assert point.solution.status is Status.OPTIMAL
        proof, own = solve(alone, CpSatSolver(), SETTINGS).proofs[0], point.solution.proofs[0]
        assert own.value == pytest.approx(proof.value, abs=2 * (own.resolution + proof.resolution))
        assert point.used[0] <= point.bounds[0]


def test_nested_plans_never_raise_bits_and_cost_no_less():
    instance = layers_of_a_real_size(6).with_rules(())
    free = list(frontier(instance, "bytes", bounds_of(instance), CpSatSolver(), SETTINGS))
    nested = list(frontier(instance, "bytes", bounds_of(instance), CpSatSolver(), SETTINGS, nested=True))
    choices = [point.solution.choice or () for point in nested]
    for looser, tighter in itertools.pairwise(choices):
        assert len(looser) == 42
        assert all(a >= b for a, b in zip(looser, tighter, strict=True))
    for one, other in zip(free, nested, strict=True):
        assert other.solution.proofs[0].value >= one.solution.proofs[0].value - 1e-12


def test_every_breakpoint_is_the_whole_pareto_front():
    compared = 0
    for seed in range(60):
        instance = replace(random_program(seed), rules=(), loss=LossMeasure(), minimise=("loss_increase",))
        choices = all_choices(instance)
        pairs = sorted({(instance.amount("r0", c), instance.loss_increase_nats(c)) for c in choices})
        front, best = [], float("inf")
        for amount, loss in pairs:
            if loss < best - 1e-7:
                front.append(amount)
                best = loss
        points = list(every_breakpoint(instance, "r0", pairs[0][0], pairs[-1][0], CpSatSolver(), SETTINGS))
        found = [point.used[0] for point in points if point.used]
        assert set(front) <= set(found)
        assert len(found) <= len({amount for amount, _ in pairs})
        compared += len(front)
    assert compared > 200


def test_a_grid_is_proven_at_every_pair():
    instance = replace(random_program(7), rules=(), loss=LossMeasure(), minimise=("loss_increase",))
    assert len(instance.rows) >= 2
    tables = [sorted({instance.amount(row.name, c) for c in all_choices(instance)}) for row in instance.rows[:2]]
    first, second = (sorted({t[0], t[len(t) // 2], t[-1]}) for t in tables)
    names = (instance.rows[0].name, instance.rows[1].name)
    points = list(grid(instance, names, (first, second), CpSatSolver(), SETTINGS))
    assert len(points) == len(first) * len(second)
    for point in points:
        feasible = [
            c
            for c in all_choices(instance)
            if all(instance.amount(n, c) <= b for n, b in zip(names, point.bounds, strict=True))
        ]
        if not feasible:
            assert point.solution.status is Status.INFEASIBLE
            continue
        assert point.solution.proofs[0].value == pytest.approx(
            min(map(instance.loss_increase_nats, feasible)), abs=1e-9
        )


def test_contradictory_pins_are_the_conflict():
    instance = layers_of_a_real_size(2)
    rules = (*instance.rules, Allow("first pin", ((3, (0,)),), "line 4"), Allow("second pin", ((3, (2,)),), "line 9"))
    conflict = explain_infeasibility(instance.with_rules(rules), CpSatSolver(), SETTINGS)
    assert [rules[index].origin for index in conflict.rules] == ["line 4", "line 9"]
    assert conflict.smallest
    assert conflict.relaxations == ()


def test_the_price_of_a_limit_on_the_loss_is_counted_in_nats():
    instance = layers_of_a_real_size()
    free = instance.with_rules(())
    cheapest = sum(min(losses) for losses in free.domains[0].loss_increase_nats)
    limited = replace(free, minimise=("bytes",)).with_rules([LossLimit("loss", 3 * cheapest)])
    solution = solve(limited, CpSatSolver(), SETTINGS)
    (price,) = sensitivities(limited, solution, CpSatSolver(), SETTINGS).limits
    step = 0.02 * cheapest
    looser = solve(limited.with_rules([LossLimit("loss", 3 * cheapest + step)]), CpSatSolver(), SETTINGS)
    tighter = solve(limited.with_rules([LossLimit("loss", 3 * cheapest - step)]), CpSatSolver(), SETTINGS)
    here = solution.proofs[0].value
    assert (here - looser.proofs[0].value) / step <= price.price * 1.05
    assert (tighter.proofs[0].value - here) / step >= price.price * 0.95
