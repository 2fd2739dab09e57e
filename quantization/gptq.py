"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): round column by column, the rest of a row compensating for each error.

Let H = mean of x xᵀ over calibration tokens (the paper's factor 2 changes nothing), damped by a share of its mean
diagonal, and U the upper Cholesky factor of H⁻¹, so that H⁻¹ = Uᵀ U. Going through the columns j,

    e = (w_j − round(w_j)) / U_jj          w_k ← w_k − e U_jk   for k > j.

Rows never interact, and the pass depends on the inputs only through U: all matrices that share an input, in all
formats, are rows of one pass. Weights are kept transposed, so that a column is contiguous.

Knows nothing about models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..common.errors import CalibrationError
from .formats import IntegerFormat
from .grid import Grid, RoundedMatrix, fit_grid, quantize
from .round_to_nearest import pack_record

_BLOCK_COLUMNS = 32
_ROWS_PER_PASS = 16384


@dataclass(frozen=True)
class GptqSettings:
    """How GPTQ is run.

    Attributes:
        damping: the share of H's mean diagonal that is added to its diagonal.
        activation_order: whether columns are visited by descending diagonal of H, on grids fitted to the original
            weights.
    """

    damping: float = 0.05
    activation_order: bool = True


@dataclass
class _Segment:
    """The rows of one format in a pass, and their grids as they are fitted."""

    target: IntegerFormat
    rows: slice
    width: int
    grids: list[Grid]


def without_dead_inputs(hessian: Tensor) -> Tensor:
    """Treat inputs that are always zero as average ones, so that their weights are rounded plainly.

    Args:
        hessian: [in, in], symmetric positive semi-definite.

    Returns:
        float64 [in, in], with a positive diagonal.

    Raises:
        CalibrationError: not a finite matrix.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise CalibrationError("the inputs of a layer are not finite: its activations contain NaN or infinity.")
    matrix = hessian.double().clone()
    diagonal = matrix.diagonal()
    dead = diagonal <= 0
    diagonal[dead] = 1.0 if bool(dead.all()) else diagonal[~dead].mean()
    return matrix


def inverse_factor(matrix: Tensor, damping: float) -> Tensor:
    """Compute U, the upper Cholesky factor of the damped inverse.

    Args:
        matrix: H, [in, in], with a positive diagonal.
        damping: the share of H's mean diagonal that is added to its diagonal.

    Returns:
        U [in, in], float64, with (H + damping · mean · I)⁻¹ = Uᵀ U.

    Raises:
        CalibrationError: not positive definite even when damped.
    """
    matrix = matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise CalibrationError(
            "the mean of x xᵀ over a layer's inputs is not positive definite even when damped. Use more text "
            "or a larger damping."
        )
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return factor


def gptq(
    matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[IntegerFormat], settings: GptqSettings
) -> list[list[RoundedMatrix]]:
    """Round matrices that share their input, each to every format.

    Args:
        matrices: [out_m, in] each, float32, or float64 to compute in that.
        hessian: [in, in], mean of x xᵀ over tokens.
        formats: the formats.
        settings: damping and order.

    Returns:
        For each matrix, one record per format.
    """
    order = visiting_order(hessian, settings)
    matrix = without_dead_inputs(hessian)
    stacked = torch.cat(list(matrices)).t().contiguous()
    factor = inverse_factor(matrix[order][:, order], settings.damping).to(stacked.dtype)
    importance = matrix.diagonal().to(stacked.dtype).unsqueeze(1)
    rows_at_once = max(1, _ROWS_PER_PASS // len(formats))
    parts = [
        _one_pass(stacked[:, start : start + rows_at_once], factor, order, importance, formats, settings)
        for start in range(0, stacked.shape[1], rows_at_once)
    ]
    rounded = [_concatenate([part[f] for part in parts]) for f in range(len(formats))]
    edges = [0, *torch.tensor([matrix.shape[0] for matrix in matrices]).cumsum(0).tolist()]
    return [[_rows(whole, start, stop) for whole in rounded] for start, stop in pairwise(edges)]


def visiting_order(hessian: Tensor, settings: GptqSettings) -> Tensor:
    """Give the order in which columns are visited, int64 [in]."""
    if settings.activation_order:
        return torch.argsort(hessian.diagonal(), descending=True, stable=True)
    return torch.arange(len(hessian))


def _one_pass(
    columns: Tensor,
    factor: Tensor,
    order: Tensor,
    importance: Tensor,
    formats: Sequence[IntegerFormat],
    settings: GptqSettings,
) -> list[RoundedMatrix]:
    """Round one stack of rows [in, rows] to every format."""
    in_features, num_rows = columns.shape
    segments = [
        _Segment(target, slice(f * num_rows, (f + 1) * num_rows), target.group_width(in_features), [])
        for f, target in enumerate(formats)
    ]
    work = columns.repeat(1, len(formats))
    if settings.activation_order:
        for segment in segments:
            for start in range(0, in_features, segment.width):
                segment.grids.append(_fit(columns[start : start + segment.width], segment, importance, start))
        work = work[order]
    largest_code = torch.cat([torch.full((num_rows,), 2.0**segment.target.bits - 1) for segment in segments])
    codes = _sweep(work, factor, order, importance, segments, largest_code)
    natural = torch.empty_like(codes)
    natural[order] = codes
    return [pack_record(segment.target, natural[:, segment.rows].t(), _by_row(segment.grids)) for segment in segments]


def _sweep(
    work: Tensor,
    factor: Tensor,
    order: Tensor,
    importance: Tensor,
    segments: Sequence[_Segment],
    largest_code: Tensor,
) -> Tensor:
    """Visit the columns of work [in, rows] in order and return the codes [in, rows]; overwrites work."""
    codes = torch.empty_like(work, dtype=torch.uint8)
    natural_order = order.tolist()
    grids_are_static = all(segment.grids for segment in segments)
    scale, zero = torch.empty_like(work[0]), torch.empty_like(work[0])

    def rounded(j: int, column: Tensor) -> Tensor:
        for segment in segments:
            group, offset = divmod(natural_order[j], segment.width)
            if not grids_are_static and offset == 0:
                segment.grids.append(_fit(work[j : j + segment.width, segment.rows], segment, importance, j))
            if grids_are_static or offset == 0:
                scale[segment.rows] = segment.grids[group].scale
                zero[segment.rows] = segment.grids[group].zero
        code = quantize(column, Grid(scale, zero), largest_code)
        codes[j] = code
        return code.sub_(zero).mul_(scale)

    visit_columns(work, factor, _block_edges(work.shape[0], segments), rounded)
    return codes


def visit_columns(work: Tensor, factor: Tensor, edges: Sequence[int], rounded: Callable[[int, Tensor], Tensor]) -> None:
    """Round the columns one after the other, later ones compensating for each error.

    Args:
        work: [in, rows], a matrix's columns in the order of the visit; overwritten.
        factor: U [in, in], in the same order.
        edges: where blocks of columns begin and end, from 0 to in; errors reach later blocks when a block ends.
        rounded: gives the rounded values [rows] of the column at a position of the order.
    """
    for start, stop in pairwise(edges):
        errors = torch.empty_like(work[start:stop])
        for j in range(start, stop):
            column = work[j]
            error = column.sub_(rounded(j, column)).div_(factor[j, j])
            errors[j - start] = error
            if j + 1 < stop:
                work[j + 1 : stop].addr_(factor[j, j + 1 : stop], error, alpha=-1.0)
        if stop < len(work):
            work[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1.0)


def _fit(group: Tensor, segment: _Segment, importance: Tensor, start: int) -> Grid:
    return fit_grid(
        group,
        segment.target.bits,
        symmetric=segment.target.symmetric,
        importance=importance[start : start + segment.width],
    )


def _block_edges(in_features: int, segments: Sequence[_Segment]) -> list[int]:
    """Cut the columns into blocks that end at every group's end, so that grids are fitted to up-to-date weights."""
    edges = set(usual_edges(in_features))
    for segment in segments:
        edges |= set(range(0, in_features, segment.width))
    return sorted(edges)


def usual_edges(in_features: int) -> list[int]:
    """Cut columns into blocks of a size that suits the caches; positions from 0 to ``in_features``."""
    return [*range(0, in_features, _BLOCK_COLUMNS), in_features]


def _by_row(grids: Sequence[Grid]) -> Grid:
    """Turn one grid [rows] per group into [rows · groups], the groups of a row side by side."""
    return Grid(
        torch.stack([grid.scale for grid in grids], dim=1).reshape(-1),
        torch.stack([grid.zero for grid in grids], dim=1).reshape(-1),
    )


def _rows(whole: RoundedMatrix, start: int, stop: int) -> RoundedMatrix:
    return RoundedMatrix(whole.format, whole.codes[start:stop], whole.scales[start:stop], whole.zeros[start:stop])


def _concatenate(parts: Sequence[RoundedMatrix]) -> RoundedMatrix:
    return RoundedMatrix(
        parts[0].format,
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.zeros for part in parts]),
    )
