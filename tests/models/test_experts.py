"""Unstacked experts, their coverage, and what changes to them cost, on tiny models of real architectures."""

import copy
import io

import pytest
import torch
from rich.console import Console
from torch import nn

from helpers.autograd import whole_model_gradients
from helpers.routing import routed
from helpers.tiny_models import log_likelihoods, make_model
from scantling.common.progress import silent
from scantling.models.experts import stacked_experts, unstack_experts
from scantling.models.layers import find_layers
from scantling.reporting.terminal.diagnostics import print_stacked_experts
from scantling.sensitivity.calibration.backward_pass import blocks_backward
from scantling.sensitivity.calibration.capture import LabelDraws, capture
from scantling.sensitivity.estimators.fisher import first_order_changes, sequence_form, token_form, window_form

NUM_EXPERTS = {"mixtral": 4, "qwen3-moe": 8}
INNER = {"mixtral": 48, "qwen3-moe": 32}
TOKENS = torch.randint(0, 92, (4, 24), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=NUM_EXPERTS)
def mixture(request):
    return request.param


def visits(model, tokens, draws):
    """Each block with the layer gradients of all sequences."""
    structure = find_layers(model)
    rounding = capture(model, structure, tokens, None, silent, "")
    pricing = capture(model, structure, tokens, draws, silent, "")
    for visit in blocks_backward(model, structure, rounding, pricing, silent):
        (gradients_by_layer,) = visit.gradient_batches()
        yield visit, gradients_by_layer


@pytest.mark.parametrize("name", [*NUM_EXPERTS, "gpt-oss", "granite-moe"])
def test_unstacked_experts_compute_what_the_fused_ones_do(name):
    model = make_model(name)
    with torch.no_grad():
        fused = model(TOKENS, use_cache=False).logits
        before = sum(parameter.numel() for parameter in model.parameters())
        assert unstack_experts(model) is not None
        unstacked = model(TOKENS, use_cache=False).logits
    assert torch.allclose(fused, unstacked, rtol=1e-5, atol=1e-5)
    assert sum(parameter.numel() for parameter in model.parameters()) == before
    assert all(parameter.dim() < 3 for parameter in model.parameters())


def test_every_matrix_of_every_expert_is_a_layer_and_nothing_is_copied(mixture):
    model = make_model(mixture)
    fused = model.model.layers[1].mlp.experts.gate_up_proj
    unstack_experts(model)
    structure = find_layers(model)
    experts = [layer for layer in structure.layers if ".experts." in layer.name]
    assert len(experts) == 2 * NUM_EXPERTS[mixture] * 3
    assert {layer.block for layer in experts} == {0, 1}
    inner = INNER[mixture]
    shapes = {layer.kind.rpartition(".")[2]: (layer.out_features, layer.in_features) for layer in experts}
    assert shapes == {"gate_proj": (inner, 32), "up_proj": (inner, 32), "down_proj": (32, inner)}
    third = model.get_submodule("model.layers.1.mlp.experts.2")
    gate, up = third.get_parameter("gate_proj.weight"), third.get_parameter("up_proj.weight")
    assert torch.equal(torch.cat([gate, up]), fused[2])
    assert gate.data_ptr() == fused[2].data_ptr()
    others = [p.numel() for name, p in model.named_parameters() if "norm" in name or name.endswith("mlp.gate.weight")]
    assert structure.num_other_parameters == sum(others)


def test_experts_that_compute_something_else_stay_stacked(mixture):
    model = make_model(mixture)
    for block in model.model.layers:
        forward = block.mlp.experts.forward
        block.mlp.experts.forward = lambda *given, forward=forward: forward(*given) + 0.01
    assert unstack_experts(model) is None
    assert any(parameter.dim() == 3 for parameter in model.parameters())


def test_a_token_with_fewer_experts_goes_through_those_alone(mixture):
    """A number beyond the last expert stands for none."""
    fused, model = make_model(mixture), make_model(mixture)
    fused.set_experts_implementation("eager")
    unstack_experts(model)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    none = NUM_EXPERTS[mixture]
    chosen, weights = torch.tensor([[0, 1], [2, none], [none, none]]), torch.full((3, 2), 0.5)
    ours, expected = (of.model.layers[0].mlp.experts(hidden, chosen, weights) for of in (model, fused))
    assert torch.allclose(ours, expected, atol=1e-6)
    assert not expected[2].any()


