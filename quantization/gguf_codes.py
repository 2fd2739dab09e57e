"""Where the blocks of a GGUF type hold the code of each weight, found by probing the C library.

A block is scales and, for every weight, a code of a few bits. A bit belongs to a weight's code if flipping it changes
the value that the library reads for this weight and for no other. So codes can be replaced without a description of any
layout, and types that the library learns tomorrow work too. With the scales left as they are,

    value = lowest + (highest − lowest) · level[code],

where lowest and highest are the values of two codes and the levels from 0 to 1 are the type's own: equal steps, or a
table such as that of IQ4_NL. Codes that the library's quantizer never writes are not used (−128 of Q8_0).

IQ1, IQ2, IQ3 and TQ1_0 have no such codes: there a code stands for several weights, and at most a sign for one.

Knows nothing about models or rounding methods.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .ggml import PackedMatrix, quantize_matrix
from .gguf_types import GgufFormat

_PROBES = 16
_SAMPLES = 1 << 17
_WEIGHTS_AT_ONCE = 1 << 21
_RUN = 8  # neighbouring weights that share a scale in every type; where a code is only a sign, their values differ
_SAME = 1e-5  # of a span, for the library's arithmetic in float32


@dataclass(frozen=True)
class CodeLayout:
    """The codes of a type.

    Attributes:
        bits: int64 [block_weights, width], the positions of each weight's bits in a block, lowest first.
        words: uint8 [levels], the codes in the order of their levels.
        levels: float32 [levels], from 0 to 1, ascending.
    """

    bits: Tensor
    words: Tensor
    levels: Tensor

    def read(self, record: PackedMatrix) -> Tensor:
        """Read the codes of a matrix, uint8 [out, in]."""
        unpacked = _unpack(record.blocks.reshape(-1, record.format.block_bytes))
        places = 1 << torch.arange(self.bits.shape[1])
        found = (unpacked[:, self.bits].long() * places).sum(-1)
        return found.to(torch.uint8).reshape(len(record.blocks), -1)

    def write(self, record: PackedMatrix, words: Tensor) -> PackedMatrix:
        """Replace a matrix's codes by words, uint8 [out, in]; its scales are kept."""
        target, rows = record.format, max(1, _WEIGHTS_AT_ONCE // record.in_features)
        parts = []
        for blocks, row_words in zip(torch.split(record.blocks, rows), torch.split(words, rows), strict=True):
            unpacked = _unpack(blocks.reshape(-1, target.block_bytes))
            grouped = row_words.reshape(-1, target.block_weights)
            for place in range(self.bits.shape[1]):
                unpacked[:, self.bits[:, place]] = (grouped >> place) & 1
            parts.append(_pack(unpacked).reshape(blocks.shape))
        return PackedMatrix(target, torch.cat(parts), record.importance)

    def ends(self, record: PackedMatrix) -> tuple[Tensor, Tensor]:
        """Give the values of the lowest and the highest code at every weight, twice float32 [out, in]."""
        shape = (len(record.blocks), record.in_features)
        first, last = (self.write(record, word.expand(shape)).dequantize() for word in (self.words[0], self.words[-1]))
        return first, last


@cache
def codes_of(target: GgufFormat) -> CodeLayout | None:
    """Find the codes of a type; None where a code does not stand for exactly one weight."""
    probe = _sample(target, _PROBES)
    bits = _bits_of_weights(probe)
    if bits is None:
        return None
    all_codes = CodeLayout(bits, torch.arange(1 << bits.shape[1], dtype=torch.uint8), torch.zeros(0))
    shape = (_PROBES, target.block_weights)
    values = torch.stack([all_codes.write(probe, word.expand(shape)).dequantize() for word in all_codes.words]).double()
    runs = values.reshape(*values.shape[:2], -1, _RUN)
    if not torch.equal(runs, runs[..., :1].expand_as(runs)):
        return None
    written = torch.unique(all_codes.read(_sample(target, _SAMPLES // target.block_weights))).long()
    values = values.flatten(1)[written]
    order = values[:, int((values[-1] - values[0]).abs().argmax())].argsort()
    values, written = values[order], written[order]
    spans = values[-1] - values[0]
    levels = ((values - values[0]) / spans)[:, int(spans.abs().argmax())]
    expected = values[0] + levels.unsqueeze(1) * spans
    if not torch.allclose(values, expected, rtol=0, atol=_SAME * float(spans.abs().max())):
        return None
    return CodeLayout(bits, written.to(torch.uint8), levels.float())


def _sample(target: GgufFormat, num_blocks: int) -> PackedMatrix:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(num_blocks, target.block_weights, generator=generator)
    return quantize_matrix(weight, target, torch.ones(target.block_weights))


def _bits_of_weights(probe: PackedMatrix) -> Tensor | None:
    """Flip every bit of some blocks; int64 [block_weights, width], or None where weights share their bits."""
    target = probe.format
    num_bits = 8 * target.block_bytes
    flipped = _pack(_unpack(probe.blocks).unsqueeze(1) ^ torch.eye(num_bits, dtype=torch.uint8)).flatten(0, 1)
    values = PackedMatrix(target, flipped).dequantize().view(torch.int32)  # as bits: −0 is another value than 0
    original = probe.dequantize().view(torch.int32)
    changed = values.reshape(len(original), num_bits, -1) != original.unsqueeze(1)
    alone = (changed.sum(2) <= 1).all(0) & changed.any(2).any(0)
    found: list[list[int]] = [[] for _ in range(target.block_weights)]
    for bit in alone.nonzero().flatten().tolist():
        weights = changed[:, bit].any(0).nonzero().flatten().tolist()
        if len(weights) != 1:
            return None
        found[weights[0]].append(bit)
    width = len(found[0])
    return torch.tensor(found) if width and all(len(bits) == width for bits in found) else None


def _unpack(blocks: Tensor) -> Tensor:
    """Spread bytes [..., n] into bits [..., 8 n], the lowest of a byte first."""
    return ((blocks.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)


def _pack(bits: Tensor) -> Tensor:
    """Undo ``_unpack``."""
    places = torch.tensor([1 << place for place in range(8)], dtype=torch.uint8)
    return (bits.reshape(*bits.shape[:-1], -1, 8) * places).sum(-1, dtype=torch.uint8)
