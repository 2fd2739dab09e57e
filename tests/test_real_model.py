"""The demo as a newcomer runs it, on the real model, and what can be done with its files. Minutes, not seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from scantling.common.progress import silent
from scantling.models.demo_model import demo_model_path
from scantling.models.install import installed
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.reporting.terminal.verdicts import render_size
from scantling.sensitivity.profile import read_profile, uniform_formats
from scantling.sensitivity.round_model import round_assignments

pytestmark = pytest.mark.slow


def run(*words: object) -> tuple[str, float]:
    """Run a command in a process of its own; give what it printed and its peak memory in GiB."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "scantling", *map(str, words)]
    child = os.posix_spawn(sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
    os.close(write)
    with open(read, encoding="utf-8") as pipe:  # noqa: PTH123  a descriptor
        output = pipe.read()
    _, status, usage = os.wait4(child, 0)
    assert status == 0, output
    return output, usage.ru_maxrss / 2**20


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    folder = tmp_path_factory.mktemp("demo")
    output, peak_gib = run("demo", "-o", folder)
    return folder, output, peak_gib


def test_the_demo_shows_what_it_promises(demo):
    folder, output, peak_gib = demo
    assert peak_gib < 4
    assert "optimal: no plan within the limits and rules is better" in " ".join(output.split())
    assert "self_attn.q_proj" in output
    assert "Next: scantling apply" in output
    assert max(len(line.replace(str(folder), "")) for line in output.splitlines()) <= 80
    plan, profile = read_plan(folder / "plan.json"), read_profile(folder / "profile.safetensors")
    assert render_size(plan.stored_bytes) in output
    uniform = uniform_formats(profile, "int3-g64")
    assert plan.stored_bytes <= profile.stored_bytes(uniform)
    assert plan.certificate.status == "OPTIMAL"
    (proof,) = plan.certificate.objectives
    assert proof.gap <= 4 * proof.resolution
    assert plan.loss_increase_nats < 0.9 * profile.predict(uniform)[0]


def test_a_plan_is_better_than_uniform_and_its_prediction_holds(demo, tmp_path):
    folder, _, _ = demo
    plan = tmp_path / "plan.json"
    run("solve", folder / "profile.safetensors", "--average-bits", "3", "-o", plan)
    raw = json.loads(run("compare", plan, "--uniform", "3", "--uniform", "8", "--json")[0])
    rows = {row["name"]: row for row in raw["entries"]}
    assert rows["plan"]["measured_kl_nats"] < 0.85 * rows["uniform int3-g64"]["measured_kl_nats"]
    assert rows["plan"]["measured_perplexity"] < rows["uniform int3-g64"]["measured_perplexity"]
    for name in ("plan", "uniform int3-g64", "uniform int8-g64"):
        assert 0.8 < rows[name]["predicted_kl_nats"] / rows[name]["measured_kl_nats"] < 1.25


def test_the_checkpoint_gives_the_logits_of_the_plan_in_memory(demo, tmp_path):
    folder, _, _ = demo
    run("apply", folder / "plan.json", "--backend", "fake", "--inputs", "original", "-o", tmp_path / "checkpoint")
    loaded = load_model(str(demo_model_path()))
    profile, plan = read_profile(folder / "profile.safetensors"), read_plan(folder / "plan.json")
    rounded = round_assignments(loaded, profile, {"plan": plan.formats()}, silent)["plan"]
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint").eval()
    tokens = loaded.tokenizer("The ship's frames were sized to the", return_tensors="pt").input_ids
    with torch.no_grad(), installed(loaded.model, rounded):
        assert torch.equal(reloaded(tokens).logits, loaded.model(tokens).logits)
    done = subprocess.run(
        [sys.executable, "-m", "scantling", "profile", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "p"),
         "--sequences", "1", "--pricing-sequences", "1", "--length", "64", "--formats", "int4-g64,int8-g64"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
