"""Round-to-nearest with a clip search.

Knows nothing about models.
"""

import torch
from torch import Tensor

from .formats import IntegerFormat
from .grid import Grid, RoundedMatrix, fit_grid, quantize


def round_to_nearest(weight: Tensor, target: IntegerFormat, importance: Tensor | None = None) -> RoundedMatrix:
    """Round every weight to the nearest point of its group's grid.

    Args:
        weight: float32 [out, in].
        target: the format.
        importance: [in], the weight of each input's squared error in the clip search; None for equal.

    Returns:
        Codes, scales and zero points.
    """
    out_features, in_features = weight.shape
    width = target.group_width(in_features)
    groups = weight.reshape(-1, width).t()
    if importance is not None:
        importance = importance.reshape(-1, width).t().repeat(1, out_features)
    grid = fit_grid(groups, target.bits, symmetric=target.symmetric, importance=importance)
    codes = quantize(groups, grid, 2.0**target.bits - 1)
    return pack_record(target, codes.t().reshape(out_features, in_features), grid)


def pack_record(target: IntegerFormat, codes: Tensor, grid: Grid) -> RoundedMatrix:
    """Convert codes and a grid to the types that are stored.

    Args:
        target: the format.
        codes: integers [out, in] in float32.
        grid: [out · groups], the groups of a row side by side.

    Returns:
        The record.
    """
    rows = codes.shape[0]
    return RoundedMatrix(
        format=target,
        codes=codes.to(torch.uint8).contiguous(),
        scales=grid.scale.reshape(rows, -1).half(),
        zeros=grid.zero.reshape(rows, -1).to(torch.uint8),
    )
