"""The integer program: CP-SAT against brute force, and the judge that knows no engine."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scantling.solver.cpsat import CpSat
from scantling.solver.engine import SearchSettings, Status, integer_costs
from scantling.solver.engines import ENGINES, engine_named
from scantling.solver.errors import ScantlingError
from scantling.solver.highs import Highs
from scantling.solver.instance import Instance, Limit, Option, Unit
from scantling.solver.verify import violations

SETTINGS = SearchSettings(time_limit_seconds=20)


@st.composite
def instances(draw):
    num_limits = draw(st.integers(1, 2))
    cost = st.one_of(
        st.floats(0, 5, allow_nan=False),
        st.floats(-0.1, 0.1, allow_nan=False),
        st.floats(1e-9, 1e-6),
    )
    amount = st.integers(0, 1000)
    option = st.builds(
        lambda name, loss, amounts: Option(name, loss, tuple(amounts)),
        st.sampled_from(["int2", "int3", "int4", "int8"]),
        cost,
        st.lists(amount, min_size=num_limits, max_size=num_limits),
    )
    num_units = draw(st.integers(1, 5))
    units = tuple(Unit(f"u{i}", tuple(draw(st.lists(option, min_size=1, max_size=4)))) for i in range(num_units))
    limits = tuple(Limit(f"row{k}", draw(st.integers(0, 1000 * num_units))) for k in range(num_limits))
    return Instance(units, limits)


def brute_force(instance):
    """The smallest loss increase of a choice within the limits; infinity where there is none."""
    feasible = [
        choice
        for choice in itertools.product(*(range(len(unit.options)) for unit in instance.units))
        if all(instance.amount(k, choice) <= limit.at_most for k, limit in enumerate(instance.limits))
    ]
    return min((instance.loss_increase_nats(choice) for choice in feasible), default=math.inf)


def judge(instance, outcome):
    """Hold an outcome against brute force."""
    best = brute_force(instance)
    if best == math.inf:
        assert outcome.status is Status.INFEASIBLE
        assert outcome.choice is None
        assert outcome.bound_nats is None
        return
    assert outcome.status is Status.OPTIMAL
    assert outcome.choice is not None
    objective = instance.loss_increase_nats(outcome.choice)
    assert violations(instance, outcome.choice, objective) == []
    assert objective <= best + 2 * outcome.resolution_nats
    assert outcome.bound_nats <= best
    assert best - outcome.bound_nats <= 4 * outcome.resolution_nats + 1e-15


@settings(max_examples=200, deadline=None)
@given(instances())
def test_cpsat_finds_what_brute_force_finds(instance):
    judge(instance, CpSat().solve(instance, SETTINGS))


def random_instance(generator):
    """The same kinds of instance without hypothesis, whose draws are too large in hundreds."""
    num_limits, num_units = generator.randint(1, 2), generator.randint(1, 5)

    def option():
        cost = generator.choice([
            generator.uniform(0, 5),
            generator.uniform(-0.1, 0.1),
            generator.uniform(1e-9, 1e-6),
            0,
        ])
        return Option("f", cost, tuple(generator.randint(0, 1000) for _ in range(num_limits)))

    units = tuple(Unit(f"u{u}", tuple(option() for _ in range(generator.randint(1, 4)))) for u in range(num_units))
    return Instance(units, tuple(Limit(f"row{k}", generator.randint(0, 600 * num_units)) for k in range(num_limits)))


def test_highs_finds_what_brute_force_finds():
    generator = random.Random(0)
    many = [random_instance(generator) for _ in range(300)]
    outcomes = Highs().solve_all(many, SETTINGS)
    for instance, outcome in zip(many, outcomes, strict=True):
        judge(instance, outcome)
    assert {outcome.status for outcome in outcomes} == {Status.OPTIMAL, Status.INFEASIBLE}


@settings(max_examples=100, deadline=None)
@given(instances())
def test_integer_costs_stay_within_the_stated_resolution(instance):
    costs = integer_costs(instance)
    for choice in itertools.islice(itertools.product(*(range(len(u.options)) for u in instance.units)), 50):
        total = sum(costs.costs[u][i] for u, i in enumerate(choice))
        assert total < 2**43
        true = instance.loss_increase_nats(choice)
        assert costs.bound_nats(total) <= true + 1e-14 * abs(true)
        assert abs(costs.offset_nats + total / costs.scale - true) <= costs.resolution_nats * (1 + 1e-9) + 1e-12


def ladder(num_units=12):
    return [
        Unit(f"u{u}", tuple(Option(f"int{b}", (u + 1) * 4.0**-b, (b * (1 + u % 3),)) for b in (2, 3, 4, 8)))
        for u in range(num_units)
    ]


def test_a_larger_budget_never_costs_more():
    losses = []
    for budget in range(48, 200, 4):
        instance = Instance(tuple(ladder()), (Limit("bytes", budget),))
        outcome = CpSat().solve(instance, SETTINGS)
        assert outcome.choice is not None
        losses.append(instance.loss_increase_nats(outcome.choice))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_both_engines_prove_the_same_optimum_of_a_real_size():
    """210 layers in six formats with true byte counts: sizes that a float row could get wrong by a byte."""
    generator = random.Random(1)
    units, budget = [], 0
    for u in range(210):
        num_weights = generator.choice([110592, 331776, 884736])
        scale = generator.lognormvariate(0, 1) * num_weights * 1e-8
        amounts = {
            b: num_weights * b // 8 + num_weights // 64 * 2 + -(-num_weights // 64 * b // 8) for b in (2, 3, 4, 6)
        }
        options = [
            Option(f"int{b}", scale * 4.0 ** (3 - b) * generator.uniform(0.9, 1.1), (a,)) for b, a in amounts.items()
        ]
        units.append(Unit(f"u{u}", tuple(options)))
        budget += amounts[3]
    instance = Instance(tuple(units), (Limit("bytes", budget - 1),))
    outcomes = [engine.solve(instance, SETTINGS) for engine in ENGINES.values()]
    objectives = []
    for outcome in outcomes:
        assert outcome.status is Status.OPTIMAL
        assert outcome.choice is not None
        assert outcome.bound_nats is not None
        objectives.append(instance.loss_increase_nats(outcome.choice))
        assert violations(instance, outcome.choice, objectives[-1]) == []
        assert objectives[-1] - outcome.bound_nats <= 4 * outcome.resolution_nats
    assert abs(objectives[0] - objectives[1]) <= sum(outcome.resolution_nats for outcome in outcomes)


def test_an_engine_that_does_not_exist_is_refused():
    with pytest.raises(ScantlingError, match="Known: cpsat, highs"):
        engine_named("cplex")


def test_the_same_seed_gives_the_same_choice():
    instance = Instance(tuple(ladder(40)), (Limit("bytes", 300),))
    first, second = (CpSat().solve(instance, SETTINGS).choice for _ in range(2))
    assert first == second


def test_the_bound_is_valid_for_costs_twelve_orders_apart():
    units = (
        Unit("large", (Option("a", 1e3, (1,)), Option("b", 1e3 - 1e-9, (2,)))),
        Unit("small", (Option("a", 1e-9, (1,)), Option("b", 2e-9, (0,)))),
    )
    instance = Instance(units, (Limit("bytes", 3),))
    outcome = CpSat().solve(instance, SETTINGS)
    assert outcome.choice is not None
    assert outcome.bound_nats is not None
    assert outcome.bound_nats <= brute_force(instance)
    assert instance.loss_increase_nats(outcome.choice) <= brute_force(instance) + 2 * outcome.resolution_nats


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_no_time_is_an_answer_not_an_exception(engine):
    outcome = engine.solve(Instance(tuple(ladder(40)), (Limit("bytes", 300),)), SearchSettings(time_limit_seconds=0))
    assert outcome.status in {Status.UNKNOWN, Status.FEASIBLE, Status.OPTIMAL}
    assert (outcome.choice is None) == (outcome.status is Status.UNKNOWN)


def test_the_judge_finds_every_kind_of_fault():
    instance = Instance(tuple(ladder(2)), (Limit("bytes", 10),))
    good = (0, 0)
    objective = instance.loss_increase_nats(good)
    assert violations(instance, good, objective) == []
    assert "the limit is 10" in violations(instance, (3, 3), instance.loss_increase_nats((3, 3)))[0]
    assert "adds up" in violations(instance, good, math.nextafter(objective, 1))[0]
    assert "option 4" in violations(instance, (0, 4), objective)[0]
    assert "1 units" in violations(instance, (0,), objective)[0]


@pytest.mark.parametrize(
    ("units", "limits", "word"),
    [
        ((Unit("u", ()),), (), "no format"),
        ((Unit("u", (Option("f", 1.0, ()),)),) * 2, (), "two units"),
        ((Unit("u", (Option("f", math.nan, ()),)),), (), "finite"),
        ((Unit("u", (Option("f", math.inf, ()),)),), (), "finite"),
        ((Unit("u", (Option("f", 1.0, ()),)),), (Limit("bytes", 1),), "amounts"),
    ],
)
def test_a_malformed_program_is_refused(units, limits, word):
    with pytest.raises(ScantlingError, match=word):
        Instance(units, limits)
