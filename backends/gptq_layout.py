"""The tensors of a layer in a GPTQ checkpoint, and the record back from them.

``qweight`` int32 [⌈in · b / 32⌉, out]: the codes of an output, packed along the inputs; ``qzeros`` int32 [groups,
⌈out · b / 32⌉]: the zero points of a group, packed along the outputs, each stored as (z − 1) mod 2^b in version 1 and
as z in version 2; ``scales`` float16 [groups, out]; ``g_idx`` int32 [in]: the group of each input.

Knows nothing about files or configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantization.formats import IntegerFormat
from ..quantization.grid import RoundedMatrix
from .bit_packing import num_words, pack_rows, unpack_rows
from .bit_planes import pack_planes, unpack_planes
from .folder_format import TensorSpec


@dataclass(frozen=True)
class GptqLayout:
    """A variant of the layout.

    Attributes:
        planar: whether codes are stored as planes (``gptq_p``) instead of a bit stream.
        zero_offset: what is subtracted from a zero point before it is stored: 1 in version 1, else 0.
    """

    planar: bool = False
    zero_offset: int = 0

    def specs(self, target: IntegerFormat, out_features: int, in_features: int) -> dict[str, TensorSpec]:
        """Give the tensors of a layer, by name, without their values."""
        groups = in_features // target.group_width(in_features)
        return {
            "qweight": TensorSpec(torch.int32, (num_words(in_features, target.bits), out_features)),
            "qzeros": TensorSpec(torch.int32, (groups, num_words(out_features, target.bits))),
            "scales": TensorSpec(torch.float16, (groups, out_features)),
            "g_idx": TensorSpec(torch.int32, (in_features,)),
        }

    def pack(self, record: RoundedMatrix) -> dict[str, Tensor]:
        """Pack a layer's codes, scales and zero points: the tensors by name."""
        bits, in_features = record.format.bits, record.codes.shape[1]
        pack = pack_planes if self.planar else pack_rows
        zeros = (record.zeros.t() - self.zero_offset) & (2**bits - 1)  # uint8 wraps round, then the mask
        width = record.format.group_width(in_features)
        return {
            "qweight": pack(record.codes, bits).t().contiguous(),
            "qzeros": pack(zeros, bits),
            "scales": record.scales.t().contiguous(),
            "g_idx": torch.arange(in_features, dtype=torch.int32) // width,
        }

    def unpack(
        self, tensors: Mapping[str, Tensor], target: IntegerFormat, out_features: int, in_features: int
    ) -> RoundedMatrix:
        """Read a layer of this shape back from the tensors that ``pack`` gave."""
        unpack = unpack_planes if self.planar else unpack_rows
        zeros = unpack(tensors["qzeros"], target.bits, out_features)
        return RoundedMatrix(
            target,
            unpack(tensors["qweight"].t().contiguous(), target.bits, in_features),
            tensors["scales"].t().contiguous(),
            ((zeros + self.zero_offset) & (2**target.bits - 1)).t().contiguous(),
        )
