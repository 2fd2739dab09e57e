"""What an engine's rules cost: held against brute force over all choices of a small program."""

import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from helpers.tiny_profiles import feasible, formats_of, make_profile
from scantling import Program
from scantling.__main__ import app
from scantling.planning.engine_cost import EngineCost, Saved, engine_cost
from scantling.reporting.terminal.diagnostics import engine_cost_sentence
from scantling.sensitivity.profile import write_profile
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver
from scantling.solver.rules import Tie

KNOWN = ("int4-g64-sym", "int6-g64-sym", "int8-g128-sym", "float16")
BLOCK = {"self_attn.q_proj": (128, 128), "self_attn.v_proj": (64, 128), "mlp.down_proj": (64, 256)}
SEARCH = (CpSatSolver(), SolverSettings())


def best_formats(profile, instance):
    """The best choice of an instance, by trying all."""
    tried = (formats_of(instance, choice) for choice in feasible(instance))
    return min(tried, key=lambda formats: profile.predict(formats)[0])


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_is_the_difference_of_two_optima(seed):
    profile = make_profile(1, KNOWN, BLOCK, known=KNOWN, seed=seed)
    free = Program(profile).limit("average_bits", at_most=6.5)
    bound = free.engine("vllm").instance()
    untied = replace(bound, rules=tuple(rule for rule in bound.rules if not isinstance(rule, Tie)))
    formats = best_formats(profile, bound)
    cost = engine_cost(profile, bound, formats, *SEARCH)
    assert cost is not None
    assert cost.engine == "vllm"
    for saved, freer in ((cost.without_ties, untied), (cost.without_rules, free.instance())):
        difference = profile.predict(formats)[0] - profile.predict(best_formats(profile, freer))[0]
        assert saved is not None
        assert saved.nats == pytest.approx(difference, abs=1e-12)
        assert saved.is_proven
    assert cost.without_rules is not None
    assert cost.without_ties is not None
    assert cost.without_rules.nats > cost.without_ties.nats > 0


def test_without_an_engine_or_with_another_aim_there_is_no_cost():
    profile = make_profile(1, KNOWN, BLOCK, known=KNOWN)
    free = Program(profile).limit("average_bits", at_most=6.5)
    formats = best_formats(profile, free.instance())
    assert engine_cost(profile, free.instance(), formats, *SEARCH) is None
    smallest = free.engine("vllm").limit("loss_increase", at_most=1.0).minimize("memory").instance()
    assert engine_cost(profile, smallest, formats, *SEARCH) is None


def test_the_sentence_says_what_is_predicted_and_what_is_not_proven():
    cost = EngineCost("vllm", Saved(0.02, 0.004, True), Saved(0.05, math.nan, False))
    assert engine_cost_sentence(cost, 0.2) == (
        "For the engine vllm, predicted, at the same limits: its ties cost 0.02±0.004 nats per token (10%); together "
        "with the formats that it does not load, they cost at least 0.05 nats per token (25%)."
    )
    assert "its ties cost nothing." in engine_cost_sentence(EngineCost("x", Saved(0.0, 0.0, True), None), 0.2)
    only_formats = engine_cost_sentence(EngineCost("x", None, Saved(0.1, 0.01, True)), 0.2)
    assert "limits: the formats that it does not load cost 0.1±0.01" in only_formats


def test_solve_prints_it(tmp_path):
    path = tmp_path / "p.safetensors"
    write_profile(make_profile(1, KNOWN, BLOCK, known=KNOWN), path)
    words = ["solve", str(path), "--average-bits", "6.5", "-o", str(tmp_path / "plan.json")]
    told = CliRunner().invoke(app, [*words, "--details", "--engine", "vllm"])
    assert told.exit_code == 0, told.output
    assert "For the engine vllm, predicted, at the same limits: its ties cost" in " ".join(told.output.split())
    assert "For the engine" not in CliRunner().invoke(app, [*words, "--details"]).output
