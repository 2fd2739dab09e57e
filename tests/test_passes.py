"""The passes over data against plain autograd through the whole model, on four architectures."""

import pytest
import torch
from torch import nn

from scantling.backends.layers import matrix_of, output_head, take_apart
from scantling.backends.progress import silent
from scantling.sensitivity.capture import capture, sampled_log_likelihood
from scantling.sensitivity.ends import embedding_samples, head_hessian, head_samples
from scantling.sensitivity.fisher import fisher_samples
from scantling.sensitivity.walk import walk_blocks
from scantling.solver.errors import ScantlingError
from tiny import make_model

ROUNDING = torch.randint(0, 92, (2, 24), generator=torch.Generator().manual_seed(6))
TOKENS = torch.randint(0, 92, (3, 20), generator=torch.Generator().manual_seed(5))


def whole_model_tape(model, anatomy, sequence, seed):
    """Inputs of all layers and gradients at their outputs, by one backward pass through everything."""
    inputs, outputs = {}, {}

    def hook(name):
        def keep(module, arguments, output):
            inputs[name] = arguments[0].detach()
            if not output.requires_grad:
                output.requires_grad_()
            output.retain_grad()
            outputs[name] = output

        return keep

    names = {layer.name for layer in anatomy.layers} | {layer.tied_name for layer in anatomy.layers if layer.tied_name}
    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    logits = model(sequence.unsqueeze(0), use_cache=False).logits
    sampled_log_likelihood(logits, seed).backward()
    for handle in handles:
        handle.remove()
    return inputs, {name: output.grad for name, output in outputs.items()}


def walk(model, anatomy, *, with_gradients=True):
    rounding = capture(model, anatomy, ROUNDING, 0, silent, with_gradients=False)
    pricing = capture(model, anatomy, TOKENS, 7, silent, with_gradients=True) if with_gradients else None
    return pricing, walk_blocks(model, anatomy, rounding, pricing, silent)


def test_the_walk_gives_what_autograd_through_the_whole_model_gives(family):
    model = make_model(family)
    anatomy = take_apart(model)
    tapes = [whole_model_tape(model, anatomy, sequence, 7 + s) for s, sequence in enumerate(TOKENS)]
    rounding_tapes = [whole_model_tape(model, anatomy, sequence, 0)[0] for sequence in ROUNDING]
    captured, blocks = walk(model, anatomy)
    seen = set()
    for groups in blocks:
        for group in groups:
            assert group.tokens_per_sequence == [20, 20, 20]
            for layer in group.layers:
                seen.add(layer.name)
                inputs = torch.cat([tape[0][layer.name].flatten(0, -2) for tape in tapes])
                gradients = torch.cat([tape[1][layer.name].flatten(0, -2) for tape in tapes])
                assert torch.allclose(group.inputs, inputs, atol=1e-5)
                assert gradients.abs().max() > 1e-4
                assert torch.allclose(group.gradients[layer], gradients, rtol=1e-3, atol=1e-5)
                fitted = torch.cat([tape[layer.name].flatten(0, -2) for tape in rounding_tapes])
                assert torch.allclose(group.hessian, fitted.t() @ fitted / 48, rtol=1e-3, atol=1e-5)
    assert seen == {layer.name for layer in anatomy.layers if layer.block is not None}
    embedding = next(layer for layer in anatomy.layers if layer.kind == "embedding").name
    deltas = [torch.randn(matrix_of(model.get_submodule(embedding)).shape)]
    expected = [
        ((deltas[0][sequence] * tape[1][embedding][0]).sum(1).square().mean() / 2).double()
        for sequence, tape in zip(TOKENS, tapes, strict=True)
    ]
    assert captured is not None
    ours = embedding_samples(model, anatomy, TOKENS, deltas, captured.gradients)
    assert torch.allclose(ours[0], torch.stack(expected), rtol=1e-3)


def test_the_head_is_priced_as_autograd_says(family):
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
        sampled_log_likelihood(logits, 7 + s).backward()
        changes = (given[0] @ delta.t() * logits.grad[0]).sum(1)
        expected.append(changes.double().square().mean() / 2)
        hessians.append(given[0].t() @ given[0] / 20)
    assert torch.allclose(head_samples(model, TOKENS, [delta], 7, silent)[0], torch.stack(expected), rtol=1e-3)
    assert torch.allclose(head_hessian(model, TOKENS, silent), torch.stack(hessians).mean(0), rtol=1e-3, atol=1e-5)


