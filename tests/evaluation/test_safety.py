"""The factor of safety: curve and crossings, prediction margin, factors whose answer is known, and the command."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command_line import invoke
from helpers.sampled import save_sampled
from helpers.tiny_models import save_model
from helpers.tiny_profiles import make_profile
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.evaluation import cache as measured_module
from scantling.evaluation.bootstrap import BlockBootstrap, BootstrapSettings
from scantling.evaluation.cache import formats_sha256
from scantling.evaluation.quality import Quality
from scantling.evaluation.safety import solve_with_factor as safe_solve
from scantling.evaluation.safety.budget_sweep import bits_of_points, sweep
from scantling.evaluation.safety.degradation_curve import curve_of
from scantling.evaluation.safety.factor import margin_of_measured, margin_of_predicted
from scantling.evaluation.safety.record import SafetyFile, read_safety
from scantling.planning.plan import read_plan
from scantling.sensitivity.profile import read_profile

NUM = 12
DRAWS = BlockBootstrap(tuple(range(NUM)), BootstrapSettings(num_resamples=1000))


def quality(kl, loss, noise=0.0, seed=0):
    """A plan of this KL divergence and loss on every sequence, or about it."""
    spread = 1 + noise * np.random.default_rng(seed).normal(size=NUM)
    ones = (1.0,) * NUM
    return Quality(tuple(kl * spread), tuple(2.0 + loss * spread), ones, ones, ones)


ORIGINAL = quality(0.0, 0.0)


def curve(points, **more):
    sweep_points = [quality(kl, loss, **more) for kl, loss in points]
    return curve_of([f"point {i}" for i in range(len(points))], sweep_points, ORIGINAL, DRAWS)


def test_a_threshold_is_crossed_between_two_points():
    found = curve([(0.1, 0.05), (0.3, 0.15), (0.9, 0.75)]).crossing(0.45)
    assert found.kl_nats == pytest.approx(0.6)
    assert (found.reached, found.between, found.share_reached) == (True, ("point 1", "point 2"), 1.0)
    assert np.allclose(found.replicates, 0.6)


def test_the_original_is_the_first_point_of_the_curve():
    found = curve([(0.2, 0.4), (0.3, 0.6)]).crossing(0.1)
    assert found.kl_nats == pytest.approx(0.05)
    assert found.between == ("original", "point 0")


def test_points_may_come_in_any_order():
    points = [(0.9, 0.75), (0.1, 0.05), (0.3, 0.15)]
    found = curve(points).crossing(0.45)
    assert found.kl_nats == pytest.approx(0.6)
    assert found.between == ("point 2", "point 0")


def test_nothing_is_extrapolated():
    found = curve([(0.1, 0.05), (0.3, 0.15)]).crossing(0.2)
    assert (found.kl_nats, found.reached, found.between, found.share_reached) == (
        pytest.approx(0.3),
        False,
        ("point 1",),
        0.0,
    )


def test_a_loss_that_seems_to_fall_is_averaged():
    """The points at 0.2 and 0.3 are out of order: both count as 0.2 nats, so that 0.25 is crossed after them."""
    found = curve([(0.1, 0.1), (0.2, 0.3), (0.3, 0.1), (0.4, 0.4)]).crossing(0.25)
    assert found.kl_nats == pytest.approx(0.3 + 0.1 * 0.05 / 0.2)


def test_a_larger_offset_is_never_crossed_earlier():
    made = curve([(0.05 * i, 0.04 * i) for i in range(1, 12)], noise=0.5)
    crossings = [made.crossing(threshold).kl_nats for threshold in np.linspace(0.01, 0.4, 20)]
    assert all(a <= b for a, b in itertools.pairwise(crossings))


def test_prediction_margin_bounds_the_next_ratio():
    sweep_points = [(0.1, 0.11), (0.2, 0.26), (0.4, 0.44), (5.0, 50.0), (0.001, 0.1)]
    found = margin_of_predicted(0.2, sweep_points, 0.95)
    logs = np.log([1.1, 1.3, 1.1])
    assert found.mean_ratio == pytest.approx(math.exp(logs.mean()))
    assert found.value == pytest.approx(math.exp(logs.mean() + 4.302653 * logs.std(ddof=1) * math.sqrt(4 / 3)))
    assert "3 sweep points" in found.origin
    assert margin_of_predicted(0.2, [(0.1, 0.05), (0.2, 0.1), (0.4, 0.2)], 0.95).value == 1.0
    assert margin_of_measured().value == 1.0
    with pytest.raises(ScantlingError, match="only 1 points"):
        margin_of_predicted(5.0, sweep_points, 0.95)


def test_prediction_margin_is_rarely_exceeded():
    """Of sweeps whose ratios are drawn from one distribution, the next ratio is below the bound as often as said."""
    generator = np.random.default_rng(0)
    below = 0
    for _ in range(1000):
        ratios = np.exp(generator.normal(0.3, 0.1, 6))
        below += ratios[5] <= margin_of_predicted(1.0, [(1.0, ratio) for ratio in ratios[:5]], 0.9).value
    assert 0.93 <= below / 1000 <= 0.97


def test_the_sweep_falls_and_its_loss_rises():
    profile = make_profile(num_blocks=4)
    sweep_points = sweep(profile, 9, silent)
    predicted = [profile.predict(formats)[0] for formats in sweep_points.values()]
    stored = [profile.stored_bytes(formats) for formats in sweep_points.values()]
    assert predicted == sorted(predicted)
    assert stored == sorted(stored, reverse=True)
    assert len({formats_sha256(formats) for formats in sweep_points.values()}) == len(sweep_points) >= 6
    assert next(iter(sweep_points)) == "8.00 bits"
    assert list(sweep_points)[-1] == "2.00 bits"
    assert bits_of_points(2.0, 8.0, 9) == pytest.approx([8 * 4 ** (-k / 8) for k in range(9)])


@pytest.mark.parametrize(
    ("profile", "num_points", "words"),
    [
        (make_profile(), 3, "4 or more"),
        (make_profile(formats=("int4-g32",)), 9, "the same bits"),
        (make_profile(), 1, "4 or more"),
    ],
)
def test_what_is_no_sweep(profile, num_points, words):
    with pytest.raises(ScantlingError, match=words):
        sweep(profile, num_points, silent)


def test_an_estimator_that_predicts_no_loss_has_no_sweep():
    profile = make_profile()
    ranks = replace(profile, record=profile.record.model_copy(update={"estimator": "output-error"}))
    with pytest.raises(ScantlingError, match="predicts no loss"):
        sweep(ranks, 9, silent)


# The command, on a tiny model and on text that this model wrote.


def failure(*words) -> BaseException:
    result = invoke(*words)
    assert result.exception is not None, result.output
    return result.exception


FEW = ["--length", 32, "--sequences", 24, "--points", 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("safety")
    model, text = save_model(folder / "model", "llama-tied"), save_sampled(folder / "text.txt")
    made = invoke(
        "profile", model, "--text", text, "-o", folder / "p", "--length", 32, "--sequences", 8,
        "--pricing-sequences", 24, "--formats", "int2-g32,int3-g32,int4-g32,int6-row,int8-row",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert invoke("solve", folder / "p", "--average-bits", 5, "-o", folder / "plan", "--no-cross-fit").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def found(folder):
    result = invoke("safety", folder / "plan", "--uniform", "int3-g32", "-o", folder / "safety", *FEW)
    assert result.exit_code == 0, result.output
    return read_safety(folder / "safety")


def test_on_text_that_the_model_wrote_yield_is_where_theory_puts_it(found):
    """There the loss is the KL divergence in expectation, so that a tenth more perplexity is log 1.1 nats."""
    (curve_found,) = found.curves
    assert curve_found.yield_point.reached
    assert curve_found.yield_point.kl_nats.lower < math.log(1.1) < curve_found.yield_point.kl_nats.upper
    assert curve_found.num_documents >= 6
    assert found.sweep[0].name == "8.00 bits"


def test_documents_add_up_to_the_whole(found):
    for plan in [*found.sweep, *(plan.plan for plan in found.plans)]:
        (domain,) = plan.domains
        assert sum(one.num_sequences for one in domain.by_document) == 24
        assert len(domain.by_document) == found.curves[0].num_documents
        for name, whole in (
            ("kl_nats", domain.kl_nats.estimate),
            ("top1_agreement", domain.top1_agreement.estimate),
            ("next_token_accuracy", domain.next_token_accuracy.estimate),
            ("flips", domain.flips.estimate),
            ("negative_log_likelihood_nats", math.log(domain.perplexity.estimate)),
        ):
            total = sum(one.num_sequences * getattr(one, name) for one in domain.by_document)
            assert total / 24 == pytest.approx(whole)


def test_factor_margin_and_verdict_follow_from_what_was_measured(found):
    (curve_found,) = found.curves
    for plan in found.plans:
        (domain,) = plan.domains
        kl = plan.plan.domains[0].kl_nats.estimate
        assert domain.at_yield.estimate == pytest.approx(curve_found.yield_point.kl_nats.estimate / kl)
        assert domain.at_ultimate.estimate == pytest.approx(curve_found.ultimate_point.kl_nats.estimate / kl)
        assert domain.at_yield.lower <= plan.factor <= domain.at_yield.upper
        assert plan.factor_lower == domain.at_yield.lower
        assert plan.margin == pytest.approx(plan.factor_lower / plan.required_factor - 1)
        assert plan.passes == (plan.margin >= 0)
        assert plan.prediction_margin.value == 1.0
    solved, uniform = found.plans
    assert solved.factor > uniform.factor
    assert solved.passes


def test_exit_status_and_json(folder, found):
    passes = invoke("safety", folder / "plan", "-o", folder / "again", *FEW)
    assert passes.exit_code == 0
    assert "PASS" in passes.output
    fails = invoke("safety", folder / "plan", "-o", folder / "again", "--require", 1000, *FEW, "--json")
    assert fails.exit_code == 3
    said = json.loads(fails.stdout)
    assert said["plans"][0]["passes"] is False
    assert said["plans"][0]["margin"] < 0
    assert said == json.loads((folder / "again").read_text())


def test_an_undecided_plan_says_how_much_text_would_decide(folder, found):
    """With so many documents the lower end would come to the required factor."""
    solved = found.plans[0]
    between = math.sqrt(solved.factor * solved.factor_lower)
    result = invoke("safety", folder / "plan", "-o", folder / "undecided", *FEW, "--require", between)
    assert result.exit_code == 3
    assert f"about {4 * found.curves[0].num_documents} documents" in " ".join(result.output.split())
    assert "documents would" not in invoke("safety", folder / "plan", "-o", folder / "undecided", *FEW).output


def test_what_was_measured_is_not_measured_again(folder, found, monkeypatch):
    monkeypatch.setattr(measured_module, "measure_candidates", None)
    monkeypatch.setattr(measured_module, "round_as_shipped", None)
    again = invoke("safety", folder / "plan", "--uniform", "int3-g32", "-o", folder / "again", *FEW)
    assert again.exit_code == 0, again.output
    assert (folder / "again").read_text() == (folder / "safety").read_text()
    other_text = invoke("safety", folder / "plan", "-o", folder / "again", *FEW, "--sequences", 20)
    assert other_text.exit_code == 1  # other sequences would have to be measured
    assert isinstance(other_text.exception, TypeError)


def test_a_sweep_that_is_killed_goes_on(folder, found, tmp_path):
    script = (
        "import os, sys\n"
        "from scantling.evaluation import cache\n"
        "measure, calls = cache.measure_candidates, []\n"
        "def measured_until_killed(*words):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return measure(*words)\n"
        "cache.measure_candidates = measured_until_killed\n"
        "from scantling.__main__ import app\n"
        "app(sys.argv[1:])\n"
    )
    words = [
        "safety",
        folder / "plan",
        "--uniform",
        "int3-g32",
        "-o",
        tmp_path / "s",
        *FEW,
        "--cache",
        tmp_path / "kept",
    ]
    words = [str(word) for word in words]
    killed = subprocess.run([sys.executable, "-c", script, *words], check=False, timeout=300, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert len(list((tmp_path / "kept").glob("*.json"))) == 1 + 5  # the original, and a group of five
    assert not (tmp_path / "s").exists()
    assert invoke(*words).exit_code == 0
    assert (tmp_path / "s").read_text() == (folder / "safety").read_text()


def test_a_damaged_measurement_is_refused(folder, found, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in (folder / "p.measured").glob("*.json"):
        (kept / path.name).write_text(path.read_text())
    victim = next(kept.glob("*.json"))
    victim.write_text("{")
    words = ["safety", folder / "plan", "--uniform", "int3-g32", "-o", tmp_path / "s", *FEW, "--cache", kept]
    with pytest.raises(ScantlingError, match="is damaged"):
        raise failure(*words)
    other = next(path for path in kept.glob("*.json") if path != victim)
    victim.write_text(other.read_text())
    with pytest.raises(ScantlingError, match="of something else"):
        raise failure(*words)


def test_measurements_of_version_0_1_are_found_again(folder, found, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    for path in (folder / "p.measured").glob("*.json"):
        stored = json.loads(path.read_text())
        stored["load_case"] = stored.pop("domain")
        (tmp_path / "cache" / path.name).write_text(json.dumps(stored))
    monkeypatch.setattr(measured_module, "measure_candidates", None)
    monkeypatch.setattr(measured_module, "round_as_shipped", None)
    words = ["safety", folder / "plan", "--uniform", "int3-g32", "-o", tmp_path / "s", *FEW]
    again = invoke(*words, "--cache", tmp_path / "cache")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "s").read_text() == (folder / "safety").read_text()


def test_a_safety_file_of_version_0_1_is_read(folder, found, tmp_path):
    old = {new: old for old, new in SafetyFile.renamed_keys.items() if old != "cases"}

    def with_old_keys(value) -> Any:
        if isinstance(value, dict):
            return {
                "cases" if key == "domains" else old.get(key, key): with_old_keys(inner) for key, inner in value.items()
            }
        return [with_old_keys(inner) for inner in value] if isinstance(value, list) else value

    stored: dict[str, Any] = {**with_old_keys(json.loads((folder / "safety").read_text())), "safety_version": 1}
    assert {"certainty", "ladder", "num_rungs"} <= stored.keys()
    assert {"load_case", "onset_rung"} <= stored["curves"][0].keys()
    assert {"gamma", "cases", "governing_case"} <= stored["plans"][0].keys()
    (tmp_path / "old").write_text(json.dumps(stored))
    assert read_safety(tmp_path / "old") == found


def test_a_sweep_without_yield_says_at_least(folder, found):
    result = invoke("safety", folder / "plan", "-o", folder / "far", *FEW, "--offset", "900%", "--ultimate", "100000%")
    words = " ".join(result.output.split())  # lines break where the folder's name makes them
    assert "factor of safety at least" in words
    assert "not reached by the sweep" in words
    far = read_safety(folder / "far")
    point = far.curves[0].yield_point
    assert not point.reached
    assert point.kl_nats.estimate == max(sweep_point.domains[0].kl_nats.estimate for sweep_point in far.sweep)
    assert far.plans[0].domains[0].at_least_at_yield


def test_a_predicted_plan_carries_a_larger_prediction_margin(folder, found):
    result = invoke("safety", folder / "plan", "-o", folder / "predicted", *FEW, "--predicted", "--require", 0.01)
    assert result.exit_code == 0, result.output
    (plan,) = read_safety(folder / "predicted").plans
    assert plan.prediction_margin.basis == "predicted"
    assert plan.prediction_margin.value > found.plans[0].prediction_margin.value
    assert plan.plan.domains == ()
    (domain,) = plan.domains
    borne = found.curves[0].yield_point.kl_nats
    assert domain.kl_nats == pytest.approx(plan.plan.predicted_kl_nats)
    assert plan.factor == pytest.approx(borne.estimate / (plan.prediction_margin.value * plan.plan.predicted_kl_nats))
    assert plan.factor_lower == pytest.approx(
        borne.lower / (plan.prediction_margin.value * plan.plan.predicted_kl_nats)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sequences", 5], r"from \d documents, .* which take 6"),
        (["--confidence", 0.9999, "--sequences", 12], "which take 15"),
        (["--sequences", 4000], "were asked for"),
        (["--offset", "0%"], "not in order"),
        (["--offset", "200%"], "not in order"),
        (["--offset", "2"], "not a percentage"),
        (["--require", 0], "above 0, got 0"),
        (["--require", -1], "above 0, got -1"),
        (["--require", "nan"], "got nan"),
        (["--require", "inf"], "finite number above 0, got inf"),
        (["--points", 2], "4 or more points .* got 2"),
        (["--uniform", "int5-g32"], "no uniform"),
        (["--inputs", "none"], "none"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(folder, found, words, message, monkeypatch, tmp_path):
    monkeypatch.setattr(measured_module, "measure_candidates", None)
    words = [*words, "--cache", tmp_path / "empty"]
    with pytest.raises(ScantlingError, match=message):
        raise failure("safety", folder / "plan", "-o", folder / "bad", *FEW, *words)
    assert not (folder / "bad").exists()


def test_a_plan_for_another_model_is_refused(folder, found, tmp_path):  # also where all is measured already
    other = save_model(tmp_path / "other", "llama-tied", seed=1)
    with pytest.raises(ScantlingError, match="with weights"):
        raise failure("safety", folder / "plan", "-o", tmp_path / "s", *FEW, "--model", other)


def test_evaluation_text_that_was_calibrated_on_is_refused(folder, tmp_path):
    renamed = tmp_path / "copy.txt"
    renamed.write_text((folder / "text.txt").read_text() + "\n\nw1 w2")
    with pytest.raises(ScantlingError, match="share text with calibration"):
        raise failure("safety", folder / "plan", "-o", tmp_path / "s", *FEW, "--sequences", 380, "--text", renamed)


# A factor as a limit of the program.


def test_a_factor_of_safety_is_confirmed_before_a_plan_is_returned(folder, found):
    result = invoke(
        "solve", folder / "p", "--safety-factor", 1.5, "--safety", folder / "safety", "--minimize", "memory", "-o",
        folder / "safe",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "CONFIRMED" in result.output
    plan = read_plan(folder / "safe")
    assert plan.safety is not None
    assert plan.safety.confirmed
    assert plan.safety.factor_lower >= 1.5
    assert any(limit.name == "factor of safety 1.5" for limit in plan.limits)
    assert invoke("verify", folder / "safe").exit_code == 0
    measured = invoke("safety", folder / "safe", "-o", folder / "measured", "--require", 1.5, *FEW)
    assert measured.exit_code == 0
    assert read_safety(folder / "measured").plans[0].factor_lower == pytest.approx(plan.safety.factor_lower)
    everything = read_profile(folder / "p")
    assert plan.stored_bytes < everything.stored_bytes(
        {layer.name: "int8-row" for layer in everything.record.layers if layer.is_decided}
        | {
            layer.name: everything.record.formats[layer.formats[0]]
            for layer in everything.record.layers
            if not layer.is_decided
        }
    )


def test_a_plan_that_measures_worse_is_tightened_until_it_holds(folder, found, monkeypatch):
    """Predictions are made to be three times too low: the first plans must fail, and the last must hold."""
    right = safe_solve.predicted_limit_nats
    monkeypatch.setattr(safe_solve, "predicted_limit_nats", lambda *words, **more: 3 * right(*words, **more))
    result = invoke(
        "solve", folder / "p", "--safety-factor", 1.5, "--safety", folder / "safety", "--minimize", "memory", "-o",
        folder / "tightened",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    plan = read_plan(folder / "tightened")
    assert plan.safety is not None
    assert plan.safety.num_solves > 1
    assert plan.safety.factor_lower >= 1.5


def test_a_prediction_is_never_called_confirmed(folder, found):
    words = ["solve", folder / "p", "--safety-factor", 1.5, "--minimize", "memory", "-o", folder / "predicted-plan"]
    result = invoke(*words, "--safety", folder / "safety", "--predicted-only")
    assert result.exit_code == 0, result.output
    assert "PREDICTED, not confirmed" in result.output
    plan = read_plan(folder / "predicted-plan")
    assert plan.safety is not None
    assert not plan.safety.confirmed
    assert plan.safety.factor_lower >= 1.5
    with pytest.raises(ScantlingError, match="takes what the model bears from a safety file"):
        raise failure(*words, "--predicted-only")


def test_a_factor_that_the_limits_do_not_leave_is_explained(folder, found):
    result = invoke(
        "solve", folder / "p", "--safety-factor", 1.5, "--safety", folder / "safety", "--average-bits", 2.5, "-o",
        folder / "none",
    )  # fmt: skip
    assert result.exit_code == 3
    assert "factor of safety 1.5" in result.output
    assert not (folder / "none").exists()


def test_the_constraint_file_asks_for_a_factor(folder, found, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("safety: {factor: 1.5}\nminimize: memory\n")
    result = invoke(
        "solve", folder / "p", "--constraints", file, "--safety", folder / "safety", "-o", tmp_path / "plan"
    )
    assert result.exit_code == 0, result.output
    plan = read_plan(tmp_path / "plan")
    assert plan.safety is not None
    assert plan.safety.confirmed
    use = next(limit for limit in plan.limits if limit.name == "factor of safety 1.5")
    assert use.origin == f"{file}:1:1"
    with pytest.raises(ScantlingError, match="two factors of safety"):
        raise failure("solve", folder / "p", "--constraints", file, "--safety-factor", 2, "-o", tmp_path / "plan")


def test_rules_show_the_factor(folder, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("limits: {average_bits: 4}\nsafety: {factor: 1.5}\n")
    assert "c.yaml:2:1 factor of safety ≥ 1.5" in invoke("rules", file, folder / "p").output
    said = json.loads(invoke("rules", file, folder / "p", "--json").stdout)
    assert [record["name"] for record in said][-1] == "safety"
    assert said[-1]["origin"] == f"{file}:2:1"


@pytest.mark.parametrize("text", ["safety: {factor: 0}", "safety: {factor: -1.5}", "safety: {}", "safety: 1.5"])
def test_a_factor_that_is_none_is_refused(folder, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text + "\n")
    with pytest.raises(ScantlingError, match=r"c\.yaml:1"):
        raise failure("solve", folder / "p", "--constraints", tmp_path / "c.yaml", "-o", tmp_path / "plan")


def test_where_nothing_is_measured_a_factor_is_refused(folder, found, tmp_path):
    with pytest.raises(ScantlingError, match="no limit of the program before it is measured"):
        raise failure("frontier", folder / "p", "--against", "memory", "--safety-factor", 1.5)
    with pytest.raises(ScantlingError, match="which was not given"):
        raise failure(
            "solve", folder / "p", "--average-bits", 4, "--safety", folder / "safety", "-o", tmp_path / "plan"
        )
    (folder / "p2").write_bytes((folder / "p").read_bytes())
    invoke("profile", folder / "model", "--text", folder / "text.txt", "-o", folder / "p2", "--length", 32, "--seed", 3,
        "--sequences", 8, "--pricing-sequences", 8, "--formats", "int2-g32,int8-row")  # fmt: skip
    with pytest.raises(ScantlingError, match="the safety file is of the profile"):
        raise failure(
            "solve", folder / "p2", "--safety-factor", 2, "--safety", folder / "safety", "-o", tmp_path / "plan"
        )
