"""Mixtures of experts on the whole path: what a profile counts, what a plan may do with experts, what is written."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.command_line import run
from helpers.engines import python_with
from helpers.routing import routed
from helpers.tiny_models import make_model, make_tokenizer, prose, save_model
from helpers.tiny_profiles import feasible, layer, profile_of
from scantling.backends.check import check_checkpoint
from scantling.backends.resumable_writer import ResumableWriter
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.models.experts import Expert
from scantling.models.layers import find_layers, matrix_of
from scantling.models.loading import load_model
from scantling.planning.diagnose import rare_experts
from scantling.planning.plan import read_plan
from scantling.planning.program import Program
from scantling.quantization.awq import AwqSettings
from scantling.quantization.formats import parse_format
from scantling.sensitivity import measure as measuring
from scantling.sensitivity.calibration.backward_pass import blocks_backward
from scantling.sensitivity.calibration.block_inputs import input_covariances, inputs_of
from scantling.sensitivity.calibration.capture import capture, enter_blocks
from scantling.sensitivity.calibration.expert_coverage import FEWEST_TOKENS
from scantling.sensitivity.input_scaling import scale_inputs
from scantling.sensitivity.profile import read_profile
from scantling.sensitivity.sequential_rounding import round_as_shipped

FAMILIES = ["mixtral", "qwen3-moe"]
SMALL = ["--sequences", "2", "--pricing-sequences", "8", "--length", "32", "--formats", "int2-row,int4-row,int8-row"]
NEVER = "model.layers.0.mlp.experts.3"


def save_with_an_expert_that_is_never_chosen(folder):
    """Its score is 0, and of the others, in pairs of opposite scores, three at least have more."""
    model = make_model("qwen3-moe")
    scores = model.model.layers[0].mlp.gate.weight.data
    scores[[4, 5, 6]] = -scores[[0, 1, 2]]
    scores[3] = 0.0
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """For each model a folder with it, its text, its profile and a plan."""
    folders = {}
    for name in [*FAMILIES, "never"]:
        folder = tmp_path_factory.mktemp(name)
        (folder / "prose.txt").write_text(prose(4000), encoding="utf-8")
        if name == "never":
            save_with_an_expert_that_is_never_chosen(folder / "model")
        else:
            save_model(folder / "model", name)
        said = run("profile", folder / "model", "--text", folder / "prose.txt", *SMALL, "-o", folder / "p")
        (folder / "said").write_text(said.output, encoding="utf-8")
        run("solve", folder / "p", "--average-bits", "3.5", "-o", folder / "plan.json")
        folders[name] = folder
    return folders


@pytest.fixture(params=FAMILIES)
def folder(request, made):
    return made[request.param]


def counted(folder, profile):
    """How often the routers chose each expert: rounding and pricing tokens, by expert's path."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    ids = [torch.from_numpy(tokens) for tokens in (profile.rounding_token_ids, profile.pricing_token_ids)]
    chosen = [routed(model, tokens) for tokens in ids]
    return {
        f"model.layers.{block}.mlp.experts.{expert}": tuple(int((c[block] == expert).sum()) for c in chosen)
        for block in chosen[0]
        for expert in range(model.model.layers[0].mlp.gate.num_experts)
    }


def test_routing_is_counted_as_the_routers_choose(folder):
    profile = read_profile(folder / "p")
    counts = counted(folder, profile)
    total = profile.rounding_token_ids.size + profile.pricing_token_ids.size
    shares = {}
    for record in profile.record.layers:
        expert = record.name.rpartition(".")[0]
        if expert in counts:
            assert (record.num_rounding_tokens, record.num_pricing_tokens) == counts[expert]
            assert record.read_share == sum(counts[expert]) / total
            shares[expert] = record.read_share
        else:
            assert record.coverage is record.read_share is None
    assert set(shares) == set(counts)
    assert sum(shares.values()) == pytest.approx(2 * 2)  # two of them for every token, in two blocks
    rows = Program(profile).rows
    position = profile.layer_index[f"{max(shares, key=shares.__getitem__)}.up_proj"]
    read, stored = rows.row("read_bytes_per_token").amounts[position], rows.row("stored_bytes").amounts[position]
    assert read == tuple(int(np.ceil(max(shares.values()) * stored_bytes)) for stored_bytes in stored)


