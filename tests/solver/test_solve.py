"""The integer program: both solvers against brute force, and the laws that every answer keeps."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from helpers.random_programs import all_choices, feasible_choices, layers_of_a_real_size, optima, random_program, sweep
from scantling.common.errors import InputError, SolverError
from scantling.solver.compilation import compile_instance
from scantling.solver.instance import (
    DomainCosts,
    Instance,
    LossMeasure,
    Row,
    Unit,
)
from scantling.solver.lagrangian import relax
from scantling.solver.milp.base import SolverAnswer, SolverSettings, Status
from scantling.solver.milp.cpsat import CpSatSolver
from scantling.solver.milp.integer_costs import integer_costs
from scantling.solver.milp.registry import SOLVERS, solver_named
from scantling.solver.presolve import presolve
from scantling.solver.rules import Allow, Distinct, Limit, LossLimit, Order, Tie
from scantling.solver.solve import solve
from scantling.solver.verify import violations

SETTINGS = SolverSettings(time_limit_seconds=20)


def check_against_brute_force(instance, solution):
    """Hold a solution against brute force."""
    feasible = feasible_choices(instance)
    if not feasible:
        assert solution.status is Status.INFEASIBLE
        assert solution.choice is None
        return
    assert solution.status is Status.OPTIMAL
    assert violations(instance, solution.choice) == []
    strict, lax = optima(instance, feasible, 1e-12), optima(instance, feasible, 1e-7)
    for proof, high, low in zip(
        solution.proofs, strict, lax, strict=True
    ):  # the next objective depends on what is a tie
        room = 2 * proof.resolution + 2e-9 * (1 + abs(high))
        assert low - room <= proof.value <= high + room
        assert proof.bound <= high + room
        assert proof.value - proof.bound <= room


def check_seeds(solver, seeds):
    statuses = set()
    for seed in seeds:
        instance = random_program(seed)
        solution = solve(instance, solver, SETTINGS)
        check_against_brute_force(instance, solution)
        statuses.add(solution.status)
    assert statuses == {Status.OPTIMAL, Status.INFEASIBLE}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_status_and_optimum_is_that_of_brute_force(name):
    check_seeds(solver_named(name), range(250))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_two_thousand_programs_against_brute_force(name):
    check_seeds(solver_named(name), range(10_000, 12_000))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_alone_states_every_rule(name):
    """Without presolve, cases or cores: the solver's own form of the program against brute force."""
    solver, kinds = solver_named(name), set()
    for seed in range(20_000, 20_200):
        instance = random_program(seed)
        if instance.loss.standard_errors:
            continue  # directions are added from outside
        instance = replace(instance, minimise=instance.minimise[:1])
        form = compile_instance(instance)
        feasible = feasible_choices(instance)
        if form is None:
            assert not feasible
            continue
        answer = solver.solve(form, SETTINGS)
        assert (answer.status is Status.OPTIMAL) == bool(feasible)
        assert answer.status in {Status.OPTIMAL, Status.INFEASIBLE}
        if feasible:
            assert answer.chosen is not None
            assert answer.bound is not None
            choice = form.choice(answer.chosen)
            assert violations(instance, choice) == []
            least = min(instance.objective(instance.minimise[0], c) for c in feasible)
            assert instance.objective(instance.minimise[0], choice) <= least + 2 * answer.resolution + 1e-9
            assert answer.bound <= least + 1e-9 * (1 + abs(least))
            kinds |= {type(rule) for rule in instance.rules}
    assert kinds == {Limit, LossLimit, Allow, Tie, Order, Distinct}


def test_presolve_keeps_the_optimum():
    for seed in range(200):
        instance = replace(random_program(seed), loss=LossMeasure())
        instance = replace(instance, minimise=instance.minimise[:1])
        form = compile_instance(instance)
        small = None if form is None else presolve(form)
        feasible = feasible_choices(instance)
        if small is None:
            assert not feasible
            continue
        kept = [c for c in feasible if small.chosen(c) is not None]
        if feasible:
            value = min(instance.objective(instance.minimise[0], c) for c in feasible)
            assert kept
            assert min(instance.objective(instance.minimise[0], c) for c in kept) == pytest.approx(value, abs=1e-12)


def test_the_relaxation_bounds_every_feasible_choice_and_its_reduced_costs_too():
    checked = 0
    for seed in range(300):
        instance = replace(random_program(seed), loss=LossMeasure(), minimise=("loss_increase",))
        form = compile_instance(instance)
        small = None if form is None else presolve(form)
        if small is None:
            continue
        relaxation = relax(small)
        for choice in feasible_choices(instance):
            chosen = small.chosen(choice)
            if chosen is not None:
                loss = instance.loss_increase_nats(choice)
                assert relaxation.bound <= loss
                assert relaxation.bound + relaxation.reduced_costs[chosen].max() <= loss + 1e-9
                checked += 1
    assert checked > 400