def test_layers_that_share_an_input_are_found(family):
    model = make_model(family)
    anatomy = take_apart(model)
    groups = [
        sorted(layer.kind.rsplit(".", 1)[1] for layer in group.layers)
        for group in next(walk(model, anatomy, with_gradients=False)[1])
    ]
    if family == "gpt2":
        assert sorted(groups) == [["c_attn"], ["c_fc"], ["c_proj"], ["c_proj"]]
    else:
        assert sorted(groups) == [["down_proj"], ["gate_proj", "up_proj"], ["k_proj", "q_proj", "v_proj"], ["o_proj"]]


def test_the_fisher_form_is_half_the_mean_square_of_the_first_order_change():
    """gᵀ ΔW x is the derivative of the log-likelihood along ΔW, one token at a time."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(6, 5, bias=False).double()
    inputs = torch.randn(8, 6, generator=generator).double()
    delta = torch.randn(5, 6, generator=generator).double()
    weight = layer.weight.detach()
    labels = torch.randint(0, 5, (8,), generator=generator)
    outputs = (inputs @ weight.t()).requires_grad_()
    outputs.log_softmax(-1).gather(1, labels[:, None]).sum().backward()
    assert outputs.grad is not None
    ours = fisher_samples(inputs, outputs.grad, delta, [5, 3])
    step = 1e-6
    shifted = [
        ((inputs @ (weight + sign * step * delta).t()).log_softmax(-1).gather(1, labels[:, None])).squeeze(1)
        for sign in (1, -1)
    ]
    squares = ((shifted[0] - shifted[1]) / (2 * step)).square() / 2
    assert torch.allclose(ours, torch.stack([squares[:5].mean(), squares[5:].mean()]), rtol=1e-6)


def test_the_fisher_estimate_converges_to_the_kl_divergence():
    """On a softmax layer tokens are independent, so the mean over many sampled labels is the KL's second-order term."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(7, 4, generator=generator).double()
    delta = 0.01 * torch.randn(7, 4, generator=generator).double()
    inputs = torch.randn(10, 4, generator=generator).double().repeat(4000, 1)
    probability = (inputs @ weight.t()).softmax(-1)
    labels = torch.multinomial(probability, 1, generator=generator)
    gradients = torch.zeros_like(probability).scatter_(1, labels, 1.0) - probability
    samples = fisher_samples(inputs, gradients, delta, [400] * 100)
    changed = (inputs @ (weight + delta).t()).log_softmax(-1)
    kl = (probability * (probability.log() - changed)).sum(-1).mean()
    error = samples.std() / 10
    assert abs(samples.mean() - kl) < 4 * error + 0.02 * kl
    assert error < 0.02 * kl


def test_no_change_costs_nothing_and_twice_the_change_four_times():
    inputs, gradients, delta = torch.randn(6, 4), torch.randn(6, 3), torch.randn(3, 4)
    assert fisher_samples(inputs, gradients, torch.zeros(3, 4), [6]).tolist() == [0.0]
    once, twice = (fisher_samples(inputs, gradients, k * delta, [6]) for k in (1, 2))
    assert torch.allclose(4 * once, twice)


def test_activations_that_are_not_numbers_name_the_block():
    model = make_model("llama-tied")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(ScantlingError, match="enter block 2"):
        capture(model, take_apart(model), TOKENS, 0, silent, with_gradients=True)


def test_a_layer_that_no_token_reaches_is_named():
    model = make_model("llama-tied")
    model.model.layers[0].mlp.spare = nn.Linear(32, 32)
    anatomy = take_apart(model)
    with pytest.raises(ScantlingError, match=r"layers\.0\.mlp\.spare was not reached"):
        list(walk(model, anatomy)[1])


def test_blocks_that_exchange_more_than_one_hidden_state_are_refused():
    model = make_model("llama-tied")
    model.model.layers[1].register_forward_pre_hook(lambda module, arguments: (arguments[0] + 1.0, *arguments[1:]))
    # the hook runs again when the block is run alone: shifted twice
    with pytest.raises(ScantlingError, match="exchange more than one hidden state"):
        capture(model, take_apart(model), TOKENS, 0, silent, with_gradients=True)


def test_the_layers_of_a_tied_and_an_untied_model():
    tied, untied = take_apart(make_model("llama-tied")), take_apart(make_model("llama-untied"))
    assert [layer.kind for layer in tied.layers if layer.block is None] == ["embedding"]
    assert [layer.kind for layer in untied.layers if layer.block is None] == ["embedding", "head"]
    assert len(tied.layers) == 3 * 7 + 1
    assert tied.num_other_parameters == untied.num_other_parameters == 7 * 32


def test_conv1d_matrices_are_seen_the_right_way_round():
    layer = next(layer for layer in take_apart(make_model("gpt2")).layers if layer.kind == "mlp.c_fc")
    assert (layer.out_features, layer.in_features) == (128, 32)


def test_a_model_without_blocks_is_refused():
    model = make_model("llama-tied")
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ScantlingError, match="no list of blocks"):
        take_apart(model)
