"""GPTQ against a float64 reference that recomputes everything from the definition."""

import pytest
import torch

from helpers.inputs import correlated_inputs
from scantling.common.errors import CalibrationError
from scantling.quantization.formats import IntegerFormat
from scantling.quantization.gptq import GptqSettings, gptq, inverse_factor
from scantling.quantization.grid import fit_grid
from scantling.quantization.round_to_nearest import round_to_nearest


def reference(weight, hessian, target, settings):
    """Optimal Brain Surgeon, column by column: after each column the inverse Hessian of the rest is recomputed."""
    width = weight.shape[1]
    group = target.group_width(width)
    hessian = hessian.double()
    damped = hessian + settings.damping * hessian.diagonal().mean() * torch.eye(width)
    importance = hessian.diagonal().unsqueeze(1).float()
    order = list(range(width))
    if settings.activation_order:
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist()
    work, codes, grids = weight.double().clone(), torch.zeros_like(weight, dtype=torch.uint8), {}

    def grid_of(g, values):
        part = slice(g * group, (g + 1) * group)
        return fit_grid(
            values[:, part].t().float(), target.bits, symmetric=target.symmetric, importance=importance[part]
        )

    if settings.activation_order:
        grids = {g: grid_of(g, weight) for g in range(width // group)}
    for position, j in enumerate(order):
        if not settings.activation_order and j % group == 0:
            grids[j // group] = grid_of(j // group, work)
        grid = grids[j // group]
        scale, zero = grid.scale.double(), grid.zero.double()
        code = (work[:, j] / scale + zero).round().clamp(0, 2**target.bits - 1)
        codes[:, j] = code
        rest = order[position:]
        inverse = torch.linalg.inv(damped[rest][:, rest])
        error = (work[:, j] - scale * (code - zero)) / inverse[0, 0]
        work[:, rest] -= error.unsqueeze(1) * inverse[0].unsqueeze(0)
    return codes


@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("target", [IntegerFormat(2, 32), IntegerFormat(3, 64, symmetric=True), IntegerFormat(4, None)])
def test_codes_match_the_definition(target, activation_order):
    torch.manual_seed(0)
    inputs = correlated_inputs(600, 64)
    hessian = inputs.t() @ inputs / 600
    weight = torch.randn(40, 64)
    settings = GptqSettings(0.01, activation_order)
    ours = gptq([weight], hessian, [target], settings)[0][0].codes
    same = (ours == reference(weight, hessian, target, settings)).float().mean()
    assert same > 0.995  # a tie may fall the other way in float32, and moves what follows in its row


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize(
    "target",
    [IntegerFormat(2, 32), IntegerFormat(3, 64, symmetric=True), IntegerFormat(4, None), IntegerFormat(8, 128)],
)
def test_in_float64_every_code_matches_the_definition(target, activation_order, seed):
    torch.manual_seed(seed)
    inputs = correlated_inputs(600, 128, seed).double()
    hessian = inputs.t() @ inputs / 600
    weight = torch.randn(40, 128).double()
    settings = GptqSettings(0.01, activation_order)
    ours = gptq([weight], hessian, [target], settings)[0][0]
    assert torch.equal(ours.codes, reference(weight, hessian, target, settings))


def test_the_factor_squares_to_the_damped_inverse():
    inputs = correlated_inputs(500, 48).double()
    hessian = inputs.t() @ inputs / 500
    factor = inverse_factor(hessian, 0.02).double()
    inverse = torch.linalg.inv(hessian + 0.02 * hessian.diagonal().mean() * torch.eye(48))
    assert torch.allclose(factor.t() @ factor, inverse, atol=1e-5 * float(inverse.abs().max()))
    assert torch.equal(factor, factor.triu())


@pytest.mark.parametrize("activation_order", [False, True])
def test_matrices_and_formats_rounded_together_are_as_alone(activation_order):
    torch.manual_seed(1)
    inputs = correlated_inputs(400, 128)
    hessian = inputs.t() @ inputs / 400
    matrices = [torch.randn(6, 128), torch.randn(10, 128)]
    formats = [
        IntegerFormat(2, 32),
        IntegerFormat(3, 64),
        IntegerFormat(4, 128, symmetric=True),
        IntegerFormat(8, None),
    ]
    settings = GptqSettings(0.05, activation_order)
    together = gptq(matrices, hessian, formats, settings)
    for matrix, records in zip(matrices, together, strict=True):
        for target, record in zip(formats, records, strict=True):
            alone = gptq([matrix], hessian, [target], settings)[0][0]
            assert record.format == target
            assert (alone.codes == record.codes).float().mean() > 0.99
            assert torch.allclose(alone.scales.float(), record.scales.float(), rtol=0.05)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("activation_order", [False, True])
def test_the_output_error_is_below_that_of_round_to_nearest(bits, activation_order):
    torch.manual_seed(2)
    inputs = correlated_inputs(2000, 128)
    hessian = inputs.t() @ inputs / 2000
    weight, target = torch.randn(32, 128), IntegerFormat(bits, 32)

    def error(rounded):
        return ((rounded.dequantize() - weight) @ inputs.t()).square().mean()

    by_gptq = gptq([weight], hessian, [target], GptqSettings(0.01, activation_order))[0][0]
    assert error(by_gptq) < 0.7 * error(round_to_nearest(weight, target))


def test_with_uncorrelated_inputs_gptq_is_round_to_nearest():
    torch.manual_seed(3)
    weight, target = torch.randn(8, 64), IntegerFormat(3, 32)
    ours = gptq([weight], torch.eye(64), [target], GptqSettings(0.01, activation_order=True))[0][0]
    assert torch.equal(ours.codes, round_to_nearest(weight, target).codes)


def test_weights_of_dead_inputs_are_rounded_plainly():
    torch.manual_seed(4)
    inputs = correlated_inputs(500, 64)
    inputs[:, [3, 17]] = 0
    weight = torch.randn(8, 64)
    rounded = gptq([weight], inputs.t() @ inputs / 500, [IntegerFormat(8, 32)], GptqSettings())[0][0]
    assert torch.isfinite(rounded.dequantize()).all()
    assert torch.all((rounded.dequantize() - weight)[:, [3, 17]].abs() < 0.05)


def test_a_layer_whose_inputs_are_all_zero_can_be_rounded():
    weight = torch.randn(4, 32)
    rounded = gptq([weight], torch.zeros(32, 32), [IntegerFormat(8, 32)], GptqSettings())[0][0]
    assert torch.all((rounded.dequantize() - weight).abs() < 0.05)


def test_inputs_that_are_not_finite_are_refused():
    hessian = torch.eye(32)
    hessian[0, 0] = torch.nan
    with pytest.raises(CalibrationError, match="not finite"):
        gptq([torch.randn(4, 32)], hessian, [IntegerFormat(4, 32)], GptqSettings())