def test_an_expert_that_calibration_never_reached_is_named_and_priced_as_its_dearest_sibling(made):
    folder = made["never"]
    profile = read_profile(folder / "p")
    position = profile.layer_index[f"{NEVER}.up_proj"]
    assert profile.record.layers[position].num_pricing_tokens == 0
    assert not np.nan_to_num(profile.measured_samples[position]).any()
    rare = rare_experts(profile)
    assert rare[NEVER] == 0
    assert rare == {e: n for e, (_, n) in counted(folder, profile).items() if n < FEWEST_TOKENS}
    said = [(folder / "said").read_text(encoding="utf-8")]
    siblings = [
        index
        for index, record in enumerate(profile.record.layers)
        if record.block == 0 and record.kind.endswith("up_proj") and record.name.rpartition(".")[0] not in rare
    ]
    for target in profile.record.layers[position].formats:
        dearest = max(siblings, key=lambda index: profile.measured_samples[index, target].mean())
        assert np.array_equal(profile.prices[position, target], profile.measured_samples[dearest, target])
    for bits in ("2.3", "3.5", "5"):
        said.append(run("solve", folder / "p", "--average-bits", bits, "-o", folder / "at.json").output)
        width = {assigned.layer: assigned.bits for assigned in read_plan(folder / "at.json").assignments}
        measured = [width[profile.record.layers[index].name] for index in siblings]
        assert width[f"{NEVER}.up_proj"] >= sum(measured) / len(measured)
    run("verify", folder / "at.json")
    for words in said:
        assert f"{len(rare)} of 16 experts were reached by fewer than {FEWEST_TOKENS}" in " ".join(words.split())
        assert f"{NEVER} (0)" in words


def made_profile(coverage):
    """Two blocks of three experts with these numbers of pricing tokens."""
    formats = ["int2-g32", "int4-g32", "int8-row"]
    layers = []
    for block, tokens_of in enumerate(coverage):
        for number, tokens in enumerate(tokens_of):
            kind = f"mlp.experts.{number}.up"
            seen = {"num_rounding_tokens": tokens, "num_pricing_tokens": tokens}
            layers.append(layer(f"m.{block}.{kind}", kind, block, (64, 64), formats, read_share=0.5, **seen))
    return profile_of(layers)


def test_prices_are_imputed_within_siblings_and_only_where_they_are_not_known():
    profile = made_profile([(100, 5, 32), (0, 31, 7)])
    first, rare, third, *unknown = profile.prices
    assert np.array_equal(first, profile.measured_samples[0], equal_nan=True)
    assert np.array_equal(third, profile.measured_samples[2], equal_nan=True)
    for target in range(3):
        dearest = max((0, 2), key=lambda index: profile.measured_samples[index, target].mean())
        assert np.array_equal(rare[target], profile.measured_samples[dearest, target])
    assert np.isnan(rare[3]).all()
    assert np.array_equal(unknown, profile.measured_samples[3:], equal_nan=True)
    instance = Program(profile).limit("average_bits", at_most=8).instance()
    names = [unit.formats for unit in instance.units]
    allowed = {tuple(names[u][choice[u]] for u in range(3, 6)) for choice in feasible(instance)}
    assert allowed == {("int8-row",) * 3}  # no sibling to borrow from
    assert len(feasible(instance)) == 3**3
    assert instance.domains[0].loss_increase_nats[1] == pytest.approx(rare[:3].mean(axis=1))


def test_layers_without_counts_bring_no_rule():
    profile = made_profile([(0, 0, 0), (0, 0, 0)])
    layers = tuple(
        record.model_copy(update={"num_rounding_tokens": None, "num_pricing_tokens": None})
        for record in profile.record.layers
    )
    old = replace(profile, record=profile.record.model_copy(update={"layers": layers}))
    assert not Program(old).lowered
    assert old.prices is old.measured_samples
    assert len(Program(profile).lowered) == 1


class KilledError(BaseException):
    """Stands for a signal that cannot be caught."""


def test_an_interrupted_profile_goes_on_and_ends_byte_identical(tmp_path, monkeypatch, made):
    folder = made["never"]
    words = ["profile", folder / "model", "--text", folder / "prose.txt", *SMALL, "-o", tmp_path / "p"]
    keep = measuring._keep

    def keep_and_die(parts, index, piece, pricing):
        keep(parts, index, piece, pricing)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "_keep", keep_and_die)
        with pytest.raises(KilledError):
            run(*words)
    run(*words)
    assert (tmp_path / "p").read_bytes() == (folder / "p").read_bytes()