def test_names_in_the_checkpoint_are_those_of_the_architecture(mixture):
    names = unstack_experts(make_model(mixture))
    assert names is not None
    inner = "block_sparse_moe.experts.3.w3" if mixture == "mixtral" else "mlp.experts.3.up_proj"
    assert names["model.layers.1.mlp.experts.3.up_proj.weight"] == f"model.layers.1.{inner}.weight"


def test_layer_gradients_and_hessian_cover_the_tokens_routed_to_the_expert(mixture):
    model = make_model(mixture)
    unstack_experts(model)
    chosen = routed(model, TOKENS)
    draws = LabelDraws(7, 2)
    whole = [whole_model_gradients(model, find_layers(model), sequence, draws, s) for s, sequence in enumerate(TOKENS)]
    num_checked = 0
    for visit, gradients_by_layer in visits(model, TOKENS, draws):
        for group in visit.groups:
            for layer in group.layers:
                if ".experts." not in layer.name:
                    continue
                hits = (chosen[visit.index] == int(layer.kind.split(".")[2])).any(1)
                assert group.num_tokens == visit.num_pricing_tokens[layer] == int(hits.sum())
                layer_gradients = gradients_by_layer[layer]
                assert layer_gradients.rows_per_sequence == hits.reshape(4, 24).sum(1).tolist()
                assert layer_gradients.sequence_length == 24
                seen = [of_sequence for of_sequence in whole if layer.name in of_sequence[0]]
                inputs = torch.cat([given[layer.name] for given, _ in seen])
                gradients = torch.cat([drawn[layer.name] for _, drawn in seen], dim=1)
                assert torch.allclose(layer_gradients.inputs, inputs, atol=1e-5)
                assert torch.allclose(layer_gradients.gradients, gradients, rtol=1e-3, atol=1e-5)
                assert torch.allclose(group.hessian, inputs.t() @ inputs / len(inputs), rtol=1e-3, atol=1e-5)
                num_checked += 1
    assert num_checked == 2 * NUM_EXPERTS[mixture] * 3


@pytest.mark.parametrize("part", ["gate_proj", "down_proj"])
def test_the_cost_of_an_expert_s_change_is_per_token_of_the_whole_text(mixture, part):
    """The sequence form, averaged over many draws, is the measured KL divergence of a small change, in float64."""
    model = make_model(mixture)
    unstack_experts(model)
    model.double()
    sequence = TOKENS[:1]
    expert = int(routed(model, sequence)[0].flatten().mode().values)
    name = f"model.layers.0.mlp.experts.{expert}.{part}"
    weight = model.get_parameter(f"{name}.weight")
    delta = 1e-4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    inputs, gradients = whole_model_gradients(model, find_layers(model), TOKENS[0], LabelDraws(0, 1000), 0)
    rows = [len(inputs[name])]
    assert 2 < rows[0] < 24
    with torch.no_grad():
        original = model(sequence, use_cache=False).logits[0].log_softmax(-1)
        weight.data = weight.data + delta
        changed = model(sequence, use_cache=False).logits[0].log_softmax(-1)
    kl = float((original.exp() * (original - changed)).sum(-1).mean())
    changes = first_order_changes(inputs[name], gradients[name], delta)
    draws = torch.cat([sequence_form(draw[None], rows, 24) for draw in changes])
    error = float(draws.std()) / len(draws) ** 0.5
    assert error < 0.06 * kl
    assert abs(float(draws.mean()) - kl) < 3 * error