def limited(instance, *rules):
    return instance.with_rules(rules)


def test_a_larger_budget_never_costs_more():
    losses = []
    for budget in range(48, 200, 4):
        solution = solve(limited(sweep(), Limit("memory", "bytes", at_most=budget)), CpSatSolver(), SETTINGS)
        losses.append(solution.proofs[0].value)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_both_solvers_prove_the_same_optimum_of_a_real_size():
    instance = layers_of_a_real_size()
    solutions = [solve(instance, solver, SETTINGS) for solver in SOLVERS.values()]
    for solution in solutions:
        assert solution.status is Status.OPTIMAL
        assert solution.proofs[0].gap <= 2 * solution.proofs[0].resolution
        assert 0 < solution.core_options < 840
    values = [solution.proofs[0].value for solution in solutions]
    assert abs(values[0] - values[1]) <= sum(solution.proofs[0].resolution for solution in solutions)


def test_a_gap_that_is_good_enough_ends_the_search():
    instance = layers_of_a_real_size()
    exact = solve(instance, CpSatSolver(), SETTINGS).proofs[0]
    rough = solve(instance, CpSatSolver(), replace(SETTINGS, relative_gap=1e-2))
    assert rough.status is Status.OPTIMAL
    assert rough.core_options == 0
    assert rough.proofs[0].bound <= exact.value <= rough.proofs[0].value <= exact.value * 1.0101


def test_an_unknown_solver_is_refused():
    with pytest.raises(InputError, match="Known: cpsat, highs"):
        solver_named("cplex")


def test_the_same_seed_gives_the_same_choice():
    instance = layers_of_a_real_size()
    first, second = (solve(instance, CpSatSolver(), SETTINGS).choice for _ in range(2))
    assert first == second


def test_costs_twelve_orders_apart():
    units = (Unit("large", ("a", "b"), (2.0, 4.0)), Unit("small", ("a", "b"), (2.0, 4.0)))
    instance = Instance(
        units,
        (Row("bytes", "bytes", ((1, 2), (1, 0))),),
        (DomainCosts("text", ((1e3, 1e3 - 1e-9), (1e-9, 2e-9))),),
        (Limit("memory", "bytes", at_most=3),),
    )
    for solver in SOLVERS.values():
        solution = solve(instance, solver, SETTINGS)
        best = min(instance.loss_increase_nats(c) for c in feasible_choices(instance))
        assert solution.choice is not None
        assert solution.proofs[0].bound <= best
        assert instance.loss_increase_nats(solution.choice) <= best + 2 * solution.proofs[0].resolution
        assert solution.proofs[0].resolution < 1e-8


def test_integer_costs_stay_within_the_stated_resolution():
    for seed in range(200):
        instance = replace(random_program(seed), loss=LossMeasure(random_program(seed).loss.over_domains), rules=())
        form = compile_instance(replace(instance, minimise=("loss_increase",)))
        assert form is not None
        costs = integer_costs(form)
        for choice in all_choices(instance)[:50]:
            chosen = form.chosen(choice)
            total = int((costs.costs[:, chosen].sum(axis=1) + costs.constants).max())
            assert total < 2**43
            true = instance.loss_increase_nats(choice)
            assert abs(costs.offset + total / costs.scale - true) <= costs.resolution + 1e-15 * abs(true)
            assert costs.bound(total) <= true + 1e-15 * abs(true)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_no_time_is_an_answer_not_an_exception(solver):
    solution = solve(layers_of_a_real_size(), solver, SolverSettings(time_limit_seconds=0))
    assert solution.status in {Status.UNKNOWN, Status.FEASIBLE}
    if solution.choice is not None:
        assert solution.proofs[0].gap > 0


def test_highs_answers_whatever_the_number_of_threads_before():
    highs = solver_named("highs")
    for threads in (1, 2, 1):
        assert solve(layers_of_a_real_size(3), highs, replace(SETTINGS, num_threads=threads)).status is Status.OPTIMAL


def test_robust_plans_pay_for_uncertainty():
    """The plan for mean + k · error has a larger mean and a smaller robust loss than the plan for the mean."""
    draw = random.Random(3)
    plain = sweep(6)
    deviations = tuple(
        tuple(tuple(draw.gauss(0, 0.02 if u < 3 else 0.0001) for _ in range(4)) for _ in unit.formats)
        for u, unit in enumerate(plain.units)
    )
    case = DomainCosts("text", plain.domains[0].loss_increase_nats, deviations)
    rules = (Limit("memory", "bytes", at_most=40),)
    careless = solve(replace(plain, domains=(case,), rules=rules), CpSatSolver(), SETTINGS)
    robust = replace(plain, domains=(case,), rules=rules, loss=LossMeasure("mean", 2.0))
    careful = solve(robust, CpSatSolver(), SETTINGS)
    assert careful.choice is not None
    assert careless.choice is not None
    assert careful.choice != careless.choice
    assert robust.loss_increase_nats(careful.choice) < robust.loss_increase_nats(careless.choice)
    mean = plain.with_rules(rules).loss_increase_nats
    assert mean(careful.choice) >= mean(careless.choice)


