"""The joint price of a plan against its definition and against the measured loss."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.command_line import run
from helpers.tiny_models import save_model
from scantling.common.progress import silent
from scantling.evaluation.quality import measure_candidates
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.sensitivity import joint
from scantling.sensitivity.joint import JointSamples, joint_samples
from scantling.sensitivity.profile import read_profile, uniform_formats
from scantling.sensitivity.round_model import round_assignments

FORMATS = "int2-g32,int3-g32,int4-g32,int6-g32,int8-g32,float16"


def profiled(folder, text_file, family, *more):
    """Profile a tiny model whose weights are numbers of 16 bits, so that layers kept in float16 cost nothing."""
    save_model(folder / "model", family)
    path = folder / "model" / "model.safetensors"
    save_file({name: tensor.half().float() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    words = ["profile", folder / "model", "-o", folder / "p.safetensors", "--text", text_file, "--formats", FORMATS]
    result = run(*words, "--sequences", "4", "--length", "64", *more)
    assert result.exit_code == 0, result.output
    return load_model(str(folder / "model")), read_profile(folder / "p.safetensors")


@pytest.mark.parametrize("family", ["llama-tied", "gpt2"])
def test_the_joint_price_of_a_single_layer_is_its_price(tmp_path, text_file, family):
    loaded, profile = profiled(tmp_path, text_file, family, "--pricing-sequences", "5")
    kept = uniform_formats(profile, "float16")
    assert profile.predict(kept)[0] == 0
    layers = [layer.name for layer in profile.record.layers if layer.block is not None]
    assignments = {name: {**kept, name: "int3-g32"} for name in layers}
    found = joint_samples(loaded, profile, assignments, silent)
    for name in layers:
        assert found[name].price() == pytest.approx(profile.predict(assignments[name])[0], rel=1e-6), name


def test_layers_are_summed_before_squaring():
    changes = np.array([[1.0, 2.0, -1.0], [3.0, -1.0, 1.0]])  # two layers, three tokens
    together = 0.5 * np.square(changes.sum(0)).sum() / 3
    apart = 0.5 * np.square(changes).sum() / 3
    samples = JointSamples(*(np.array([value, value]) for value in (together, apart, 1.2 * apart, 0.25)))
    assert samples.price() == pytest.approx(together * 1.2 + 0.25)
    assert samples.standard_error() == pytest.approx(0.0, abs=1e-12)


def test_the_pass_sums_layers_token_by_token(tmp_path, text_file):
    loaded, profile = profiled(tmp_path, text_file, "llama-tied", "--pricing-sequences", "3")
    kept = uniform_formats(profile, "float16")
    first, second = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj")
    assignments = {
        "first": {**kept, first: "int3-g32"},
        "second": {**kept, second: "int2-g32"},
        "both": {**kept, first: "int3-g32", second: "int2-g32"},
    }
    found = joint_samples(loaded, profile, assignments, silent)
    changes = {name: [] for name in (first, second)}
    for layer, _, _, of_formats in joint._changes(loaded, profile, {"both": assignments["both"]}, silent):
        if layer.name in changes:
            (of_layer,) = of_formats.values()
            changes[layer.name].append(of_layer)
    of_first, of_second = (torch.cat(parts, dim=1).reshape(2, 3, 64) for parts in changes.values())
    both = (0.5 * (of_first + of_second).square().mean(2)).mean(0).numpy()
    assert found["both"].together == pytest.approx(both, rel=1e-6)
    common = found["both"].together - found["first"].together - found["second"].together
    assert (np.abs(common) <= 2 * np.sqrt(found["first"].together * found["second"].together)).all()
    assert np.abs(common).max() > 1e-3 * found["both"].together.max()
    assert found["both"].by_window == pytest.approx(found["first"].by_window + found["second"].by_window)


def test_the_standard_error_is_the_jackknife():
    values = np.random.default_rng(0).uniform(1, 2, (4, 9))
    samples = JointSamples(*values)
    means = [values[:, np.arange(9) != out].mean(1) for out in range(9)]
    prices = np.array([j * w / k + a for j, k, w, a in means])
    error = np.sqrt(8 / 9 * np.square(prices - prices.mean()).sum())
    assert samples.standard_error() == pytest.approx(error)
    assert JointSamples(*values[:, :1]).standard_error() is None


def test_the_correlation_of_layers_is_priced(tmp_path, text_file):
    """Measured on the pricing sequences, with many draws of labels: what is left is the error of the expansion."""
    more = ["--pricing-sequences", "8", "--label-draws", "16"]
    loaded, profile = profiled(tmp_path, text_file, "llama-tied", *more)
    formats = {width: uniform_formats(profile, f"int{width}-g32") for width in ("6", "8")}
    found = joint_samples(loaded, profile, formats, silent)
    rounded = round_assignments(loaded, profile, formats, silent)
    measured = measure_candidates(loaded.model, rounded, torch.from_numpy(profile.pricing_token_ids), silent)
    for width, of in found.items():
        assert of.price() == pytest.approx(measured[width].mean_kl_nats, rel=0.15), width


def test_solve_gives_the_joint_price_on_request(tmp_path, text_file):
    loaded, profile = profiled(tmp_path, text_file, "llama-tied", "--pricing-sequences", "5")
    words = ["solve", tmp_path / "p.safetensors", "--average-bits", 3.5, "-o", tmp_path / "plan.json"]
    assert run(*words, "--no-cross-fit").exit_code == 0
    assert read_plan(tmp_path / "plan.json").joint is None
    result = run(*words, "--no-cross-fit", "--joint")
    assert "Priced as a whole" in result.output
    plan = read_plan(tmp_path / "plan.json")
    samples = joint_samples(loaded, profile, {"plan": plan.formats()}, silent)["plan"]
    assert plan.joint is not None
    assert plan.joint.loss_increase_nats == pytest.approx(samples.price())
    assert plan.joint.loss_increase_standard_error_nats == pytest.approx(samples.standard_error())
    written = json.loads(run(*words, "--no-cross-fit", "--joint", "--json").stdout)
    assert written["joint"]["loss_increase_nats"] == pytest.approx(samples.price())
    assert run("verify", tmp_path / "plan.json").exit_code == 0
    assert run("apply", tmp_path / "plan.json", "--backend", "fake", "-o", tmp_path / "out").exit_code == 0
    assert f"taken together: {samples.price():.4g}" in (tmp_path / "out" / "README.md").read_text()
