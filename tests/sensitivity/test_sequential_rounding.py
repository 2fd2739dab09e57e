"""Final rounding against a naive reference that runs the whole model anew for every layer; AWQ's folds and search."""

import json

import pytest
import torch

from helpers.command_line import SMALL, run
from helpers.inputs import correlated_inputs
from helpers.tiny_models import make_model, make_tokenizer
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.models.layers import find_layers, install_matrix, matrix_of
from scantling.models.loading import LoadedModel, load_model
from scantling.planning.plan import read_plan
from scantling.quantization.awq import AwqSettings, awq_scales
from scantling.quantization.formats import IntegerFormat, parse_format
from scantling.quantization.gptq import GptqSettings, gptq
from scantling.quantization.grid import RoundedMatrix, plain_grid, quantize
from scantling.quantization.methods import RoundingMethod
from scantling.sensitivity.calibration.block_inputs import stages
from scantling.sensitivity.calibration.capture import enter_blocks
from scantling.sensitivity.input_scaling import scale_inputs
from scantling.sensitivity.profile import read_profile
from scantling.sensitivity.round_model import RoundingTask, round_group, round_layers
from scantling.sensitivity.sequential_rounding import CORRECTION_DAMPING, round_as_shipped, round_in_order

TOKENS = torch.randint(0, 92, (6, 40), generator=torch.Generator().manual_seed(6))
STAGES = {
    "llama-tied": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
}


def a_task(family, names="int3-g32,int4-g32,float16", seed=0):
    model = make_model(family, seed)
    structure = find_layers(model)
    targets = [parse_format(name) for name in names.split(",")]
    formats = {layer.name: [targets[index % len(targets)]] for index, layer in enumerate(structure.layers)}
    return RoundingTask(
        LoadedModel("tiny", model, make_tokenizer(), "", "float16"), structure, TOKENS, formats, RoundingMethod()
    )


def covariance_of(model, name):
    """Mean of x xᵀ over what a module is given when the whole model runs."""
    inputs = given(model, name)
    return inputs.t() @ inputs / len(inputs)


def test_every_layer_is_rounded_against_inputs_from_the_quantized_ones(family):
    task, naive = a_task(family), make_model(family)
    parts = round_in_order(task, silent, inputs="quantized")
    records = {name: record for _, part in parts for name, record in part.items()}
    order = [layer for layer in task.structure.layers if layer.block is None][:1]
    order += [layer for layer in task.structure.layers if layer.block is not None]
    order += [layer for layer in task.structure.layers if layer.block is None][1:]
    assert list(records) == [layer.name for layer in order]
    for layer in order:
        (target,) = task.formats[layer.name]
        module = naive.get_submodule(layer.name)
        if isinstance(target, IntegerFormat):
            hessian = (
                covariance_of(naive, layer.tied_name or layer.name)
                if layer.kind != "embedding" or layer.tied_name
                else torch.eye(32)
            )
            expected = gptq([matrix_of(module)], hessian, [target], GptqSettings())[0][0]
            record = records[layer.name]
            assert isinstance(record, RoundedMatrix)
            same = (record.codes == expected.codes).float().mean()
            assert same > 0.98, layer.name  # other order of summation, a tie may fall the other way
        install_matrix(module, records[layer.name].dequantize())
    for name, parameter in task.loaded.model.named_parameters():
        assert torch.equal(parameter, naive.get_parameter(name)), name


def test_rounding_against_original_inputs_equals_the_profile_s(family):
    profiled = round_layers(a_task(family), silent)
    task = a_task(family)
    for _, part in round_in_order(task, silent, inputs="original"):
        for name, record in part.items():
            (expected,) = profiled[name].values()
            assert torch.equal(record.dequantize(), expected.dequantize()), name


@pytest.mark.parametrize("architecture", STAGES)
def test_stages_run_in_the_order_of_the_block(architecture):
    task = a_task(architecture)
    model, structure = task.loaded.model, task.structure
    calls = enter_blocks(model, structure, TOKENS)
    layers = [layer for layer in structure.layers if layer.block == 1]
    found = stages(model.get_submodule(f"{structure.blocks_name}.1"), layers, calls[0])
    assert [[layer.kind.rpartition(".")[2] for layer in stage] for stage in found] == STAGES[architecture]


