"""Hessian-vector products and Hutchinson's estimators against dense Hessians in float64."""

import math

import pytest
import torch

from helpers.dense_hessian import TOKENS, Dense, small_problem
from helpers.tiny_models import make_model, make_tokenizer
from scantling.common.progress import silent
from scantling.models.layers import find_layers
from scantling.models.loading import LoadedModel
from scantling.sensitivity.calibration.capture import LabelDraws
from scantling.sensitivity.calibration.resume_cache import ResumeCache
from scantling.sensitivity.estimators.base import WeightEstimator
from scantling.sensitivity.estimators.hessian import SequenceHessian
from scantling.sensitivity.estimators.hutchinson import diagonal_samples
from scantling.sensitivity.estimators.registry import ESTIMATORS, PricingContext


def test_the_product_is_that_of_the_dense_hessian():
    operator, dense = small_problem()
    blocks = [torch.randn(shape).double() for shape in operator.shapes]
    flat = torch.cat([block.flatten() for block in blocks])
    product = torch.cat([block.flatten() for block in operator @ blocks])
    error = (product - dense @ flat).norm() / (dense @ flat).norm()
    assert error < 1e-5  # the norms and rotary embeddings of this architecture work in float32
    assert not any(parameter.requires_grad for parameter in operator.parameters)


def test_hutchinson_converges_to_trace_and_diagonal_with_correct_errors():
    operator, dense = small_problem()
    size = operator.shapes[0].numel()
    generator = torch.Generator().manual_seed(0)
    num_probes = 4000
    draws = [diagonal_samples(Dense(dense, operator.shapes), generator) for _ in range(num_probes)]
    for block, part in enumerate((slice(0, size), slice(size, None))):
        diagonal = torch.stack([draw[block].flatten() for draw in draws])
        truth = dense.diagonal()[part]
        traces = diagonal.sum(1)
        error = traces.std() / math.sqrt(num_probes)
        assert abs(traces.mean() - truth.sum()) < 4 * error
        assert error < 0.2 * truth.sum().abs()
        errors = diagonal.std(0) / math.sqrt(num_probes)
        inside = ((diagonal.mean(0) - truth).abs() < 1.96 * errors).double().mean()
        assert 0.90 < inside < 0.99  # a 95 % interval
        spread = (diagonal.mean(0) - truth).norm() / truth.norm()
        assert spread < 0.5


def test_a_diagonal_matrix_is_found_by_one_probe():
    matrix = torch.diag(torch.arange(6.0).double())
    shapes = [torch.Size([2, 2]), torch.Size([2])]
    first, second = diagonal_samples(Dense(matrix, shapes), torch.Generator().manual_seed(0))
    assert torch.equal(first, torch.arange(4.0).reshape(2, 2).double())
    assert torch.equal(second, torch.tensor([4.0, 5.0]).double())


@pytest.mark.parametrize(("family", "kind"), [("llama-tied", "self_attn.v_proj"), ("gpt2", "attn.c_attn")])
def test_the_priced_estimators_are_half_the_quadratic_forms_of_their_probes(tmp_path, family, kind):
    model = make_model(family)
    structure = find_layers(model)
    layer = next(layer for layer in structure.layers if layer.block == 0 and layer.kind == kind)
    parameter = model.get_parameter(f"{layer.name}.weight")
    probes = [
        diagonal_samples(SequenceHessian(model, [parameter], TOKENS), LabelDraws(9).generator(number, 0))[0]
        for number in range(3)
    ]
    generator = torch.Generator().manual_seed(9)
    if family == "gpt2":  # stores its matrices [in, out]
        probes = [probe.t() for probe in probes]
    delta = torch.randn(layer.out_features, layer.in_features, generator=generator)
    squares = delta.square()
    expected = {
        "hessian-trace": torch.stack([0.5 * probe.mean() * squares.sum() for probe in probes]),
        "hessian-diagonal": torch.stack([0.5 * (probe * squares).sum() for probe in probes]),
    }
    loaded = LoadedModel("m", model, make_tokenizer(), "", "float16")
    on = PricingContext(loaded, structure, TOKENS.repeat(3, 1), [layer], LabelDraws(9), silent, ResumeCache(tmp_path))
    for name, samples in expected.items():
        with ESTIMATORS[name](on) as pricer:
            assert isinstance(pricer, WeightEstimator)
            assert torch.allclose(pricer.price(layer, delta), samples.double(), rtol=1e-4)
