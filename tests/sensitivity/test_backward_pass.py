"""The passes over data against plain autograd through the whole model, on four architectures."""

import functools
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from helpers.autograd import whole_model_gradients
from helpers.tiny_models import log_likelihoods, make_model
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.models.layers import find_layers, matrix_of, output_head
from scantling.quantization.formats import parse_format
from scantling.sensitivity.calibration import backward_pass
from scantling.sensitivity.calibration.backward_pass import blocks_backward
from scantling.sensitivity.calibration.capture import LabelDraws, capture
from scantling.sensitivity.estimators.ends import embedding_changes, head_changes, head_hessian
from scantling.sensitivity.estimators.fisher import first_order_changes, sequence_form, token_form, window_form

ROUNDING = torch.randint(0, 92, (2, 24), generator=torch.Generator().manual_seed(6))
TOKENS = torch.randint(0, 92, (3, 20), generator=torch.Generator().manual_seed(5))


DRAWS = LabelDraws(7, 2)


def backward(model, structure, *, with_gradients=True):
    rounding = capture(model, structure, ROUNDING, None, silent, "")
    pricing = capture(model, structure, TOKENS, DRAWS, silent, "") if with_gradients else None
    return pricing, blocks_backward(model, structure, rounding, pricing, silent)


@pytest.mark.parametrize("tokens_at_once", [1, 80, 8192])
def test_the_backward_pass_equals_autograd_through_the_whole_model(monkeypatch, family, tokens_at_once):
    monkeypatch.setattr(backward_pass, "_TOKENS_AT_ONCE", tokens_at_once)
    model = make_model(family)
    structure = find_layers(model)
    gradients_by_layer = [
        whole_model_gradients(model, structure, sequence, DRAWS, s) for s, sequence in enumerate(TOKENS)
    ]
    rounding_gradients = [whole_model_gradients(model, structure, sequence, DRAWS, 0)[0] for sequence in ROUNDING]
    captured, blocks = backward(model, structure)
    seen = set()
    for visit in blocks:
        for group in visit.groups:
            for layer in group.layers:
                fitted = torch.cat([
                    layer_gradients[layer.name].flatten(0, -2) for layer_gradients in rounding_gradients
                ])
                assert torch.allclose(group.hessian, fitted.t() @ fitted / 48, rtol=1e-3, atol=1e-5)
        done = 0
        for batch in visit.gradient_batches():
            num_sequences = len(next(iter(batch.values())).rows_per_sequence)
            part = gradients_by_layer[done : done + num_sequences]
            done += num_sequences
            for layer, layer_gradients in batch.items():
                seen.add(layer.name)
                assert layer_gradients.rows_per_sequence == [20] * num_sequences
                assert layer_gradients.sequence_length == 20
                inputs = torch.cat([whole[0][layer.name].flatten(0, -2) for whole in part])
                gradients = torch.cat([whole[1][layer.name].flatten(1, -2) for whole in part], dim=1)
                assert torch.allclose(layer_gradients.inputs, inputs, atol=1e-5)
                assert gradients.abs().amax((1, 2)).min() > 1e-4
                assert torch.allclose(layer_gradients.gradients, gradients, rtol=1e-3, atol=1e-5)
        assert done == 3
    assert seen == {layer.name for layer in structure.layers if layer.block is not None}
    embedding = next(layer for layer in structure.layers if layer.kind == "embedding").name
    deltas = [torch.randn(matrix_of(model.get_submodule(embedding)).shape) for _ in range(2)]
    expected = torch.cat(
        [
            torch.stack([(delta[sequence] * layer_gradients[1][embedding][:, 0]).sum(2) for delta in deltas])
            for sequence, layer_gradients in zip(TOKENS, gradients_by_layer, strict=True)
        ],
        dim=2,
    )
    assert captured is not None
    ours = embedding_changes(model, structure, TOKENS, deltas, captured.gradients)
    assert torch.allclose(ours, expected.double(), rtol=1e-3, atol=1e-5)