def given(model, name):
    """What a module is given when the whole model runs, [tokens, in]."""
    rows = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _module, arguments: rows.append(arguments[0].flatten(0, -2))
    )
    with torch.no_grad():
        for sequence in TOKENS:
            model(sequence.unsqueeze(0), use_cache=False)
    handle.remove()
    return torch.cat(rows)


def test_corrected_rounding_targets_the_original_outputs_by_least_squares(family):
    """Before it is rounded, every matrix is the ridge regression of the original's outputs on the quantized inputs."""
    task, naive, original = a_task(family), make_model(family), make_model(family)
    records = {
        name: record for _, part in round_in_order(task, silent, inputs="corrected") for name, record in part.items()
    }
    for layer in task.structure.layers:
        (target,) = task.formats[layer.name]
        if layer.block is None or not isinstance(target, IntegerFormat):
            continue
        for other in list(records)[: list(records).index(layer.name)]:
            install_matrix(naive.get_submodule(other), records[other].dequantize())
        inputs, before = given(naive, layer.name).double(), given(original, layer.name).double()
        weight = matrix_of(original.get_submodule(layer.name)).double()
        ridge = CORRECTION_DAMPING * inputs.square().mean() * len(inputs)
        stacked = torch.cat([inputs, ridge.sqrt() * torch.eye(inputs.shape[1]).double()])
        aims = torch.cat([before @ weight.t(), ridge.sqrt() * weight.t()])
        ideal = torch.linalg.lstsq(stacked, aims).solution.t()
        hessian = (inputs.t() @ inputs / len(inputs)).float()
        expected = gptq([ideal.float()], hessian, [target], GptqSettings())[0][0]
        record = records[layer.name]
        assert isinstance(record, RoundedMatrix)
        assert (record.codes == expected.codes).float().mean() > 0.97, layer.name


def test_corrected_rounding_is_closest_on_its_own_text(family):
    distance = {}
    for inputs in ("original", "quantized", "corrected"):
        task = a_task(family, "int2-g32")
        before = logits_of(task.loaded.model)
        for _ in round_in_order(task, silent, inputs=inputs):
            pass
        distance[inputs] = float((logits_of(task.loaded.model) - before).square().mean())
    assert distance["corrected"] < distance["quantized"]
    assert distance["corrected"] < distance["original"]


@pytest.mark.parametrize("inputs", ["corrected", "quantized", "original"])
def test_a_resumed_run_gives_the_same_and_rounds_nothing_twice(family, inputs, monkeypatch):
    whole = dict(round_in_order(a_task(family), silent, inputs=inputs))
    first = {part: whole[part] for part in list(whole)[:2]}
    rounded = []

    def counting(task, group):
        rounded.extend(layer.name for layer in group.layers)
        return round_group(task, group)

    monkeypatch.setattr("scantling.sensitivity.sequential_rounding.round_group", counting)
    resumed = dict(round_in_order(a_task(family), silent, inputs=inputs, finished=first.get))
    assert list(whole) == list(resumed)
    left = [name for part, records in whole.items() if part not in first for name in records]
    assert sorted(rounded) == sorted(name for name in left if ".h." in name or ".layers." in name)
    for part, records in whole.items():
        for name, record in records.items():
            assert torch.equal(record.dequantize(), resumed[part][name].dequantize()), name


def test_an_unknown_kind_of_inputs_is_refused():
    with pytest.raises(ScantlingError, match="Known: corrected, quantized, original"):
        next(round_in_order(a_task("gpt2"), silent, inputs="some"))


def logits_of(model):
    with torch.no_grad():
        return torch.stack([model(sequence.unsqueeze(0), use_cache=False).logits[0] for sequence in TOKENS])


