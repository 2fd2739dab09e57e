"""Codes of b bits as planes: GPTQModel's layout ``gptq_p``, in which no code straddles two words.

A code is split into a low plane of 4 bits (2 bits where b = 3) and higher planes of the widths below. For every 32
codes the words of the low plane come first, then those of the higher planes; within a plane of width w each word holds
32 / w codes, the first lowest. Codes of 2, 4 and 8 bits have one plane, which equals the bit stream.

Knows nothing about formats or checkpoints.
"""

import torch
from torch import Tensor

from .bit_packing import WORD_BITS, num_words, pack_rows, unpack_rows

_PLANE_WIDTHS = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}


def pack_planes(codes: Tensor, bits: int) -> Tensor:
    """Pack every row of codes.

    Args:
        codes: uint8 from 0 to 2^bits − 1, [rows, n] with n a multiple of 32.
        bits: of each code.

    Returns:
        int32 [rows, n · bits / 32].

    >>> codes = torch.zeros(1, 32, dtype=torch.uint8)
    >>> codes[0, 1] = 0b10011  # low plane 0011, high plane 1
    >>> pack_planes(codes, 5).tolist()
    [[48, 0, 0, 0, 2]]
    """
    rows = codes.shape[0]
    runs = codes.reshape(-1, WORD_BITS)
    planes, offset = [], 0
    for width in _PLANE_WIDTHS[bits]:
        planes.append(pack_rows((runs >> offset) & (2**width - 1), width))
        offset += width
    return torch.cat(planes, dim=1).reshape(rows, -1)


def unpack_planes(words: Tensor, bits: int, num_codes: int) -> Tensor:
    """Read the codes back.

    Args:
        words: int32 [rows, num_codes · bits / 32].
        bits: of each code.
        num_codes: in each row, a multiple of 32.

    Returns:
        uint8 [rows, num_codes].
    """
    rows = words.shape[0]
    runs = words.reshape(-1, bits)
    codes = torch.zeros(len(runs), WORD_BITS, dtype=torch.uint8)
    offset = first = 0
    for width in _PLANE_WIDTHS[bits]:
        last = first + num_words(WORD_BITS, width)
        codes |= unpack_rows(runs[:, first:last], width, WORD_BITS) << offset
        first, offset = last, offset + width
    return codes.reshape(rows, num_codes)