def test_head_prices_equal_autograd(family):
    model = make_model(family)
    head = output_head(model)
    assert head is not None
    delta = torch.randn(matrix_of(head).shape)
    expected, hessians = [], []
    for s, sequence in enumerate(TOKENS):
        given = []
        handle = head.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0][0]))
        with torch.no_grad():
            logits = model(sequence.unsqueeze(0), use_cache=False).logits
        handle.remove()
        logits = logits.detach().requires_grad_()
        drawn = [torch.autograd.grad(one, logits, retain_graph=True)[0][0] for one in log_likelihoods(logits, DRAWS, s)]
        expected.append(torch.stack([(given[0] @ delta.t() * gradient).sum(1) for gradient in drawn]))
        hessians.append(given[0].t() @ given[0] / 20)
    ours = head_changes(model, TOKENS, [(parse_format("int4-g32"), delta)], DRAWS, silent)[0]
    assert torch.allclose(ours, torch.cat(expected, dim=1).double(), rtol=1e-3, atol=1e-5)
    assert torch.allclose(head_hessian(model, TOKENS, silent), torch.stack(hessians).mean(0), rtol=1e-3, atol=1e-5)


def test_layers_that_share_an_input_are_found(family):
    model = make_model(family)
    structure = find_layers(model)
    groups = [
        sorted(layer.kind.rsplit(".", 1)[1] for layer in group.layers)
        for group in next(backward(model, structure, with_gradients=False)[1]).groups
    ]
    if family == "gpt2":
        assert sorted(groups) == [["c_attn"], ["c_fc"], ["c_proj"], ["c_proj"]]
    else:
        assert sorted(groups) == [["down_proj"], ["gate_proj", "up_proj"], ["k_proj", "q_proj", "v_proj"], ["o_proj"]]


def test_the_first_order_change_is_the_derivative_of_the_log_likelihood():
    """gᵀ ΔW x is the derivative of the log-likelihood along ΔW, one token at a time."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 6, generator=generator).double()
    weight, delta = (torch.randn(5, 6, generator=generator).double() for _ in range(2))
    labels = torch.randint(0, 5, (8,), generator=generator)
    outputs = (inputs @ weight.t()).requires_grad_()
    outputs.log_softmax(-1).gather(1, labels[:, None]).sum().backward()
    assert outputs.grad is not None
    step = 1e-6
    up, down = (
        ((inputs @ (weight + sign * step * delta).t()).log_softmax(-1).gather(1, labels[:, None])).squeeze(1)
        for sign in (1, -1)
    )
    ours = first_order_changes(inputs, outputs.grad[None], delta)
    assert torch.allclose(ours[0], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


def test_labels_are_drawn_from_the_models_own_prediction():
    logits = torch.tensor([[[2.0, 0.0, -1.0, 1.0]]]).expand(1, 20000, 4).requires_grad_()
    (likelihood,) = log_likelihoods(logits, LabelDraws(3), 0)
    probability = logits[0, 0].softmax(-1)
    expected = 20000 * float((probability * probability.log()).sum().detach())
    spread = 20000**0.5 * float(probability.log()[probability > 0].std().detach())
    assert abs(float(likelihood) - expected) < 4 * spread
    first, second = log_likelihoods(logits, LabelDraws(3, 2), 0)
    assert float(first) == float(likelihood) != float(second)
    assert float(next(iter(log_likelihoods(logits, LabelDraws(3), 1)))) != float(first)


@functools.cache
def kl_and_changes():
    """KL of a small change of one matrix of a transformer, and its first-order changes over many draws, in float64."""
    model = make_model("llama-tied").double()
    structure = find_layers(model)
    layer = next(layer for layer in structure.layers if layer.kind == "self_attn.v_proj" and layer.block == 0)
    weight = model.get_parameter(f"{layer.name}.weight")
    delta = 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        original = model(TOKENS[:1], use_cache=False).logits[0].log_softmax(-1)
        weight.data += delta
        changed = model(TOKENS[:1], use_cache=False).logits[0].log_softmax(-1)
        weight.data -= delta
    kl = float((original.exp() * (original - changed)).sum(-1).mean())
    inputs, gradients = whole_model_gradients(model, structure, TOKENS[0], LabelDraws(0, 1000), 0)
    return kl, first_order_changes(inputs[layer.name][0], gradients[layer.name][:, 0], delta)


def test_the_sequence_form_converges_to_the_kl_divergence():
    kl, changes = kl_and_changes()
    draws = torch.cat([sequence_form(draw[None], [20], 20) for draw in changes])
    error = float(draws.std()) / len(draws) ** 0.5
    assert error < 0.06 * kl
    assert abs(float(draws.mean()) - kl) < 3 * error


def test_windows_lead_from_the_token_form_to_the_sequence_form():
    changes = torch.randn(2, 30, generator=torch.Generator().manual_seed(2)).cumsum(1).double()
    rows = [12, 0, 18]
    assert torch.allclose(window_form(changes, rows, 18, 1), token_form(changes, rows, 18))
    assert torch.allclose(window_form(changes, rows, 18, 10**6), sequence_form(changes, rows, 18), rtol=1e-4)
    one = changes[:1, :12]
    pairs = one.t() @ one
    lag = (torch.arange(12)[:, None] - torch.arange(12)).abs()
    expected = (pairs * (1 - lag / 5).clamp_min(0)).sum() / 24
    assert torch.allclose(window_form(one, [12], 12, 5)[0], expected)
    assert torch.allclose(window_form(one, [12], 18, 8)[0], expected * 12 / 18)  # 5 rows: two thirds of the tokens seen


def test_the_window_form_finds_the_long_run_variance_of_a_moving_average():
    """aₜ = eₜ + eₜ₋₁ has variance 2 and long-run variance 4; Bartlett's weights leave out 2 / w of it."""
    noise = torch.randn(400, 513, generator=torch.Generator().manual_seed(3)).double()
    changes = noise[:, 1:] + noise[:, :-1]
    assert float(token_form(changes, [512], 512)) == pytest.approx(1.0, rel=0.02)
    assert float(window_form(changes, [512], 512, 16)) == pytest.approx(2.0 - 1 / 16, rel=0.03)
    assert float(sequence_form(changes, [512], 512)) == pytest.approx(2.0, rel=0.25)


