"""The commands as a user types them, on tiny models in folders; and what a clumsy user does to them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.command_line import SMALL, refused, run
from helpers.tiny_models import prose, save_model
from scantling.__main__ import main
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.evaluation.quality import measure_candidates
from scantling.models.install import installed
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.sensitivity.estimators.registry import ESTIMATORS
from scantling.sensitivity.profile import read_profile, write_or_rescue_profile, write_profile
from scantling.sensitivity.round_model import round_assignments

FORMATS = "int2-g32,int3-g32,int4-g32,int8-row,float16"


def profiled(folder: Path, model: Path, text: Path, *more) -> Path:
    path = folder / "profile.safetensors"
    result = run("profile", model, "-o", path, "--text", text, "--formats", FORMATS, *SMALL, *more)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def profile_path(tmp_path_factory, llama_folder, text_file) -> Path:
    return profiled(tmp_path_factory.mktemp("profile"), llama_folder, text_file)


def test_the_whole_path_on_every_architecture(tmp_path, family, text_file):
    model = save_model(tmp_path / "model", family)
    profile = profiled(tmp_path, model, text_file, "--include", "embedding")
    plan_path = tmp_path / "plan.json"
    assert run("solve", profile, "--average-bits", "3.5", "-o", plan_path).exit_code == 0
    plan = read_plan(plan_path)
    assert plan.certificate.status == "OPTIMAL"
    assert plan.average_bits <= 3.5
    assert len({a.format for a in plan.assignments if a.decided}) > 1

    result = run("compare", plan_path, "--uniform", "3", "--uniform", "int8-row", *SMALL[:2], *SMALL[4:], "--json")
    rows = {row["name"]: row for row in json.loads(result.output)["entries"]}
    assert list(rows) == ["plan", "uniform int3-g32", "uniform int8-row", "original"]
    assert rows["plan"]["stored_bytes"] == plan.stored_bytes
    assert rows["uniform int8-row"]["measured_kl_nats"] < rows["uniform int3-g32"]["measured_kl_nats"]
    assert rows["original"]["measured_kl_nats"] == 0

    checkpoint = tmp_path / "checkpoint"
    words = ["apply", plan_path, "--backend", "fake", "--inputs", "original", "-o", checkpoint]
    assert run(*words).exit_code == 0
    loaded = load_model(str(model))
    rounded = round_assignments(loaded, read_profile(profile), {"plan": plan.formats()}, silent)["plan"]
    reloaded = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokens = torch.arange(2, 34).unsqueeze(0)
    with torch.no_grad():
        original = loaded.model(tokens).logits
        with installed(loaded.model, rounded):
            in_memory = loaded.model(tokens).logits
        assert torch.equal(reloaded(tokens).logits, in_memory)
        assert torch.equal(loaded.model(tokens).logits, original)
    assert (in_memory - original).abs().max() > 1e-3
    assert AutoTokenizer.from_pretrained(checkpoint)("w1 w2").input_ids == [0, 3, 4]
    assert json.loads((checkpoint / "scantling_plan.json").read_text()) == json.loads(plan_path.read_text())


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
@pytest.mark.parametrize("rounding", ["gptq", "rtn", "awq", "awq+gptq"])
def test_every_estimator_and_rounding_gives_a_profile_that_can_be_solved(
    tmp_path, llama_folder, text_file, estimator, rounding
):
    path = profiled(tmp_path, llama_folder, text_file, "--estimator", estimator, "--rounding", rounding)
    profile = read_profile(path)
    assert profile.record.estimator == estimator
    assert profile.record.rounding["method"] == rounding
    assert run("solve", path, "--average-bits", "4", "-o", tmp_path / "plan.json").exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan.json", "profile.safetensors"]


def test_a_single_sequence_has_no_standard_error(tmp_path, llama_folder, text_file):
    profile = profiled(tmp_path, llama_folder, text_file, "--pricing-sequences", "1")
    plan = tmp_path / "plan.json"
    assert "±" not in run("solve", profile, "--average-bits", "3", "-o", plan).output
    assert read_plan(plan).loss_increase_standard_error_nats is None
    words = ["compare", plan, "--uniform", "3", "--sequences", "1", "--length", "32"]
    assert "KL divergence from the original" in run(*words).output
    row = json.loads(run(*words, "--json").output)["entries"][0]
    assert row["predicted_kl_standard_error_nats"] is None
    assert row["measured_kl_standard_error_nats"] is None


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path, llama_folder, text_file):
    paths = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        paths.append(profiled(tmp_path / name, llama_folder, text_file, "--seed", seed).read_bytes())
    assert paths[0] == paths[1] != paths[2]


def test_a_budget_is_spent_to_the_byte_and_never_exceeded(tmp_path, profile_path):
    profile = read_profile(profile_path)
    smallest = sum(min(layer.stored_bytes) for layer in profile.record.layers) + profile.record.other_bytes
    losses = []
    for extra in (0, 1, 500, 2000, 8000):
        budget = smallest + extra
        assert run("solve", profile_path, "--memory", f"{budget} B", "-o", tmp_path / "p.json").exit_code == 0
        plan = read_plan(tmp_path / "p.json")
        assert plan.stored_bytes <= budget
        assert plan.stored_bytes == sum(a.stored_bytes for a in plan.assignments) + plan.other_bytes
        assert plan.limits[0].used == plan.stored_bytes
        losses.append(plan.loss_increase_nats)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_both_limits_hold_together(tmp_path, profile_path):
    alone = run("solve", profile_path, "--average-bits", "4", "-o", tmp_path / "a.json", "--json")
    both = run("solve", profile_path, "--average-bits", "4", "--memory", "20 KiB", "-o", tmp_path / "b.json", "--json")
    first, second = json.loads(alone.output), json.loads(both.output)
    assert first["stored_bytes"] > 20 * 1024 >= second["stored_bytes"]
    assert second["loss_increase_nats"] >= first["loss_increase_nats"]


def test_both_engines_find_the_same_plan(tmp_path, profile_path):
    plans = []
    for engine in ("cpsat", "highs"):
        run("solve", profile_path, "--average-bits", "3.3", "--solver", engine, "-o", tmp_path / engine)
        plans.append(read_plan(tmp_path / engine))
    assert plans[0].formats() == plans[1].formats()
    assert plans[0].certificate.solver != plans[1].certificate.solver
    refused("Known: cpsat, highs", "solve", profile_path, "--average-bits", "3", "--solver", "x", "-o", tmp_path / "p")


def test_solving_needs_no_torch(tmp_path, profile_path):
    words = ["scantling", "solve", str(profile_path), "--average-bits", "3", "-o", str(tmp_path / "p")]
    code = (
        "import sys\nfrom scantling.__main__ import main\n"
        f"sys.argv = {words!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "optimal: no plan within the limits" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--memory", "1 TiB"], r"above the largest plan.* Plans of this profile have 15.38 KiB .* to 60.19 KiB"),
        (["--average-bits", "17"], "above the largest plan"),
        (["--average-bits", "nan"], "nan' is not a number of bits"),
        (["--memory", "60"], "has no unit"),
        (["--memory", "60 W"], "'W' in '60 W' is not a unit of bytes"),
        ([], "no budget was given"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(tmp_path, profile_path, words, match):
    refused(match, "solve", profile_path, "-o", tmp_path / "plan.json", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--memory", "1 KiB"], r"memory: at most 15.38 KiB \(15,744 bytes\) \(the least change, proven\)"),
        (
            ["--average-bits", "1.9"],
            r"average_bits: at most 2 bits per weight .*; plans have 2 .* to 16 bits per weight",
        ),
    ],
)
def test_where_there_is_no_plan_the_least_change_is_said(tmp_path, profile_path, words, needed):
    failed = run("solve", profile_path, "-o", tmp_path / "p", *words)
    assert failed.exit_code == 3
    assert re.search(needed, failed.output)
    told = run("solve", profile_path, "-o", tmp_path / "p", *words, "--json")
    assert json.loads(told.output)["conflict"][0]["needed_is_proven"]
    assert list(tmp_path.iterdir()) == []


def test_a_time_limit_of_nothing_gives_the_best_plan_so_far_with_its_gap(tmp_path, profile_path):
    run("solve", profile_path, "--average-bits", "3.3", "--time-limit", "0", "-o", tmp_path / "p")
    plan = read_plan(tmp_path / "p")
    assert plan.certificate.objectives[0].gap >= 0
    assert run("verify", tmp_path / "p").exit_code == 0


def test_a_folder_without_weights_is_refused(tmp_path, llama_folder, text_file):
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    (folder / "model.safetensors").unlink()
    output = tmp_path / "p.safetensors"
    refused("has no weights", "profile", folder, "-o", output, "--text", text_file)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    refused("a pickle, which is not loaded", "profile", folder, "-o", output, "--text", text_file)
    refused("no config.json", "profile", tmp_path, "-o", output, "--text", text_file)
    refused("no such file or folder", "profile", tmp_path / "none", "-o", output, "--text", text_file)
    refused("not a .gguf file", "profile", text_file, "-o", output, "--text", text_file)
    assert not output.exists()


def test_damaged_weights_are_refused(tmp_path, llama_folder, text_file):
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    output = tmp_path / "p.safetensors"
    refused(r"layers\.1\.mlp\.up_proj\.weight holds 1 values", "profile", folder, "-o", output, "--text", text_file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    refused("lacks 1 parameters", "profile", folder, "-o", output, "--text", text_file)
    weights.write_bytes(weights.read_bytes()[:5000])
    refused("cannot load the model", "profile", folder, "-o", output, "--text", text_file)
    assert not output.exists()


def test_a_quantized_checkpoint_is_refused(tmp_path, llama_folder, text_file):
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    refused("is quantized already", "profile", folder, "-o", tmp_path / "p", "--text", text_file)


def test_a_truncated_gguf_is_refused(tmp_path, text_file):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    refused("cannot load", "profile", tmp_path / "model.gguf", "-o", tmp_path / "p", "--text", text_file)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--text", "{empty}"], "is empty"),
        (["--text", "{short}"], "enough for 0 sequences"),
        (["--formats", "int4-g128,int8-row"], r"int4-g128 cannot be used for .*Sizes that do: g32, row"),
        (["--formats", "int7-g32"], "not offered"),
        (["--formats", "int4-g32"], "leaves nothing to decide"),
        (["--estimator", "guess"], "Known: fisher"),
        (["--rounding", "guess"], r"Known: awq, awq\+gptq, ggml, ggml\+gptq, gptq, rtn"),
        (["--length", "65"], "exceed the model's context of 64"),
        (["--include", "head"], "tied to the embedding"),
        (["--sequences", "0"], "at least one sequence"),
        (["-o", "{missing}/p"], "does not exist"),
    ],
)
def test_a_request_that_cannot_be_profiled_is_refused(tmp_path, llama_folder, text_file, words, match):
    names = {"empty": tmp_path / "empty.txt", "short": tmp_path / "short.txt", "missing": tmp_path / "missing"}
    names["empty"].write_text("")
    names["short"].write_text(prose(40))
    before = sorted(tmp_path.iterdir())
    words = [word.format(**names) for word in words]
    text = [] if "--text" in words else ["--text", text_file]
    defaults = ["-o", tmp_path / "p", *text, "--formats", FORMATS, *SMALL]
    refused(match, "profile", llama_folder, *defaults, *words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_profile_of_another_model_is_refused(tmp_path, profile_path):
    plan = tmp_path / "plan.json"
    run("solve", profile_path, "--average-bits", "3", "-o", plan)
    for seed, family, match in ((1, "llama-tied", "with weights"), (0, "gpt2", "layers are not those")):
        other = save_model(tmp_path / f"{family}-{seed}", family, seed)
        refused(match, "compare", plan, "--model", other, "--sequences", "3", "--length", "32")
        refused(match, "apply", plan, "--backend", "fake", "--model", other, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_profile_that_moved_changed_or_broke_is_refused(tmp_path, profile_path):
    moved, plan = tmp_path / "p.safetensors", tmp_path / "plan.json"
    shutil.copy(profile_path, moved)
    run("solve", moved, "--average-bits", "3", "-o", plan)
    moved.write_bytes(moved.read_bytes()[:-8])
    refused("damaged", "solve", moved, "--average-bits", "3", "-o", tmp_path / "q")
    moved.write_bytes(b"not a profile")
    refused("damaged", "solve", moved, "--average-bits", "3", "-o", tmp_path / "q")
    save_file({"a": torch.zeros(1)}, moved)
    refused("not a profile", "solve", moved, "--average-bits", "3", "-o", tmp_path / "q")
    profile = read_profile(profile_path)
    profile.measured_samples[0, 0, 0] = float("inf")
    write_profile(profile, moved)
    refused("not finite", "solve", moved, "--average-bits", "3", "-o", tmp_path / "q")
    moved.unlink()
    refused("Say where it is with --profile", "compare", plan)
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(plan, beside / plan.name)
    shutil.copy(profile_path, beside / moved.name)
    words = ["--sequences", "3", "--length", "32", "--json"]
    assert "measured_kl_nats" in run("compare", beside / plan.name, *words).output
    run("solve", profile_path, "--average-bits", "4", "-o", tmp_path / "other.json")
    refused("there is no profile", "solve", moved, "--average-bits", "3", "-o", tmp_path / "q")


def test_a_finished_profile_is_kept_when_its_place_is_gone(tmp_path, profile_path):
    profile = read_profile(profile_path)
    with pytest.raises(ScantlingError, match=r"The finished profile was kept as \S+\.$") as refusal:
        write_or_rescue_profile(profile, tmp_path / "gone" / "p.safetensors")
    rescued = Path(str(refusal.value).split()[-1].rstrip("."))
    assert rescued.read_bytes() == profile_path.read_bytes()
    shutil.rmtree(rescued.parent)


def test_a_plan_solved_from_another_profile_is_refused(tmp_path, profile_path, llama_folder, text_file):
    other = profiled(tmp_path, llama_folder, text_file, "--seed", "5")
    plan, other_plan = tmp_path / "plan.json", tmp_path / "other.json"
    run("solve", profile_path, "--average-bits", "3", "-o", plan)
    run("solve", other, "--average-bits", "3", "-o", other_plan)
    refused("another profile", "compare", plan, "--profile", other)
    refused("another profile", "compare", plan, "--plan", other_plan)


def test_several_plans_are_compared_at_once(tmp_path, profile_path):
    plans = [tmp_path / f"{bits}.json" for bits in (3, 6)]
    for bits, plan in zip((3, 6), plans, strict=True):
        run("solve", profile_path, "--average-bits", bits, "-o", plan)
    words = ["compare", plans[0], "--plan", plans[1], "--sequences", "3", "--length", "32", "--json"]
    low, high, original = json.loads(run(*words).output)["entries"]
    assert (low["name"], high["name"], original["name"]) == ("plan", str(plans[1]), "original")
    assert low["measured_kl_nats"] > high["measured_kl_nats"] > 0


def test_a_comparison_that_makes_no_sense_is_refused(tmp_path, profile_path, text_file):
    plan = tmp_path / "plan.json"
    run("solve", profile_path, "--average-bits", "3", "-o", plan)
    refused("no uniform '5'", "compare", plan, "--uniform", "5")
    refused("exceed", "compare", plan, "--length", "65")
    calibrated = tmp_path / "again.txt"
    calibrated.write_text(text_file.read_text() + "\n\nmore")
    (tmp_path / "deep").mkdir()
    long_profile = tmp_path / "deep" / "profile.safetensors"
    model = read_profile(profile_path).record.model_source
    words = ["--sequences", "15", "--pricing-sequences", "15", "--length", "64"]
    run("profile", model, "-o", long_profile, "--text", text_file, "--formats", FORMATS, *words)
    run("solve", long_profile, "--average-bits", "3", "-o", plan)
    refused("runs of 32 tokens", "compare", plan, "--text", calibrated, "--sequences", "20", "--length", "64")


def test_an_output_that_stands_there_already_is_never_touched(tmp_path, profile_path):
    plan = tmp_path / "plan.json"
    run("solve", profile_path, "--average-bits", "3", "-o", plan)
    folder = tmp_path / "folder"
    folder.mkdir()
    refused("exists already", "apply", plan, "--backend", "fake", "-o", folder)
    refused("it is a folder", "solve", profile_path, "--average-bits", "3", "-o", folder)
    refused("not a backend", "apply", plan, "--backend", "mlx", "-o", tmp_path / "x")
    assert list(folder.iterdir()) == []


def test_errors_are_one_message_and_a_status(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["scantling", "solve", str(tmp_path / "[bold]none"), "--memory", "1MiB", "-o", "x"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: there is no profile")
    assert "[bold]none" in captured.err


def test_measuring_leaves_the_model_as_it_was(llama_folder, profile_path):
    loaded = load_model(str(llama_folder))
    before = {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}
    profile = read_profile(profile_path)
    formats = {layer.name: profile.record.formats[layer.formats[0]] for layer in profile.record.layers}
    rounded = round_assignments(loaded, profile, {"low": formats}, silent)
    tokens = torch.randint(2, 90, (3, 32))
    one, three = (measure_candidates(loaded.model, rounded, tokens, silent, at_once) for at_once in (1, 3))
    assert one == three
    assert one["low"].mean_kl_nats > 0.01
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_the_measured_divergence_is_its_definition(llama_folder, profile_path):
    loaded = load_model(str(llama_folder))
    profile = read_profile(profile_path)
    formats = {layer.name: profile.record.formats[layer.formats[0]] for layer in profile.record.layers}
    rounded = round_assignments(loaded, profile, {"low": formats}, silent)
    tokens = torch.randint(2, 90, (1, 32))
    quality = measure_candidates(loaded.model, rounded, tokens, silent)["low"]
    with torch.no_grad():
        p = loaded.model(tokens).logits[0].double().softmax(-1)
        with installed(loaded.model, rounded["low"]):
            q = loaded.model(tokens).logits[0].double().softmax(-1)
    assert quality.mean_kl_nats == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    likelihood = q[:-1].gather(1, tokens[0, 1:, None]).log()
    assert quality.perplexity == pytest.approx(float((-likelihood.mean()).exp()), rel=1e-4)
    right_before, right_after = (said.argmax(1)[:-1] == tokens[0, 1:] for said in (p, q))
    assert quality.top1_agreement == (float((p.argmax(1) == q.argmax(1)).double().mean()),)
    assert quality.next_token_accuracy == (float(right_after.double().mean()),)
    assert quality.flips == (float((right_before != right_after).double().mean()),)
    assert 0 < quality.top1_agreement[0] < 1


def test_the_original_agrees_with_itself(llama_folder):
    loaded = load_model(str(llama_folder))
    tokens = torch.randint(2, 90, (3, 32))
    original = measure_candidates(loaded.model, {}, tokens, silent)["original"]
    assert original.kl_nats == original.flips == (0.0,) * 3
    assert original.top1_agreement == (1.0,) * 3
