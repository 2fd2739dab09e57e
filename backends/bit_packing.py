"""Codes of b bits side by side in 32-bit words: a little-endian bit stream.

Code i of a row occupies bits i·b to (i+1)·b − 1 of its stream, the lowest first; bit k of the stream is bit k mod 32 of
word ⌊k / 32⌋. A code may straddle two words (3, 5, 6 bits). The last word of a row is padded with zeros.

Knows nothing about formats or checkpoints.
"""

import torch
from torch import Tensor

WORD_BITS = 32
_WORD_MASK = (1 << WORD_BITS) - 1


def num_words(num_codes: int, bits: int) -> int:
    """Count the words of a row: ⌈num_codes · bits / 32⌉.

    Args:
        num_codes: in the row.
        bits: of each.

    Returns:
        The number of words.

    >>> num_words(32, 3), num_words(33, 4)
    (3, 5)
    """
    return -(-num_codes * bits // WORD_BITS)


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack every row of codes.

    Args:
        codes: integers from 0 to 2^bits − 1, [rows, n].
        bits: of each code.

    Returns:
        int32 [rows, ⌈n · bits / 32⌉].

    >>> pack_rows(torch.tensor([[1, 2, 3]]), 4)  # 0x321
    tensor([[801]], dtype=torch.int32)
    """
    rows, num_codes = codes.shape
    num_runs = -(-num_codes // WORD_BITS)  # 32 codes fill exactly ``bits`` words
    padded = torch.zeros(rows, num_runs * WORD_BITS, dtype=torch.uint8)
    padded[:, :num_codes] = codes
    runs = padded.reshape(rows, num_runs, WORD_BITS)
    words = torch.zeros(rows, num_runs, bits, dtype=torch.int64)
    for index in range(WORD_BITS):
        word, offset = divmod(index * bits, WORD_BITS)
        code = runs[:, :, index].long() << offset
        words[:, :, word] |= code & _WORD_MASK
        if offset + bits > WORD_BITS:
            words[:, :, word + 1] |= code >> WORD_BITS
    return _as_int32(words).reshape(rows, -1)[:, : num_words(num_codes, bits)].contiguous()


def unpack_rows(words: Tensor, bits: int, num_codes: int) -> Tensor:
    """Read the codes back.

    Args:
        words: int32 [rows, ⌈num_codes · bits / 32⌉].
        bits: of each code.
        num_codes: in each row.

    Returns:
        uint8 [rows, num_codes].

    >>> unpack_rows(torch.tensor([[801]], dtype=torch.int32), 4, 3)
    tensor([[1, 2, 3]], dtype=torch.uint8)
    """
    rows = words.shape[0]
    num_runs = -(-num_codes // WORD_BITS)
    padded = torch.zeros(rows, num_runs * bits, dtype=torch.int64)
    padded[:, : words.shape[1]] = words.long() & _WORD_MASK
    runs = padded.reshape(rows, num_runs, bits)
    codes = torch.empty(rows, num_runs, WORD_BITS, dtype=torch.uint8)
    for index in range(WORD_BITS):
        word, offset = divmod(index * bits, WORD_BITS)
        code = runs[:, :, word] >> offset
        if offset + bits > WORD_BITS:
            code = code | (runs[:, :, word + 1] << (WORD_BITS - offset))
        codes[:, :, index] = code & (2**bits - 1)
    return codes.reshape(rows, -1)[:, :num_codes].contiguous()


def _as_int32(words: Tensor) -> Tensor:
    """Reinterpret unsigned 32-bit values that are held in int64."""
    return torch.where(words >= 1 << (WORD_BITS - 1), words - (1 << WORD_BITS), words).int()
