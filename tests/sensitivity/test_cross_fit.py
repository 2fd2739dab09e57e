"""The winner's curse, and what cross-fitting says about it."""

import numpy as np
import pytest

from helpers.command_line import run
from scantling.common.errors import ScantlingError
from scantling.sensitivity.cross_fit import cross_fit, fold_numbers
from scantling.sensitivity.profile import Profile
from scantling.sensitivity.profile_record import LayerRecord, ProfileRecord

NUM_LAYERS, NUM_SEQUENCES = 60, 24


def a_profile(noise: float, seed: int = 0) -> Profile:
    """Layers with two formats of one size whose true prices are both 1: whatever is picked costs 1 a layer."""
    layers = tuple(
        LayerRecord(
            name=f"l{i}", kind="k", block=0, out_features=4, in_features=64, formats=(0, 1), stored_bytes=(100, 100)
        )
        for i in range(NUM_LAYERS)
    )
    record = ProfileRecord(
        scantling_version="0",
        model_source="m",
        model_sha256="",
        text_source="t",
        text_sha256="",
        sequence_length=8,
        seed=0,
        estimator="fisher",
        rounding={"method": "rtn"},
        calibration_perplexity=1.0,
        formats=("int3-g64", "int3-g32"),
        layers=layers,
        other_bytes=0,
    )
    generator = np.random.default_rng(seed)
    samples = 1 + noise * generator.standard_normal((NUM_LAYERS, 2, NUM_SEQUENCES))
    ids = np.zeros((NUM_SEQUENCES, 8), dtype=np.int64)
    return Profile(record, samples, ids, ids)


def cheapest(profile: Profile) -> dict[str, str]:
    """The program without limits: every layer takes the format that looks cheaper."""
    best = profile.measured_samples.mean(2).argmin(1)
    return {layer.name: profile.record.formats[best[i]] for i, layer in enumerate(profile.record.layers)}


def test_unseen_sequences_give_the_true_loss():
    excess = []
    for seed in range(20):
        profile = a_profile(1.0, seed)
        plan = cheapest(profile)
        assert profile.sample_losses_nats(plan).mean() < 0.93 * NUM_LAYERS  # the curse: the truth is NUM_LAYERS
        priced = cross_fit(profile, cheapest)
        assert priced.seen_nats < 0.92 * NUM_LAYERS
        assert priced.optimism > 1.05
        excess.append((priced.unseen_nats - NUM_LAYERS) / priced.unseen_standard_error_nats)
    assert abs(np.mean(excess)) < 4 / np.sqrt(len(excess))
    assert 0.5 < np.std(excess) < 1.7


def test_exact_prices_have_no_curse():
    priced = cross_fit(a_profile(0.0), cheapest)
    assert priced.seen_nats == priced.unseen_nats == NUM_LAYERS
    assert priced.optimism == 1.0


def test_every_sequence_is_unseen_once():
    seen_by = []

    def solve(profile: Profile) -> dict[str, str]:
        seen_by.append(profile.measured_samples[0, 0])
        return cheapest(profile)

    profile = a_profile(1.0)
    cross_fit(profile, solve, 3)
    for sample in profile.measured_samples[0, 0]:
        assert sum(sample in seen for seen in seen_by) == 2


@pytest.mark.parametrize("num_folds", [1, 13])
def test_too_few_sequences_for_the_folds_are_refused(num_folds):
    with pytest.raises(ScantlingError, match="has 24 pricing sequences"):
        cross_fit(a_profile(1.0), cheapest, num_folds)
    assert set(fold_numbers(24, 4).tolist()) == {0, 1, 2, 3}


def test_solve_prints_both_prices(tmp_path, llama_folder, text_file):
    words = [
        "profile",
        llama_folder,
        "--text",
        text_file,
        "--formats",
        "int2-g32,int4-g32,int8-row",
        "--sequences",
        "2",
    ]
    words += ["--length", "32", "-o", tmp_path / "p"]
    run(*words, "--pricing-sequences", "8")
    solve = ["solve", tmp_path / "p", "--average-bits", "3.5", "-o", tmp_path / "plan.json"]
    solve.append("--details")
    assert "on the part that their solve did not see and" in " ".join(run(*solve).output.split())
    assert "did not see" not in " ".join(run(*solve, "--no-cross-fit").output.split())
    run(*words, "--pricing-sequences", "3")
    assert "3 pricing sequences are too few" in run(*solve).output


def test_an_estimator_without_a_unit_is_flagged(tmp_path, llama_folder, text_file):
    words = ["profile", llama_folder, "--text", text_file, "--formats", "int2-g32,int8-row", "--sequences", "2"]
    words += ["--length", "32", "-o", tmp_path / "p", "--pricing-sequences", "2", "--estimator", "output-error"]
    assert "ranks formats and predicts no loss" in " ".join(run(*words).output.split())
    solved = run("solve", tmp_path / "p", "--average-bits", "3.5", "-o", tmp_path / "plan.json")
    assert "ranks formats" in " ".join(solved.output.split())
    with pytest.raises(ScantlingError, match="nothing to check"):
        run(*words, "--check")
