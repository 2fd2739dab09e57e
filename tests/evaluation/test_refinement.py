"""Re-linearisation: never worse on held-out text, within limits and trust region."""

import itertools

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.tiny_profiles import choices, make_profile
from scantling import Program
from scantling.__main__ import app
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.evaluation.quality import measure_candidates
from scantling.evaluation.refinement import (
    Refinement,
    around,
    neighbours,
    require_refinable,
    round_everything,
    signal_share,
    unseen_sequences,
    within,
)
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.planning.solve import choose_formats
from scantling.quantization.grid import CastMatrix
from scantling.sensitivity.calibration.capture import LabelDraws
from scantling.sensitivity.profile import read_profile
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver
from scantling.solver.verify import violations

FORMATS = "int2-g32,int3-g32,int4-g32,int6-g32"


def choose(instance):
    return choose_formats(instance, CpSatSolver(), SolverSettings())


@pytest.fixture(scope="module")
def refinement_of(tmp_path_factory, llama_folder, text_file):
    path = tmp_path_factory.mktemp("refined") / "p"
    words = ["profile", llama_folder, "--text", text_file, "--sequences", "4", "--length", "32", "-o", path]
    words += ["--pricing-sequences", "30", "--formats", FORMATS]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    profile, loaded = read_profile(path), load_model(str(llama_folder))

    def make(bits: float) -> Refinement:
        program = Program(profile).limit("average_bits", at_most=bits).instance()
        return Refinement(loaded, profile, program, choose, LabelDraws(3), silent, choose(program))

    return make


@pytest.mark.parametrize(("bits", "improves"), [(3.5, True), (4.25, False)])
def test_refined_plans_measure_better_on_held_out_text(refinement_of, bits, improves, monkeypatch):
    monkeypatch.setattr("scantling.evaluation.refinement.FIRST_SHARE", 0.5)
    refinement = refinement_of(bits)
    start = dict(refinement.formats)
    steps = list(refinement.steps(5))
    assert len(steps) <= 5
    assert any(step.kept for step in steps) == improves
    records = round_everything(refinement.loaded, refinement.profile, silent)
    unseen = unseen_sequences(refinement.profile)
    token_ids = torch.from_numpy(refinement.profile.pricing_token_ids[unseen])

    def kl(formats):
        candidate = {layer: of[formats[layer]] for layer, of in records.items()}
        return np.mean(measure_candidates(refinement.loaded.model, {"it": candidate}, token_ids, silent)["it"].kl_nats)

    gained = sum(step.change_nats for step in steps if step.kept)
    assert kl(refinement.formats) - kl(start) == pytest.approx(gained, rel=1e-4, abs=1e-7)
    assert (gained < 0) == improves
    instance = refinement.program
    choice = [unit.formats.index(refinement.formats[unit.name]) for unit in instance.units]
    assert not violations(instance, choice)


