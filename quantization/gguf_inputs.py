"""How llama.cpp rounds the inputs of a product with a matrix in a block type: to 8 bits, with one scale per block.

Its CPU kernels multiply integers by integers. Before a product each block of inputs x becomes round(x / d) with
d = max |x| / 127: blocks of 32 for types of up to 128 weights per block (llama.cpp's Q8_0 and Q8_1, whose d has 16
bits), blocks of 256 for the others (Q8_K, d in 32 bits). Inputs of products with 16-bit matrices are left alone here:
they lose a thousandth of that.

Which way a number near the middle is rounded depends on its last bits, so after a few blocks the engine's roundings
differ from these; their effect agrees on average, not token by token.

Knows nothing about models.
"""

from typing import Final

import torch
from torch import Tensor

from .formats import Format
from .gguf_types import GgufFormat

_LARGEST_CODE: Final = 127
_SHORT, _LONG = 32, 256


def input_block(target: Format) -> int | None:
    """Say how llama.cpp rounds the inputs of a product with a matrix of this format.

    Returns:
        Inputs that share a scale; None where they are not rounded.

    >>> input_block(GgufFormat("Q4_0", 2, 32, 18)), input_block(GgufFormat("Q4_K", 12, 256, 144))
    (32, 256)
    """
    if not isinstance(target, GgufFormat):
        return None
    return _LONG if target.block_weights == _LONG else _SHORT


def rounded_inputs(inputs: Tensor, block: int) -> Tensor:
    """Round inputs as the kernels do.

    Args:
        inputs: float32 [..., in], in a multiple of the block.
        block: inputs that share a scale.

    Returns:
        The values that the codes stand for, of the same shape.

    >>> rounded_inputs(torch.tensor([127.0, 1.4, -0.6] + [0.0] * 29), 32)[:3].tolist()
    [127.0, 1.0, -1.0]
    """
    blocks = inputs.reshape(*inputs.shape[:-1], -1, block)
    scales = blocks.abs().amax(-1, keepdim=True) / _LARGEST_CODE
    codes = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)).round_()
    return (codes * (scales.half().float() if block == _SHORT else scales)).reshape(inputs.shape)