@pytest.mark.parametrize("formats", ["int2-row,int4-row,int8-row", "int2-row,int4-row,int8-row,int3-row"])
def test_an_extended_profile_counts_all_its_sequences(tmp_path, folder, formats):
    (tmp_path / "p").write_bytes((folder / "p").read_bytes())
    small = ["--sequences", "2", "--pricing-sequences", "12", "--length", "32", "--formats", formats]
    run("profile", folder / "model", "--text", folder / "prose.txt", *small, "-o", tmp_path / "p", "--extend")
    before, grown = read_profile(folder / "p"), read_profile(tmp_path / "p")
    assert len(grown.pricing_token_ids) == 12
    assert np.array_equal(
        grown.measured_samples[:, : len(before.record.formats), :8], before.measured_samples, equal_nan=True
    )
    counts = counted(folder, grown)
    total = grown.rounding_token_ids.size + grown.pricing_token_ids.size
    for record in grown.record.layers:
        expert = record.name.rpartition(".")[0]
        if expert in counts:
            assert (record.num_rounding_tokens, record.num_pricing_tokens) == counts[expert]
            assert record.read_share == sum(counts[expert]) / total


def test_scaled_inputs_leave_the_function_of_experts_as_it_is(made):
    folder = made["never"]
    loaded, tokens = load_model(str(folder / "model")), torch.from_numpy(read_profile(folder / "p").rounding_token_ids)
    structure = find_layers(loaded.model)
    matrices = {layer.name: matrix_of(loaded.model.get_submodule(layer.name)).clone() for layer in structure.layers}
    with torch.no_grad():
        before = loaded.model(tokens).logits
        scale_inputs(loaded, structure, tokens, AwqSettings(), [parse_format("int3-g32")], silent)
        after = loaded.model(tokens).logits
    assert torch.allclose(before, after, atol=2e-4 * float(before.abs().max()))
    scaled = {
        name for name, old in matrices.items() if not torch.equal(old, matrix_of(loaded.model.get_submodule(name)))
    }
    reached = {e for e, (rounding, _) in counted(folder, read_profile(folder / "p")).items() if rounding}
    # an expert's up_proj takes up the scale of its down_proj; the norm before it cannot, since the router reads it too
    assert {name for name in scaled if ".experts." in name} == {
        f"{e}.{m}" for e in reached for m in ("up_proj", "down_proj")
    }


@pytest.mark.parametrize("inputs", ["quantized", "original", "corrected"])
def test_transformers_gives_the_very_logits_of_the_plan(tmp_path, folder, inputs):
    run("apply", folder / "plan.json", "--backend", "fake", "--inputs", inputs, "-o", tmp_path / "checkpoint")
    profile, plan = read_profile(folder / "p"), read_plan(folder / "plan.json")
    loaded = load_model(str(folder / "model"))
    rounded = round_as_shipped(loaded, profile, {"plan": plan.formats()}, inputs, silent)["plan"]
    expected = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    for name, record in rounded.items():
        values = record.dequantize()
        if ".experts." in name:
            path, number, part = name.rsplit(".", 2)
            down, gate_up = (expected.get_parameter(f"{path}.{stack}") for stack in ("down_proj", "gate_up_proj"))
            inner = down.shape[2]
            rows = {"gate_proj": slice(0, inner), "up_proj": slice(inner, None), "down_proj": slice(None)}[part]
            (down if part == "down_proj" else gate_up).data[int(number), rows] = values
        else:
            expected.get_parameter(f"{name}.weight").data = values
    found: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path / "checkpoint", dtype=torch.float32, output_loading_info=True
    )
    written, report = found
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.from_numpy(profile.pricing_token_ids[:2])
    with torch.no_grad():
        assert torch.equal(written.eval()(tokens).logits, expected(tokens).logits)


def test_a_checkpoint_of_experts_is_taken_up_where_it_stopped(tmp_path, monkeypatch, made):
    words = ["apply", made["mixtral"] / "plan.json", "--backend", "fake", "-o"]
    run(*words, tmp_path / "whole")
    write_piece = ResumableWriter.write_piece

    def write_and_die(writer, part, tensors):
        write_piece(writer, part, tensors)
        if part == 1:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "write_piece", write_and_die)
        with pytest.raises(KilledError):
            run(*words, tmp_path / "broken")
    run(*words, tmp_path / "broken")
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())


def test_an_expert_that_no_token_reached_is_rounded_as_if_its_inputs_were_alike(made):
    loaded, profile = load_model(str(made["never"] / "model")), read_profile(made["never"] / "p")
    structure = find_layers(loaded.model)
    tokens = torch.from_numpy(profile.rounding_token_ids)
    walked = blocks_backward(
        loaded.model, structure, capture(loaded.model, structure, tokens, None, silent, ""), None, silent
    )
    groups = {group.layers[0].name: group for visit in walked for group in visit.groups}
    unreached = [name for name, group in groups.items() if group.num_tokens == 0]
    assert {f"{NEVER}.{part}_proj" for part in ("gate", "up", "down")} <= set(unreached)
    for name in unreached:
        assert torch.equal(groups[name].hessian, torch.eye(groups[name].layers[0].in_features))
    calls = enter_blocks(loaded.model, structure, tokens)[0]
    block = loaded.model.get_submodule("model.layers.0")
    originals = [inputs_of(block, structure.layers_of(0), call) for call in calls]
    for covariance in input_covariances(block, structure.layers_of(0), calls, originals):
        if covariance.layers[0].name.startswith(NEVER):
            assert torch.equal(covariance.hessian(), torch.eye(covariance.layers[0].in_features))
        # as many tokens in the original may be other tokens: no correction for experts
        assert (covariance.shift is None) == (".experts." in covariance.layers[0].name)


