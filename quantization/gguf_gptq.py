"""GPTQ on the blocks of GGUF types: the C library's scales, and codes that compensate for each other's errors.

The library fits the scales of every block to the original weights, with the diagonal of H as importance matrix. Then
the codes are chosen anew on these scales, column by column as in the module gptq. The blocks stay what every llama.cpp
reads. Types whose codes stand for several weights (module gguf_codes) are left as the library rounds them.

Knows nothing about models.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from .ggml import PackedMatrix, quantize_matrix, validate_blocks
from .gguf_codes import CodeLayout, codes_of
from .gguf_types import GgufFormat
from .gptq import GptqSettings, inverse_factor, usual_edges, visit_columns, visiting_order, without_dead_inputs

_ROWS_AT_ONCE = 4096


def gptq_blocks(
    matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[GgufFormat], settings: GptqSettings
) -> list[list[PackedMatrix]]:
    """Round matrices that share their input, each to every type.

    Args:
        matrices: float32 [out_m, in] each.
        hessian: [in, in], mean of x xᵀ over tokens.
        formats: the types.
        settings: damping and order.

    Returns:
        For each matrix, one record per type.
    """
    order, matrix = visiting_order(hessian, settings), without_dead_inputs(hessian)
    factor = inverse_factor(matrix[order][:, order], settings.damping).float()
    importance, stacked = hessian.diagonal().float().contiguous(), torch.cat(list(matrices))
    edges = [0, *accumulate(len(matrix) for matrix in matrices)]
    rounded = []
    for target in formats:
        plain, codes = quantize_matrix(stacked, target, importance), codes_of(target)
        whole = plain if codes is None else _with_feedback(stacked, plain, codes, factor, order)
        rounded.append([PackedMatrix(target, whole.blocks[start:stop], importance) for start, stop in pairwise(edges)])
    return [list(of_matrix) for of_matrix in zip(*rounded, strict=True)]


def _with_feedback(
    weight: Tensor, plain: PackedMatrix, codes: CodeLayout, factor: Tensor, order: Tensor
) -> PackedMatrix:
    """Choose all codes of a record anew on its scales."""
    parts = []
    for rows, blocks in zip(torch.split(weight, _ROWS_AT_ONCE), torch.split(plain.blocks, _ROWS_AT_ONCE), strict=True):
        record = PackedMatrix(plain.format, blocks, plain.importance)
        lowest, highest = (values.t()[order] for values in codes.ends(record))
        words = torch.empty_like(lowest, dtype=torch.uint8)
        words[order] = _sweep(rows.t()[order], factor, (lowest, highest - lowest), codes)
        parts.append(codes.write(record, words.t()).blocks)
    whole = PackedMatrix(plain.format, torch.cat(parts), plain.importance)
    validate_blocks(whole)
    return whole


def _sweep(work: Tensor, factor: Tensor, scales: tuple[Tensor, Tensor], codes: CodeLayout) -> Tensor:
    """Visit the columns of work [in, rows] and return the codes [in, rows]; overwrites work."""
    lowest, spans = scales
    divisors = torch.where(spans == 0, torch.ones(()), spans)  # where all codes have the same value, any will do
    middles = (codes.levels[1:] + codes.levels[:-1]) / 2
    words = torch.empty_like(work, dtype=torch.uint8)

    def rounded(j: int, column: Tensor) -> Tensor:
        level = torch.bucketize((column - lowest[j]).div_(divisors[j]), middles)
        words[j] = codes.words[level]
        return codes.levels[level].mul_(spans[j]).add_(lowest[j])

    visit_columns(work, factor, usual_edges(len(work)), rounded)
    return words