def test_no_change_costs_nothing_and_twice_the_change_four_times():
    inputs, gradients, delta = torch.randn(6, 4), torch.randn(2, 6, 3), torch.randn(3, 4)
    assert first_order_changes(inputs, gradients, torch.zeros(3, 4)).tolist() == [[0.0] * 6] * 2
    for form in (token_form, window_form, sequence_form):
        once, twice = (form(first_order_changes(inputs, gradients, k * delta), [6], 6) for k in (1, 2))
        assert torch.allclose(4 * once, twice)


def test_activations_that_are_not_finite_name_the_block():
    model = make_model("llama-tied")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = torch.inf
    name = r"leave block 1 .*layers\.1\.mlp\.down_proj"
    with pytest.raises(ScantlingError, match=name):
        capture(model, find_layers(model), TOKENS, DRAWS, silent, "")


@pytest.mark.parametrize(
    ("value", "refused"), [([3e38, 3e38], False), ([torch.inf, -torch.inf], True), ([torch.nan, 0.0], True)]
)
def test_logits_are_refused_for_their_values_not_their_sum(value, refused):
    model = make_model("llama-tied")

    def replace(_module, _arguments, output):
        return output * 0 + torch.tensor(value).repeat(output.shape[-1] // 2)

    head = output_head(model)
    assert head is not None
    handle = head.register_forward_hook(replace)
    try:
        with pytest.raises(ScantlingError, match="NaN or infinite") if refused else nullcontext():
            capture(model, find_layers(model), TOKENS, None, silent, "")
    finally:
        handle.remove()


def test_a_layer_that_no_token_reaches_is_named():
    model = make_model("llama-tied")
    model.model.layers[0].mlp.spare = nn.Linear(32, 32)
    structure = find_layers(model)
    with pytest.raises(ScantlingError, match=r"layers\.0\.mlp\.spare was not reached"):
        [list(visit.gradient_batches()) for visit in backward(model, structure)[1]]


def test_blocks_that_exchange_more_than_one_hidden_state_are_refused():
    model = make_model("llama-tied")
    model.model.layers[1].register_forward_pre_hook(lambda module, arguments: (arguments[0] + 1.0, *arguments[1:]))
    # the hook runs again when the block is run alone: shifted twice
    with pytest.raises(ScantlingError, match="exchange more than one hidden state"):
        capture(model, find_layers(model), TOKENS, DRAWS, silent, "")


def test_the_layers_of_a_tied_and_an_untied_model():
    tied, untied = find_layers(make_model("llama-tied")), find_layers(make_model("llama-untied"))
    assert [layer.kind for layer in tied.layers if layer.block is None] == ["embedding"]
    assert [layer.kind for layer in untied.layers if layer.block is None] == ["embedding", "head"]
    assert len(tied.layers) == 3 * 7 + 1
    assert tied.num_other_parameters == untied.num_other_parameters == 7 * 32


def test_conv1d_matrices_are_transposed():
    layer = next(layer for layer in find_layers(make_model("gpt2")).layers if layer.kind == "mlp.c_fc")
    assert (layer.out_features, layer.in_features) == (128, 32)


def test_a_model_without_blocks_is_refused():
    model = make_model("llama-tied")
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ScantlingError, match="no list of blocks"):
        find_layers(model)
