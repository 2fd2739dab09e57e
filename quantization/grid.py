"""The arithmetic of integer formats: fitting a grid to a group of weights, codes, and back.

Let w be a group of weights and b a width. With lo = min(w, 0) and hi = max(w, 0), the plain grid has the scale s =
(hi − lo) / (2^b − 1) and the zero point z = round(−lo / s). The clip search shrinks lo and hi by common factors r ≤
1 and keeps the r with the smallest Σ h (w − s(q − z))², h being the importance of each input. Scales are rounded to
float16 *before* codes are chosen, since that is what is stored.

Knows nothing about models or rounding methods.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import UnsupportedModelError
from .formats import FloatFormat, IntegerFormat
from .ggml import PackedMatrix

SMALLEST_SCALE = 2.0**-24  # the smallest positive float16
_CHUNK_ELEMENTS = 1 << 17  # of the clip search: its few temporaries stay in the cache


@dataclass(frozen=True)
class Grid:
    """Scales and zero points of groups; any matching shapes.

    Attributes:
        scale: float32 holding float16 values, positive.
        zero: float32 holding integers from 0 to 2^bits − 1.
    """

    scale: Tensor
    zero: Tensor


@dataclass(frozen=True)
class RoundedMatrix:
    """A matrix in an integer format: what is packed, and the values it stands for.

    Attributes:
        format: its format.
        codes: uint8 [out, in].
        scales: float16 [out, groups].
        zeros: uint8 [out, groups].
    """

    format: IntegerFormat
    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def dequantize(self) -> Tensor:
        """Compute the values s · (q − z), float32 [out, in]."""
        out_features, in_features = self.codes.shape
        grouped = self.codes.reshape(out_features, self.scales.shape[1], -1).float()
        grouped -= self.zeros.unsqueeze(2)
        grouped *= self.scales.float().unsqueeze(2)
        return grouped.reshape(out_features, in_features)


@dataclass(frozen=True)
class CastMatrix:
    """A matrix in a 16-bit format.

    Attributes:
        values: float16 or bfloat16 [out, in].
    """

    values: Tensor

    def dequantize(self) -> Tensor:
        """Give the values, float32 [out, in]."""
        return self.values.float()


CodedMatrix = RoundedMatrix | PackedMatrix
Rounded = CodedMatrix | CastMatrix


def cast(weight: Tensor, target: FloatFormat) -> CastMatrix:
    """Round a matrix to 16-bit floating point; raises UnsupportedModelError if a weight is beyond its range."""
    values = weight.to(torch.float16 if target.name == "float16" else torch.bfloat16)
    if not bool(torch.isfinite(values).all()):
        raise UnsupportedModelError(
            f"a weight of {weight.abs().max().item():.3g} does not fit {target.name}. "
            "Convert the checkpoint to bfloat16."
        )
    return CastMatrix(values)


def clip_factors(bits: int) -> tuple[float, ...]:
    """List the factors that the clip search tries, descending from 1; wide codes gain nothing from hard clipping."""
    lowest, steps = {2: (0.40, 24), 3: (0.50, 20), 4: (0.60, 16), 5: (0.75, 10), 6: (0.85, 6), 8: (0.95, 2)}[bits]
    return tuple(1.0 - (1.0 - lowest) * step / steps for step in range(steps + 1))


def quantize(values: Tensor, grid: Grid, largest_code: Tensor | float) -> Tensor:
    """Give the nearest codes, as floats.

    Args:
        values: any shape that the grid broadcasts to.
        grid: scales and zero points.
        largest_code: 2^bits − 1.

    Returns:
        Integers from 0 to ``largest_code`` in float32.
    """
    codes = values / grid.scale
    codes += grid.zero
    codes.round_()
    if isinstance(largest_code, Tensor):
        return torch.minimum(codes.clamp_min_(0.0), largest_code, out=codes)
    return codes.clamp_(0.0, largest_code)


def _grid_of_range(low: Tensor, high: Tensor, bits: int, *, symmetric: bool) -> Grid:
    steps = 2**bits - 1
    scale = torch.maximum(-low, high) * (2.0 / steps) if symmetric else (high - low) / steps
    scale = scale.clamp_min(SMALLEST_SCALE).half().float()
    if symmetric:
        return Grid(scale, torch.full_like(scale, 2.0 ** (bits - 1)))
    return Grid(scale, (-low / scale).round_().clamp_(0, steps))


def plain_grid(values: Tensor, bits: int, *, symmetric: bool) -> Grid:
    """Fit one grid to every column of values, without clipping.

    Args:
        values: float32 [group_width, num_groups], one group a column.
        bits: width of the codes.
        symmetric: whether the zero point is fixed in the middle.

    Returns:
        Scales and zero points, each [num_groups].
    """
    low, high = values.amin(0).clamp_max_(0.0), values.amax(0).clamp_min_(0.0)
    return _grid_of_range(low, high, bits, symmetric=symmetric)


def fit_grid(values: Tensor, bits: int, *, symmetric: bool, importance: Tensor | None) -> Grid:
    """Fit one grid to every column of values, with a clip search.

    Args:
        values: float32 [group_width, num_groups], one group a column.
        bits: width of the codes.
        symmetric: whether the zero point is fixed in the middle.
        importance: [group_width, 1] or [group_width, num_groups], the weight of each squared error; None for equal.

    Returns:
        Scales and zero points, each [num_groups].

    Raises:
        UnsupportedModelError: a scale is beyond float16.
    """
    width = max(1, _CHUNK_ELEMENTS // values.shape[0])
    parts = []
    for start in range(0, values.shape[1], width):
        chunk = slice(start, start + width)
        weight = None if importance is None else (importance if importance.shape[1] == 1 else importance[:, chunk])
        parts.append(_search_clip(values[:, chunk], bits, symmetric=symmetric, importance=weight))
    grid = Grid(torch.cat([part.scale for part in parts]), torch.cat([part.zero for part in parts]))
    if not bool(torch.isfinite(grid.scale).all()):
        raise UnsupportedModelError(
            f"weights as large as {values.abs().max().item():.3g} need a scale beyond float16. "
            "Leave this layer in 16 bits."
        )
    return grid


def _search_clip(values: Tensor, bits: int, *, symmetric: bool, importance: Tensor | None) -> Grid:
    low = values.amin(0).clamp_max_(0.0)
    high = values.amax(0).clamp_min_(0.0)
    best = plain_grid(values, bits, symmetric=symmetric)
    best_error = torch.full_like(low, torch.inf)
    for factor in clip_factors(bits):
        grid = _grid_of_range(low * factor, high * factor, bits, symmetric=symmetric)
        error = quantize(values, grid, 2.0**bits - 1)
        error.sub_(grid.zero).mul_(grid.scale).sub_(values).square_()
        if importance is not None:
            error.mul_(importance)
        error_of_group = error.sum(0)
        better = error_of_group < best_error
        best_error = torch.where(better, error_of_group, best_error)
        best = Grid(torch.where(better, grid.scale, best.scale), torch.where(better, grid.zero, best.zero))
    return best