def test_scaled_inputs_do_not_change_the_model_s_function(family):
    task = a_task(family)
    model = task.loaded.model
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():  # norms of a model that was trained are not all ones
        if parameter.dim() == 1 and "norm" in name.lower().replace("ln_", "norm"):
            parameter.data = torch.randn(parameter.shape, generator=generator).exp()
    before, weights = logits_of(model), {layer.name: task.matrix(layer).clone() for layer in task.structure.layers}
    how = (AwqSettings(), [parse_format("int3-g32")])
    scale_inputs(task.loaded, task.structure, TOKENS, *how, silent)
    moved = {name for name, weight in weights.items() if not torch.equal(weight, matrix_of(model.get_submodule(name)))}
    kinds = {name.rpartition(".")[2] for name in moved}
    # norms, up_proj → down_proj, v_proj → o_proj with its shared heads; in GPT-2 a GELU stands before the second matrix
    assert kinds >= ({"c_attn", "c_fc"} if family == "gpt2" else {"q_proj", "o_proj", "up_proj", "down_proj"})
    assert torch.allclose(logits_of(model), before, atol=2e-4 * float(before.abs().max()))
    scale_inputs(task.loaded, task.structure, TOKENS, *how, silent)  # a second time changes nothing
    assert moved == {n for n, w in weights.items() if not torch.equal(w, matrix_of(model.get_submodule(n)))}
    with pytest.raises(ScantlingError, match="scaled for other formats"):
        scale_inputs(task.loaded, task.structure, TOKENS, AwqSettings(), [parse_format("int4-g32")], silent)


def plain_error(weight, scales, inputs, target):
    groups = (weight * scales).reshape(-1, target.group_size).t()
    grid = plain_grid(groups, target.bits, symmetric=target.symmetric)
    rounded = ((quantize(groups, grid, 2.0**target.bits - 1) - grid.zero) * grid.scale).t().reshape(weight.shape)
    return float(((rounded / scales - weight) @ inputs.t()).square().sum())


@pytest.mark.parametrize("target", [IntegerFormat(3, 32), IntegerFormat(4, 64, symmetric=True)])
def test_the_awq_search_takes_the_best_of_its_candidates(target):
    inputs = correlated_inputs(800, 64)
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    hessian = inputs.t() @ inputs / 800
    found = awq_scales([weight[:10], weight[10:]], hessian, [target], AwqSettings(), lambda scales: scales)
    magnitude, mean_weight = inputs.square().mean(0).sqrt(), weight.abs().mean(0)
    candidates = [torch.ones(64)]
    for step in range(10):
        for scales in (magnitude ** (step / 10), magnitude ** (step / 10) / mean_weight ** (1 - step / 10)):
            candidates.append(scales / scales.log().mean().exp())
    errors = [plain_error(weight, scales, inputs, target) for scales in candidates]
    assert plain_error(weight, found, inputs, target) == pytest.approx(min(errors), rel=1e-3)
    assert min(errors) < 0.8 * errors[0]


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_comparison_can_measure_checkpoint_rounding_and_says_so(tmp_path, llama_folder, text_file, method):
    profile, plan = tmp_path / "profile.safetensors", tmp_path / "plan.json"
    formats = "int2-g32,int3-g32,float16"
    words = ["--text", text_file, "--formats", formats, "--rounding", method, *SMALL]
    run("profile", llama_folder, "-o", profile, *words)
    assert read_profile(profile).record.rounding["inputs"] == "original"
    run("solve", profile, "--average-bits", "2.5", "-o", plan)
    measured = {}
    for inputs in ("original", "corrected"):
        words = ["compare", plan, "--uniform", "2", "--sequences", "3", "--length", "32", "--inputs", inputs]
        compared = json.loads(run(*words, "--json").output)
        assert compared["rounding_inputs"] == inputs
        measured[inputs] = compared["entries"][0]
    assert measured["original"]["predicted_kl_nats"] == measured["corrected"]["predicted_kl_nats"]
    assert measured["original"]["measured_kl_nats"] != measured["corrected"]["measured_kl_nats"]
    assert "Predictions are for rounding against original inputs" in " ".join(run(*words).output.split())
    folder = tmp_path / "checkpoint"
    run("apply", plan, "--backend", "fake", "--inputs", "corrected", "-o", folder)
    loaded, written = load_model(str(llama_folder)), load_model(str(folder))
    formats = {"plan": read_plan(plan).formats()}
    rounded = round_as_shipped(loaded, read_profile(profile), formats, "corrected", silent)["plan"]
    for name, record in rounded.items():
        assert torch.equal(matrix_of(written.model.get_submodule(name)), record.dequantize()), name
