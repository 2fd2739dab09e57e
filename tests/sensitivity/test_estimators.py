"""The estimators against dense Fisher matrices and measured divergences on tiny nets, in float64."""

import functools
import math

import pytest
import torch

from helpers.dense_hessian import Dense, small_problem
from helpers.tiny_models import log_likelihoods, make_model, make_tokenizer
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.models.layers import Layer, find_layers, matrix_of
from scantling.models.loading import LoadedModel
from scantling.quantization.formats import parse_format
from scantling.sensitivity.calibration.backward_pass import LayerGradients
from scantling.sensitivity.calibration.capture import LabelDraws
from scantling.sensitivity.calibration.partial_run import partial_runs
from scantling.sensitivity.calibration.resume_cache import ResumeCache
from scantling.sensitivity.estimators.base import PricingContext
from scantling.sensitivity.estimators.gradient_baselines import element_wise, fisher_diagonal, output_error
from scantling.sensitivity.estimators.higgs import NOISE_RELATIVE_SQUARE, slopes
from scantling.sensitivity.estimators.names import ESTIMATOR_NAMES
from scantling.sensitivity.estimators.registry import ESTIMATORS
from scantling.sensitivity.estimators.xtrace import xtrace

TOKENS = torch.randint(0, 92, (2, 20), generator=torch.Generator().manual_seed(5))
INT4 = parse_format("int4-row")


def random_gradients(rows: int = 12) -> tuple[torch.Tensor, LayerGradients, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(rows, 5, generator=generator).double()
    gradients = torch.randn(3, rows, 4, generator=generator).double()
    matrix, delta = (torch.randn(4, 5, generator=generator).double() for _ in range(2))
    return matrix, LayerGradients(inputs, gradients, [7, rows - 7], 9), delta


def test_the_fisher_diagonal_is_that_of_the_dense_matrix_of_token_scores():
    matrix, layer_gradients, delta = random_gradients()
    scores = torch.einsum("dto,ti->dtoi", layer_gradients.gradients, layer_gradients.inputs).flatten(2)
    expected = []
    for part in (slice(0, 7), slice(7, None)):
        dense = torch.einsum("dta,dtb->ab", scores[:, part], scores[:, part]) / 3 / 9
        expected.append(0.5 * (dense.diagonal() * delta.flatten().square()).sum())
    assert torch.allclose(fisher_diagonal(matrix, layer_gradients, delta), torch.stack(expected))


def test_the_element_wise_form_omits_terms_between_outputs():
    matrix, layer_gradients, delta = random_gradients()
    one_output = [torch.where(torch.arange(4)[:, None] == row, delta, 0.0) for row in range(4)]
    changes = [
        torch.einsum("dto,to->dt", layer_gradients.gradients, layer_gradients.inputs @ part.t()) for part in one_output
    ]
    squares = torch.stack([change.square().mean(0) for change in changes]).sum(0) / 18
    expected = torch.stack([squares[:7].sum(), squares[7:].sum()])
    assert torch.allclose(element_wise(matrix, layer_gradients, delta), expected)


def test_the_output_error_is_relative_and_without_scale():
    matrix, layer_gradients, delta = random_gradients()
    error = output_error(matrix, layer_gradients, delta)
    assert torch.allclose(output_error(matrix, layer_gradients, matrix), torch.ones(2).double())
    scaled = LayerGradients(layer_gradients.inputs * 3, layer_gradients.gradients, layer_gradients.rows_per_sequence, 9)
    assert torch.allclose(output_error(matrix * 2, scaled, delta * 2), error)
    silenced = LayerGradients(torch.zeros(12, 5).double(), layer_gradients.gradients, [7, 5], 9)
    assert output_error(matrix, silenced, delta).tolist() == [0.0, 0.0]


def test_xtrace_finds_the_trace_of_the_dense_hessian():
    operator, dense = small_problem()
    truth = float(dense.trace())
    generator = torch.Generator().manual_seed(0)
    estimates = [xtrace(Dense(dense, operator.shapes), 40, generator) for _ in range(60)]
    mean = math.fsum(estimates) / 60
    spread = torch.tensor(estimates).std() / 60**0.5
    assert abs(mean - truth) < 4 * float(spread)  # unbiased


def test_xtrace_varies_less_than_hutchinson_at_the_same_cost_where_the_spectrum_decays():
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(120, 120, generator=generator).double())[0]
    matrix = basis @ torch.diag(0.8 ** torch.arange(120).double()) @ basis.t()
    operator = Dense(matrix, [torch.Size([120])])
    ours = torch.tensor([xtrace(operator, 32, generator) for _ in range(40)])
    signs = torch.randint(0, 2, (40, 32, 120), generator=generator).double() * 2 - 1
    plain = torch.einsum("abi,ij,abj->ab", signs, matrix, signs).mean(1)
    assert abs(float(ours.mean()) - float(matrix.trace())) < 4 * float(ours.std()) / 40**0.5 + 1e-9
    assert float(ours.std()) < 0.2 * float(plain.std())


def test_xtrace_is_exact_for_a_matrix_of_low_rank():
    columns = torch.randn(30, 3, generator=torch.Generator().manual_seed(2)).double()
    matrix = columns @ columns.t()
    estimate = xtrace(Dense(matrix, [torch.Size([10, 3])]), 10, torch.Generator().manual_seed(0))
    assert estimate == pytest.approx(float(matrix.trace()), rel=1e-9)