def test_the_original_s_names_are_those_of_the_checkpoint(tmp_path, folder):
    run("apply", folder / "plan.json", "--backend", "fake", "-o", tmp_path / "checkpoint")
    ours, theirs = (
        {name: tensor.shape for path in place.glob("*.safetensors") if path.stem != "check" for name, tensor in
         load_file(path).items()}
        for place in (tmp_path / "checkpoint", folder / "model")
    )  # fmt: skip
    assert {name: shape for name, shape in ours.items() if name in theirs} == theirs
    loaded = load_model(str(tmp_path / "checkpoint"))
    assert isinstance(loaded.model.get_submodule(NEVER), Expert)
    assert len(find_layers(loaded.model).layers) == len(read_profile(folder / "p").record.layers)


@pytest.fixture(scope="module", params=FAMILIES)
def packed(request, tmp_path_factory):
    """A GPTQ checkpoint of a mixture whose sides can be packed; its experts have different formats."""
    folder = tmp_path_factory.mktemp("packed")
    save_model(folder / "model", f"{request.param}-wide")
    (folder / "prose.txt").write_text(prose(4000), encoding="utf-8")
    formats = [*SMALL[:-1], "int2-g32,int4-g32,int8-g32"]
    run("profile", folder / "model", "--text", folder / "prose.txt", *formats, "-o", folder / "p")
    run("solve", folder / "p", "--average-bits", "5", "-o", folder / "plan.json")
    run("apply", folder / "plan.json", "--backend", "gptq", "-o", folder / "checkpoint")
    return folder


def test_gptq_has_a_format_for_every_expert(packed):
    formats = {a.layer: a.format for a in read_plan(packed / "plan.json").assignments if ".experts." in a.layer}
    assert len(set(formats.values())) == 2
    tensors = load_file(packed / "checkpoint" / "model.safetensors")
    config = json.loads((packed / "checkpoint" / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    for name, target in formats.items():
        bits = parse_format(target).bits
        assert tensors[f"{name}.qweight"].shape == (64 * bits // 32, 64)
        rule = config["dynamic"].get(f"+:^{name.replace('.', chr(92) + '.')}$", {})
        assert rule.get("bits", config["bits"]) == bits


@pytest.mark.slow
def test_gptqmodel_gives_the_logits_of_memory(packed, request):
    report = check_checkpoint(packed / "checkpoint", python=python_with("gptqmodel", request.config))
    assert report.passed, report


@pytest.mark.parametrize(
    ("backend", "match"),
    [("compressed-tensors", "all experts by one scheme.*gptq or fake"), ("auto-gptq", "no way to load.*gptq or fake")],
)
def test_backends_whose_engines_do_not_load_experts_refuse_them(tmp_path, made, backend, match):
    folder = made["qwen3-moe"]
    formats = [*SMALL[:-1], "int4-row-sym,int8-row-sym"]
    run("profile", folder / "model", "--text", folder / "prose.txt", *formats, "-o", tmp_path / "p")
    run("solve", tmp_path / "p", "--average-bits", "5", "-o", tmp_path / "plan.json")
    with pytest.raises(ScantlingError, match=match):
        run("apply", tmp_path / "plan.json", "--backend", backend, "-o", tmp_path / "checkpoint")


def test_an_architecture_that_stores_its_experts_in_one_tensor_is_refused_by_apply_alone(tmp_path, made):
    save_model(tmp_path / "model", "granite-moe")
    run("profile", tmp_path / "model", "--text", made["mixtral"] / "prose.txt", *SMALL, "-o", tmp_path / "p")
    run("solve", tmp_path / "p", "--average-bits", "4", "-o", tmp_path / "plan.json")
    with pytest.raises(ScantlingError, match="keep the experts of a block in one"):
        run("apply", tmp_path / "plan.json", "--backend", "fake", "-o", tmp_path / "checkpoint")
    said = json.loads(run("compare", tmp_path / "plan.json", "--length", "32", "--sequences", "2", "--json").output)
    assert said
