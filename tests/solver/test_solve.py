"""The integer program: both solvers against brute force, and the laws that every answer keeps."""

import json
import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest

from helpers.random_programs import all_choices, feasible_choices, layers_of_a_real_size, optima, random_program
from scantling.common.errors import FileFormatError, InputError
from scantling.solver.compilation import compile_instance
from scantling.solver.instance import (
    INSTANCE,
    DomainCosts,
    Instance,
    LossMeasure,
    Row,
    Unit,
    read_instance,
    write_instance,
)
from scantling.solver.lagrangian import relax
from scantling.solver.milp.base import SolverSettings, Status
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


def sweep(num_units=12, domain=None):
    bits = (2.0, 3.0, 4.0, 8.0)
    names = tuple(f"int{b:g}" for b in bits)
    units = tuple(Unit(f"u{u}", names, bits) for u in range(num_units))
    row = Row("bytes", "bytes", tuple(tuple(int(b) * (1 + u % 3) for b in bits) for u in range(num_units)))
    losses = tuple(tuple((u + 1) * 4.0**-b for b in bits) for u in range(num_units))
    return Instance(units, (row,), (domain or DomainCosts("text", losses),))


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


def test_programs_survive_a_file(tmp_path):
    instance = random_program(100)
    for seed in range(100):
        instance = random_program(seed)
        assert INSTANCE.validate_json(INSTANCE.dump_json(instance)) == instance
    write_instance(instance, tmp_path / "program.json")
    assert read_instance(tmp_path / "program.json") == instance
    (tmp_path / "broken.json").write_text('{"units": 3}')
    with pytest.raises(FileFormatError, match="not a program"):
        read_instance(tmp_path / "broken.json")


OLD_NAMES = {"domains": "load_cases", "over_domains": "over_cases"}


def renamed(value, names):
    if isinstance(value, list):
        return [renamed(entry, names) for entry in value]
    if not isinstance(value, dict):
        return value
    return {names.get(key, key): renamed(entry, names) for key, entry in value.items()}


def test_a_program_of_version_01_is_read_by_its_old_names(tmp_path):
    instance, path = random_program(4), tmp_path / "program.json"
    old = renamed(json.loads(INSTANCE.dump_json(instance)), OLD_NAMES)
    assert "load_cases" in old
    assert "over_cases" in old["loss"]
    path.write_text(json.dumps(old))
    assert read_instance(path) == instance
    path.write_text(json.dumps(old | {"domains": old["load_cases"]}))
    with pytest.raises(FileFormatError, match="the key 'load_cases' is the old name of 'domains'"):
        read_instance(path)
    path.write_text("{")
    with pytest.raises(FileFormatError, match="it is not JSON"):
        read_instance(path)
    with pytest.raises(FileFormatError, match="cannot read the program"):
        read_instance(tmp_path / "missing.json")


def malformed(**changes):
    return replace(sweep(2), **changes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"units": (Unit("u", (), ()),) * 2}, "two units"),
        ({"units": (Unit("u", (), ()), Unit("v", (), ()))}, "at least one format"),
        ({"units": (Unit("u", ("a", "a"), (1.0, 1.0)), Unit("v", ("a",), (1.0,)))}, "twice"),
        ({"rows": (Row("bytes", "bytes", ((1,), (2,))),)}, "1 amounts for the 4 formats"),
        ({"rows": (Row("bytes", "bytes", ()),)}, "0 units of 2"),
        ({"domains": ()}, "no domain"),
        ({"domains": (DomainCosts("t", ((0, 0, 0, math.nan),) * 2),)}, "int8' is nan"),
        ({"domains": (DomainCosts("t", ((0, 0, 0, math.inf),) * 2),)}, "finite"),
        ({"loss": LossMeasure("mean", 1.0)}, "no standard errors"),
        ({"loss": LossMeasure("mean", -1.0)}, "no standard errors|must be 0 or more"),
        ({"minimise": ("speed",)}, "cannot minimise"),
        ({"minimise": ()}, "cannot minimise"),
        ({"rules": (Limit("m", "power", at_most=1),)}, "not a row"),
        ({"rules": (Limit("m", "bytes"),)}, "either at_most or at_least"),
        ({"rules": (LossLimit("m", math.nan),)}, "nan"),
        ({"rules": (Tie("t", ((0, 5),)),)}, "the unit 5"),
        ({"rules": (Allow("a", ((0, (9,)),)),)}, "formats"),
        ({"rules": (Distinct("d", (0,), 0),)}, "at least 1"),
    ],
)
def test_a_malformed_program_is_refused(changes, word):
    with pytest.raises(InputError, match=word):
        malformed(**changes)


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