def test_a_step_that_is_not_kept_halves_the_region_and_leaves_the_plan(refinement_of, monkeypatch):
    refinement = refinement_of(3.5)
    monkeypatch.setattr("scantling.evaluation.refinement.FIRST_SHARE", 1.0)
    worse = iter(np.arange(1.0, 100.0))
    monkeypatch.setattr(Refinement, "_kl", lambda *_: np.full(3, next(worse)))  # every plan is worse than the last
    start = dict(refinement.formats)
    steps = list(refinement.steps(20))
    assert refinement.formats == start
    assert not any(step.kept for step in steps)
    moved = [step.num_moved for step in steps]
    assert all(later <= max(1, earlier // 2) for earlier, later in itertools.pairwise(moved))
    assert moved[-1] <= 1 or len(steps) < 20


def test_the_program_around_a_plan_is_what_brute_force_finds():
    profile = make_profile(num_blocks=1, formats=("int2-g32", "int4-g32", "int8-row"))
    program = Program(profile).limit("average_bits", at_most=4.5).instance()
    plan = choose(program)
    generator = np.random.default_rng(0)
    decided = [unit for unit in program.units if len(unit.formats) > 1]
    costs = {
        unit.name: {name: generator.normal() for name in unit.formats if name != plan[unit.name]}
        for unit in decided[:2]
    }
    for radius in (1, 2, 3):
        nearby = within(around(program, plan, costs), radius)
        found = choose(nearby)
        best = np.inf
        for choice in choices(program):
            formats = {unit.name: unit.formats[i] for unit, i in zip(program.units, choice, strict=True)}
            moved = [layer for layer, name in formats.items() if name != plan[layer]]
            if (
                len(moved) <= radius
                and not violations(program, choice)
                and all(formats[layer] in costs.get(layer, {}) for layer in moved)
            ):
                best = min(best, sum(costs[layer][formats[layer]] for layer in moved))
        moved = [layer for layer, name in found.items() if name != plan[layer]]
        assert sum(costs[layer][found[layer]] for layer in moved) == pytest.approx(best, abs=1e-9)


def test_neighbours_are_next_by_bytes():
    profile = make_profile(num_blocks=1)
    names = [layer.name for layer in profile.record.layers if layer.is_decided]
    matrix = CastMatrix(torch.zeros(1, 1))
    records = {name: {"int2-g32": matrix, "int4-g32": matrix, "int8-row": matrix} for name in names}
    plan = dict(zip(names, ("int2-g32", "int4-g32", "int8-row"), strict=True))
    near = neighbours(profile, plan, records)
    assert [set(near[name]) for name in names] == [
        {"int2-g32", "int4-g32"},
        {"int2-g32", "int4-g32", "int8-row"},
        {"int4-g32", "int8-row"},
    ]


def test_noise_alone_has_no_signal_and_a_clear_difference_has_all():
    generator = np.random.default_rng(0)
    zero = {f"l{i}": {"f": np.zeros(16)} for i in range(200)}
    noise = {f"l{i}": {"f": generator.normal(0, 1, 16)} for i in range(200)}
    assert signal_share(zero, noise) < 0.2
    clear = {f"l{i}": {"f": generator.normal(3, 1, 16)} for i in range(200)}
    assert signal_share(zero, clear) > 0.95
    half = {f"l{i}": {"f": generator.normal(generator.normal(0, 0.25), 1, 16)} for i in range(2000)}
    zero |= {f"l{i}": {"f": np.zeros(16)} for i in range(2000)}
    assert signal_share(zero, half) == pytest.approx(0.5, abs=0.06)  # variance 1/16 of each


def test_what_cannot_be_refined_is_refused():
    profile = make_profile(num_samples=12)
    plain = Program(profile).limit("average_bits", at_most=4)
    require_refinable(plain.instance(), profile)
    with pytest.raises(ScantlingError, match="--max-loss"):
        require_refinable(plain.limit("loss_increase", at_most=1).minimize("memory").instance(), profile)
    with pytest.raises(ScantlingError, match="--robust"):
        require_refinable(plain.robust(1.0).instance(), profile)
    few = make_profile(num_samples=5)
    with pytest.raises(ScantlingError, match="--pricing-sequences 6"):
        require_refinable(Program(few).limit("average_bits", at_most=4).instance(), few)


def test_solve_refines_and_the_plan_says_how(tmp_path, llama_folder, text_file, monkeypatch):
    monkeypatch.setattr("scantling.evaluation.refinement.FIRST_SHARE", 0.5)

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    words = ["profile", llama_folder, "--text", text_file, "--sequences", "4", "--length", "32", "-o", tmp_path / "p"]
    assert run(*words, "--pricing-sequences", "30", "--formats", FORMATS).exit_code == 0
    solved = ["solve", tmp_path / "p", "--average-bits", "3.5", "-o", tmp_path / "plan.json"]
    refused = run(*solved, "--refine", "0")
    assert isinstance(refused.exception, ScantlingError)
    refused = run(*solved, "--refine", "2", "--max-loss", "9", "--minimize", "memory")
    assert isinstance(refused.exception, ScantlingError)
    result = run(*solved, "--refine", "3")
    assert result.exit_code == 0, result.output
    assert "step 1: " in result.output
    plan = read_plan(tmp_path / "plan.json")
    assert plan.certificate.status == "REFINED"
    assert any(step.kept for step in plan.certificate.refinement)
    assert plan.average_bits <= 3.5
    checked = run("verify", tmp_path / "plan.json")
    assert checked.exit_code == 0, checked.output