def test_first_order_changes_of_experts_sum_to_the_gradient_of_the_fused_tensors(mixture):
    """Σ over experts and matrices of Σₜ aₜ is ⟨∂ log p / ∂W, ΔW⟩ by autograd through transformers' own model."""
    fused = make_model(mixture)
    fused.set_experts_implementation("eager")
    unstacked = copy.deepcopy(fused)
    unstack_experts(unstacked)
    sequence, draws, inner = TOKENS[:1], LabelDraws(3, 1), INNER[mixture]
    experts = fused.model.layers[0].mlp.experts
    generator = torch.Generator().manual_seed(2)
    deltas = {name: torch.randn(p.shape, generator=generator) for name, p in experts.named_parameters()}
    places = {"gate_proj": slice(0, inner), "up_proj": slice(inner, None), "down_proj": slice(None)}
    ours = 0.0
    for layer, layer_gradients in next(
        gradients_by_layer for visit, gradients_by_layer in visits(unstacked, sequence, draws) if visit.index == 0
    ).items():
        if ".experts." in layer.name:
            expert, part = layer.kind.split(".")[2:]
            delta = deltas["down_proj" if part == "down_proj" else "gate_up_proj"][int(expert)][places[part]]
            ours += float(first_order_changes(layer_gradients.inputs, layer_gradients.gradients, delta).sum())
    experts.requires_grad_(True)
    (likelihood,) = log_likelihoods(fused(sequence, use_cache=False).logits, draws, 0)
    gradients = torch.autograd.grad(likelihood, list(experts.parameters()))
    theirs = sum(float((drawn * delta).sum()) for drawn, delta in zip(gradients, deltas.values(), strict=True))
    assert ours == pytest.approx(theirs, rel=1e-4)


class ListedExperts(nn.ModuleList):
    """Experts as models with their own code often have them: a list of modules of linear layers."""

    def forward(self, hidden, chosen, weights):
        total = torch.zeros_like(hidden)
        for number, expert in enumerate(self):
            tokens, slot = torch.where(chosen == number)
            if len(tokens):
                total[tokens] += expert(hidden[tokens]) * weights[tokens, slot, None]
        return total


def test_experts_in_a_module_list_are_layers_with_the_same_gradients(mixture):
    model = make_model(mixture)
    unstack_experts(model)
    listed = copy.deepcopy(model)
    for block in listed.model.layers:
        block.mlp.experts = ListedExperts(list(block.mlp.experts.children()))
    assert find_layers(listed) == find_layers(model)
    for (ours, our_gradients), (theirs, their_gradients) in zip(
        *(visits(of, TOKENS, LabelDraws(1)) for of in (listed, model)), strict=True
    ):
        assert ours.num_pricing_tokens == theirs.num_pricing_tokens
        for layer, layer_gradients in our_gradients.items():
            assert torch.allclose(layer_gradients.gradients, their_gradients[layer].gradients, rtol=1e-3, atol=1e-6)


def test_an_expert_s_window_shrinks_with_its_share_of_the_tokens():
    """Subsampled, a slowly varying series keeps its long-run variance per token seen."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(400, 512 + 15, generator=generator).double()
    whole = noise.cumsum(1)[:, 15:] - nn.functional.pad(noise.cumsum(1), (1, 0))[:, :512]  # sums of 16 neighbours
    quarter = whole[:, ::4]
    full = float(window_form(whole, [512], 512, 64))
    assert float(window_form(quarter, [128], 512, 64)) == pytest.approx(full / 16, rel=0.1)  # a quarter, squared
    assert float(token_form(quarter, [128], 512)) == pytest.approx(float(token_form(whole, [512], 512)) / 4, rel=0.1)
    assert window_form(quarter[:, :0], [0], 512).tolist() == [0.0]


def test_expert_tensors_that_stay_stacked_are_named(mixture):
    shown, silent_page = io.StringIO(), io.StringIO()
    console = Console(file=shown, width=200)
    model = make_model(mixture)
    print_stacked_experts(stacked_experts(model), 1234, type(model).__name__, console)
    assert "4 tensors of three dimensions are no layers" in shown.getvalue()
    assert "(1,234 bytes) (first: model.layers.0.mlp.experts.gate_up_proj)" in shown.getvalue()
    unstack_experts(model)
    print_stacked_experts(stacked_experts(model), 0, type(model).__name__, Console(file=silent_page))
    assert not silent_page.getvalue()