def test_the_worst_domain_counts():
    plain = sweep(2)
    units = plain.units
    first = DomainCosts("prose", ((1.0, 0.5, 0.2, 0.0), (0.1, 0.1, 0.1, 0.1)))
    second = DomainCosts("code", ((0.1, 0.1, 0.1, 0.1), (1.0, 0.5, 0.2, 0.0)))
    instance = Instance(
        units, plain.rows, (first, second), (Limit("memory", "bytes", at_most=13),), LossMeasure("worst")
    )
    solution = solve(instance, CpSatSolver(), SETTINGS)
    worst = min(max(*(instance.domain_loss_nats(c, x)[0] for c in (first, second))) for x in feasible_choices(instance))
    assert solution.proofs[0].value == pytest.approx(worst)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (Limit("memory", "bytes", at_most=20, origin="--memory"), r"memory \(--memory\): bytes comes to 28"),
        (Limit("floor", "bytes", at_least=40), "at least 40"),
        (LossLimit("loss", 0.0), "the limit is 0"),
        (Allow("pin", ((0, (0,)),)), "u0 has int8, which is not allowed"),
        (Tie("same", ((0, 1),)), "u0, u1 have different formats"),
        (Order("order", ((1, 0),)), "u1 has fewer bits than u0"),
        (Distinct("one", (0, 1, 2), 1), "2 formats, int4, int8, where 1"),
    ],
)
def test_the_judge_finds_every_kind_of_fault(rule, fault):
    instance = sweep(3)
    choice = (3, 2, 2)
    assert violations(instance, choice) == []
    found = violations(limited(instance, rule), choice)
    assert len(found) == 1
    assert re.search(fault, found[0])
    assert "1 units" in violations(instance, (0,))[0]
    assert "format 4" in violations(instance, (0, 4, 0))[0]


class Liar:
    """A solver that returns the cheapest option everywhere, whatever the limits."""

    name = "liar"

    def solve(self, form, settings, hint=None):
        chosen = form.cheapest(form.costs[0])
        return SolverAnswer(Status.OPTIMAL, chosen, form.objective(chosen))


def test_a_plan_that_breaks_its_own_limits_is_an_error_of_the_solver():
    with pytest.raises(SolverError, match="liar returned a plan that breaks its own limits: memory"):
        solve(layers_of_a_real_size(), Liar(), SETTINGS)


class Denier(Liar):
    """A solver that calls everything infeasible."""

    def solve(self, form, settings, hint=None):
        return SolverAnswer(Status.INFEASIBLE)


def test_a_solver_that_denies_a_known_plan_is_an_error_of_the_solver():
    with pytest.raises(SolverError, match="liar calls a program infeasible for which a plan is known"):
        solve(layers_of_a_real_size(), Denier(), SETTINGS)


def test_amounts_beyond_64_bits_are_refused():
    huge = Row("bytes", "bytes", ((2**60, 1, 1, 1), (2**60, 1, 1, 1)))
    with pytest.raises(InputError, match="coarser steps"):
        solve(replace(sweep(2), rows=(huge,), rules=(Limit("m", "bytes", at_most=5),)), CpSatSolver(), SETTINGS)


def test_more_sets_of_formats_than_can_be_searched_are_refused():
    names = tuple(f"f{k}" for k in range(30))
    units = (Unit("u", names, tuple(map(float, range(30)))),)
    instance = Instance(units, (), (DomainCosts("t", (tuple(map(float, range(30))),)),), (Distinct("d", (0,), 15),))
    with pytest.raises(InputError, match="155,117,520 cases"):
        solve(instance, CpSatSolver(), SETTINGS)


def test_orders_over_a_chain_too_long_to_list():
    """More feasible combinations than are joined into one group: the order stays with the solver."""
    instance = limited(
        sweep(10),
        Order("falling", tuple((u, u + 1) for u in range(9))),
        Limit("memory", "bytes", at_most=70),
    )
    solution = solve(instance, CpSatSolver(), SETTINGS)
    assert solution.choice is not None
    bits = [instance.units[u].bits[i] for u, i in enumerate(solution.choice)]
    assert bits == sorted(bits, reverse=True)
    assert solution.status is Status.OPTIMAL
    reached = np.inf
    for choice in _falling(10, 4):
        if not violations(instance, choice):
            reached = min(reached, instance.loss_increase_nats(choice))
    assert solution.proofs[0].value == pytest.approx(reached, abs=1e-12)


def _falling(length, top):
    if length == 0:
        yield ()
        return
    for first in range(top):
        for rest in _falling(length - 1, first + 1):
            yield (first, *rest)
