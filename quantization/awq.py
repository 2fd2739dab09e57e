"""AWQ (Lin et al. 2023, arXiv 2306.00978): scale up the weights of important inputs, so that rounding spares them.

Multiplying column j of every matrix that reads an input by s_j > 0, and dividing that input by s_j, changes nothing.
The division is folded into whatever produces the input (a norm, or the matrix before), so the checkpoint needs no
special kernel. With m_j the root mean square of input j and w_j the mean absolute weight of its column, candidates are

    s_j = m_j^α            and          s_j = m_j^α / w_j^(1−α),       α on a grid of [0, 1],

normalized to geometric mean 1 and clamped to [1e-4, 1e4]. For each candidate the matrices are rounded plainly to every
requested format, and the output errors, tr(ΔW H ΔWᵀ) with H the mean of x xᵀ, are summed relative to those of
the unscaled matrices; the smallest sum wins. One s serves all formats: inputs are scaled once, before formats are
chosen.

Knows nothing about models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .formats import IntegerFormat
from .grid import Grid, plain_grid, quantize

_LARGEST_SCALE = 1e4
_SMALLEST = 1e-12


@dataclass(frozen=True)
class AwqSettings:
    """How AWQ searches.

    Attributes:
        num_steps: values of α, from 0 to (num_steps − 1) / num_steps.
        widest_bits: formats wider than this lose next to nothing and are left out of the search, unless there are no
            others.
    """

    num_steps: int = 10
    widest_bits: int = 4


def awq_scales(
    matrices: Sequence[Tensor],
    hessian: Tensor,
    formats: Sequence[IntegerFormat],
    settings: AwqSettings,
    tied: Callable[[Tensor], Tensor],
) -> Tensor:
    """Search the scales of one input.

    Args:
        matrices: float32 [out_m, in], all that read the input.
        hessian: [in, in], mean of x xᵀ over tokens.
        formats: the requested formats.
        settings: the grid of the search.
        tied: makes scales equal where one scale serves several inputs.

    Returns:
        s, float32 [in]; all ones if no candidate beats the unscaled matrices.
    """
    narrow = [target for target in formats if target.bits <= settings.widest_bits] or list(formats)
    stacked = torch.cat(list(matrices))
    unscaled = torch.ones(stacked.shape[1])
    plain_errors = [_error(stacked, unscaled, hessian, target) for target in narrow]
    best, best_total = unscaled, float(len(narrow))
    for scales in map(tied, _candidates(stacked, hessian, settings)):
        total = sum(
            _error(stacked, scales, hessian, target) / max(plain, _SMALLEST)
            for target, plain in zip(narrow, plain_errors, strict=True)
        )
        if total < best_total:
            best, best_total = scales, total
    return best


def _candidates(stacked: Tensor, hessian: Tensor, settings: AwqSettings) -> list[Tensor]:
    magnitude = hessian.diagonal().float().clamp_min(_SMALLEST).sqrt()
    weight = stacked.abs().mean(0).clamp_min(_SMALLEST)
    found = []
    for step in range(settings.num_steps):
        share = step / settings.num_steps
        found += [_centred(magnitude**share / weight ** (1 - share))]
        if step:
            found += [_centred(magnitude**share)]
    return found


def _centred(scales: Tensor) -> Tensor:
    """Normalize scales to geometric mean 1 and clamp outliers."""
    return (scales / scales.log().mean().exp()).clamp(1 / _LARGEST_SCALE, _LARGEST_SCALE)


def _error(stacked: Tensor, scales: Tensor, hessian: Tensor, target: IntegerFormat) -> float:
    """Round W·diag(s) plainly and compute tr(ΔW H ΔWᵀ) of the resulting change to W."""
    width = target.group_width(stacked.shape[1])
    scaled = stacked * scales
    groups = scaled.reshape(-1, width).t()
    grid = plain_grid(groups, target.bits, symmetric=target.symmetric)
    codes = quantize(groups, grid, 2.0**target.bits - 1)
    delta = _values(codes, grid).t().reshape(scaled.shape).sub_(scaled).div_(scales)
    return float((delta @ hessian).mul_(delta).sum(dtype=torch.float64))


def _values(codes: Tensor, grid: Grid) -> Tensor:
    return codes.sub_(grid.zero).mul_(grid.scale)
