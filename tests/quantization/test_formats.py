"""Formats: sizes against packed bits, grids against brute force."""

import numpy as np
import pytest
import torch

from scantling.common.errors import ScantlingError
from scantling.quantization.formats import FLOAT_FORMATS, GROUP_SIZES, INTEGER_BITS, IntegerFormat, parse_format
from scantling.quantization.grid import cast, clip_factors, fit_grid
from scantling.quantization.round_to_nearest import round_to_nearest

ALL = [
    IntegerFormat(bits, group, symmetric)
    for bits in INTEGER_BITS
    for group in (*GROUP_SIZES, None)
    for symmetric in (False, True)
]


def packed_bytes(codes: torch.Tensor, bits: int) -> int:
    """Pack every row's codes into a bit stream of whole bytes and count."""
    as_bits = (codes.numpy()[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(as_bits.reshape(len(codes), -1).astype(np.uint8), axis=1).size


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
@pytest.mark.parametrize("shape", [(3, 128), (5, 384)])
def test_stored_bytes_are_those_of_the_packed_parts(target, shape):
    torch.manual_seed(0)
    rounded = round_to_nearest(torch.randn(shape), target)
    size = packed_bytes(rounded.codes, target.bits) + rounded.scales.numel() * rounded.scales.element_size()
    if not target.symmetric:
        size += packed_bytes(rounded.zeros, target.bits)
    assert target.stored_bytes(*shape) == size


def test_a_ragged_row_takes_whole_bytes():
    assert IntegerFormat(3, None, symmetric=True).stored_bytes(7, 5) == 7 * (2 + 2)


@pytest.mark.parametrize("target", [*ALL, *FLOAT_FORMATS.values()], ids=lambda target: target.name)
def test_a_name_parses_to_its_format(target):
    assert parse_format(target.name) == target


@pytest.mark.parametrize("name", ["int7-g64", "int4-g48", "int4", "fp8", "", "int4-g64-asym", "INT4-g64", "int16-g64"])
def test_an_unknown_format_is_refused(name):
    with pytest.raises(ScantlingError, match=r"not (a format|offered)"):
        parse_format(name)


def test_a_group_that_does_not_divide_the_width_is_refused_with_those_that_do():
    with pytest.raises(ScantlingError, match=r"groups of 128 do not divide the input width 576.*g32, g64, row"):
        IntegerFormat(4, 128).stored_bytes(8, 576)


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_every_weight_is_rounded_to_the_nearest_grid_point(target):
    torch.manual_seed(1)
    weight = torch.randn(4, 128) * torch.logspace(-4, 2, 4).unsqueeze(1)
    rounded = round_to_nearest(weight, target)
    width = target.group_width(128)
    scale = rounded.scales.double().repeat_interleave(width, 1)
    zero = rounded.zeros.double().repeat_interleave(width, 1)
    points = (torch.arange(2**target.bits).double() - zero.unsqueeze(2)) * scale.unsqueeze(2)
    distance = (points - weight.double().unsqueeze(2)).abs()
    chosen = distance.gather(2, rounded.codes.long().unsqueeze(2)).squeeze(2)
    assert torch.all(chosen <= distance.amin(2) * (1 + 1e-5) + 1e-12)
    assert torch.allclose(rounded.dequantize().double(), (rounded.codes.double() - zero) * scale, rtol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", INTEGER_BITS)
def test_the_clip_search_finds_the_best_of_its_factors(bits, symmetric):
    torch.manual_seed(2)
    values, importance = torch.randn(64, 9).double(), torch.rand(64, 1).double()
    grid = fit_grid(values.float(), bits, symmetric=symmetric, importance=importance.float())

    def error(scale, zero):
        codes = (values / scale + zero).round().clamp(0, 2**bits - 1)
        return (importance * (scale * (codes - zero) - values).square()).sum(0)

    low, high = values.amin(0).clamp(max=0), values.amax(0).clamp(min=0)
    best = torch.full((9,), torch.inf).double()
    for factor in clip_factors(bits):
        if symmetric:
            scale = (factor * 2 * torch.maximum(-low, high) / (2**bits - 1)).half().double()
            zero = torch.full_like(scale, 2 ** (bits - 1))
        else:
            scale = (factor * (high - low) / (2**bits - 1)).half().double()
            zero = (-factor * low / scale).round().clamp(0, 2**bits - 1)
        best = torch.minimum(best, error(scale, zero))
    assert torch.allclose(error(grid.scale.double(), grid.zero.double()), best, rtol=1e-3)


def test_the_clip_search_is_never_worse_than_the_plain_grid():
    torch.manual_seed(3)
    values = torch.randn(64, 200)
    grid = fit_grid(values, 3, symmetric=False, importance=None)
    scale = ((values.amax(0) - values.amin(0)) / 7).half().float()
    zero = (-values.amin(0) / scale).round()

    def error(scale, zero):
        return (((values / scale + zero).round().clamp(0, 7) - zero) * scale - values).square().sum(0)

    assert torch.all(error(grid.scale, grid.zero) <= error(scale, zero) * (1 + 1e-5))
    assert error(grid.scale, grid.zero).sum() < 0.9 * error(scale, zero).sum()


@pytest.mark.parametrize("symmetric", [False, True])
def test_an_all_zero_group_stays_zero(symmetric):
    weight = torch.zeros(3, 64)
    assert torch.equal(round_to_nearest(weight, IntegerFormat(2, 32, symmetric)).dequantize(), weight)


def test_one_sided_and_tiny_weights_are_kept_to_the_grid():
    weight = torch.stack([torch.linspace(1e-9, 2e-9, 32), torch.linspace(5, 6, 32), torch.linspace(-6, -5, 32)])
    rounded = round_to_nearest(weight, IntegerFormat(8, 32))
    assert torch.all((rounded.dequantize() - weight).abs()[1:] <= 6 / 255 * 0.51)
    assert torch.all(rounded.dequantize()[0].abs() <= 2e-9)


def test_weights_beyond_the_scale_s_range_are_refused():
    with pytest.raises(ScantlingError, match="beyond float16"):
        round_to_nearest(torch.full((1, 32), 1e9), IntegerFormat(2, 32))
    with pytest.raises(ScantlingError, match="does not fit float16"):
        cast(torch.full((1, 32), 1e9), FLOAT_FORMATS["float16"])


def test_a_cast_is_the_nearest_value():
    values = torch.randn(3, 5)
    assert torch.equal(cast(values, FLOAT_FORMATS["bfloat16"]).dequantize(), values.bfloat16().float())