def test_intervals_over_independent_estimates_of_xtrace_cover_the_truth():
    """A 95 % interval covers the truth in 90–99 % of 200 repetitions."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(60, 60, generator=generator).double())[0]
    matrix = basis @ torch.diag(1 + torch.rand(60, generator=generator).double()) @ basis.t()
    operator = Dense(matrix, [torch.Size([60])])
    covered = 0
    for _ in range(200):
        estimates = torch.tensor([xtrace(operator, 8, generator) for _ in range(8)]).double()
        error = float(estimates.std()) / 8**0.5
        covered += abs(float(estimates.mean()) - float(matrix.trace())) < 2.365 * error  # Student's, 7
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize("num_products", [0, 2, 7])
def test_xtrace_refuses_unusable_numbers_of_products(num_products):
    with pytest.raises(ScantlingError, match=f"cannot spend {num_products} products"):
        xtrace(Dense(torch.eye(4), [torch.Size([4])]), num_products, torch.Generator())


def test_intervals_over_sequences_cover_the_truth():
    """Token forms of 16 sequences with a share in common within each: the spread over sequences tells the error."""
    generator = torch.Generator().manual_seed(5)
    level = torch.randn(200, 16, 1, generator=generator).mul(0.3).exp()
    samples = (level * torch.randn(200, 16, 64, generator=generator).square()).mean(2) / 2
    truth = 0.5 * math.exp(0.3**2 / 2)
    error = samples.std(1) / 4
    covered = ((samples.mean(1) - truth).abs() < 2.13 * error).double().mean()  # Student's, 15
    assert 0.90 <= float(covered) <= 0.99


class OneChange:
    """A change of one layer, as estimators are given it."""

    def __init__(self, layer: Layer, matrix: torch.Tensor, delta: torch.Tensor):
        self.layers, self._matrix, self._delta = [layer], matrix, delta

    def matrix(self, layer):
        return self._matrix

    def deltas(self, layer):
        return iter([(INT4, self._delta)])


@functools.cache
def tiny(family: str):
    model = make_model(family)
    return LoadedModel("m", model, make_tokenizer(), "", "float16"), find_layers(model)


def measured_divergence(model, layer, delta):
    module = model.get_submodule(layer.name)
    original = module.weight.data
    with torch.no_grad():
        before = model(TOKENS, use_cache=False).logits.double().log_softmax(-1)
        module.weight.data = original + (delta.t() if family_is_transposed(module) else delta)
        after = model(TOKENS, use_cache=False).logits.double().log_softmax(-1)
        module.weight.data = original
    return (before.exp() * (before - after)).sum(-1).mean(1)


def family_is_transposed(module) -> bool:
    return type(module).__name__ == "Conv1D"


def test_direct_measurement_is_the_divergence_of_the_changed_model(family, tmp_path):
    loaded, structure = tiny(family)
    on = PricingContext(loaded, structure, TOKENS, structure.layers, LabelDraws(0), silent, ResumeCache(tmp_path))
    before = [parameter.clone() for parameter in loaded.model.parameters()]
    with ESTIMATORS["direct"](on) as pricer:
        for layer in (structure.layers[0], structure.layers[-2], structure.layers[len(structure.layers) // 2]):
            matrix = matrix_of(loaded.model.get_submodule(layer.name)).clone()
            delta = 0.05 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))
            ours = pricer.price_end(layer, OneChange(layer, matrix, delta), None)[INT4]
            expected = measured_divergence(loaded.model, layer, delta)
            assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-6)
            assert float(ours.min()) > 1e-5
    assert all(torch.equal(a, b) for a, b in zip(before, loaded.model.parameters(), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_the_linear_model_measures_its_slope_and_scales_with_the_relative_error(tmp_path):
    loaded, structure = tiny("llama-tied")
    layer = structure.layers[3]
    on = PricingContext(loaded, structure, TOKENS, [layer], LabelDraws(2), silent, ResumeCache(tmp_path))
    matrix = matrix_of(loaded.model.get_submodule(layer.name)).clone()
    noise = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(2))
    noise *= matrix.norm() * 0.1 / noise.norm()
    with ESTIMATORS["linear"](on) as pricer:
        once, half = (
            pricer.price_end(layer, OneChange(layer, matrix, factor * noise), None)[INT4] for factor in (1.0, 0.5)
        )
    assert torch.allclose(once, measured_divergence(loaded.model, layer, noise), rtol=1e-3)
    assert torch.allclose(half, once / 4)
    with partial_runs(loaded.model, structure, TOKENS, tmp_path, silent) as runs:
        slope = slopes(runs, layer, matrix, torch.Generator().manual_seed(2))
    assert torch.allclose(slope * NOISE_RELATIVE_SQUARE, once)


def test_labels_of_further_sequences_equal_those_of_one_run():
    logits = torch.randn(1, 30, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (later,) = log_likelihoods(logits, LabelDraws(5, 1, first_sequence=3), 1)
    (at_once,) = log_likelihoods(logits, LabelDraws(5), 4)
    assert float(later.detach()) == float(at_once.detach())


def test_the_names_are_those_of_the_registry():
    assert tuple(ESTIMATORS) == ESTIMATOR_NAMES
