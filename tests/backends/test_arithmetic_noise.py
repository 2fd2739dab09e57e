"""The noise of an arithmetic: nothing where nothing is rounded, and as large as the arithmetic's own elsewhere."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.tiny_models import save_model
from scantling.backends.arithmetic_noise import arithmetic_noise, relative_difference
from scantling.models.loading import load_model

SEQUENCE = torch.arange(2, 66) % 90


@pytest.fixture(scope="module", params=["llama-wide", "gpt2", "mixtral"])
def model(request, tmp_path_factory):
    return load_model(str(save_model(tmp_path_factory.mktemp("model") / "model", request.param))).model


def log_probabilities(model, dtype):
    with torch.no_grad():
        logits = model.to(dtype)(SEQUENCE.unsqueeze(0), use_cache=False).logits[0]
    return logits.double().log_softmax(-1).numpy()


def test_float32_has_no_noise_and_the_model_stays_what_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert arithmetic_noise(model, SEQUENCE, torch.float32, 8) == 0.0
    arithmetic_noise(model, SEQUENCE, torch.bfloat16, 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model._forward_hooks
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_about_as_large_as_in_the_type_itself(model, dtype):
    simulated = arithmetic_noise(model, SEQUENCE, dtype, len(SEQUENCE))
    exact = log_probabilities(model, torch.float32)
    true = relative_difference(log_probabilities(copy.deepcopy(model), dtype), exact)
    assert true / 2 < simulated < 2 * true


class OneProduct(nn.Module):
    """An embedding and a head, and nothing between them."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(90, 16), nn.Linear(16, 90)

    def forward(self, ids, use_cache):
        assert use_cache is False
        return SimpleNamespace(logits=self.head(self.embedding(ids)))


def test_of_a_single_product_it_is_that_of_its_rounded_parts():
    torch.manual_seed(0)
    model, dtype = OneProduct(), torch.bfloat16

    def narrow(tensor):
        return tensor.to(dtype).float()

    with torch.no_grad():
        inputs, weight, bias = model.embedding.weight[SEQUENCE], model.head.weight, model.head.bias
        exact = (inputs @ weight.t() + bias).double().log_softmax(-1).numpy()
        rounded = narrow(narrow(inputs) @ narrow(weight).t() + narrow(bias)).double().log_softmax(-1).numpy()
    found = arithmetic_noise(model, SEQUENCE, dtype, len(SEQUENCE))
    assert found == pytest.approx(relative_difference(rounded, exact), rel=1e-3)
