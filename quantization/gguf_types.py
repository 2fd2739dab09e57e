"""The block types of llama.cpp's file format GGUF as storage formats, and their exact sizes.

A type stores every row of a matrix as blocks of ``block_weights`` consecutive weights in ``block_bytes`` bytes each,
scales included. A row's width must therefore be a multiple of the block: 32 weights for the legacy types, IQ4_NL and
MXFP4, 64 for NVFP4, 128 for Q1_0, and 256 for the k-quants, the other IQ types and the ternary ones. The sizes are
those of the package ``gguf``; the module ggml checks them against the installed C library before anything is rounded.

Knows nothing about tensors.
"""

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ..common.errors import InputError

# Q8_1 and Q8_K hold the inputs of products while these are computed; the others are plain numbers.
_NOT_FOR_WEIGHTS = {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"}
NEEDS_IMPORTANCE = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})


@dataclass(frozen=True)
class GgufFormat:
    """A block type.

    Attributes:
        name: as llama.cpp's tools list it, such as ``Q4_K`` or ``IQ4_NL``.
        type_id: its number in files.
        block_weights: weights in a block.
        block_bytes: bytes of a block.
    """

    name: str
    type_id: int
    block_weights: int
    block_bytes: int

    @property
    def bits(self) -> float:
        """Bits per weight, scales included.

        >>> GGUF_FORMATS["Q4_K"].bits
        4.5
        """
        return 8 * self.block_bytes / self.block_weights

    def fits(self, in_features: int) -> bool:
        """Tell whether a matrix can have this type.

        Returns:
            Whether rows of this input width are whole blocks.

        >>> GGUF_FORMATS["Q4_K"].fits(576), GGUF_FORMATS["Q4_K"].fits(1536)
        (False, True)
        """
        return in_features % self.block_weights == 0

    def row_bytes(self, in_features: int) -> int:
        """Count the bytes of a row; raises InputError where its width is not a whole number of blocks."""
        if not self.fits(in_features):
            raise InputError(
                f"{self.name} stores blocks of {self.block_weights} weights, and the input width {in_features} is not "
                f"a multiple of that. Types that fit: {', '.join(legal_types(in_features)) or 'none'}."
            )
        return in_features // self.block_weights * self.block_bytes

    def stored_bytes(self, out_features: int, in_features: int) -> int:
        """Count the bytes of a matrix.

        Returns:
            Those of all blocks.

        >>> GGUF_FORMATS["Q6_K"].stored_bytes(10, 512)  # 2 blocks of 210 bytes a row
        4200
        """
        return out_features * self.row_bytes(in_features)


GGUF_FORMATS = {
    kind.name: GgufFormat(kind.name, int(kind), weights, num_bytes)
    for kind, (weights, num_bytes) in GGML_QUANT_SIZES.items()
    if kind.name not in _NOT_FOR_WEIGHTS
}
FLOAT_TYPES = {
    "float16": GGMLQuantizationType.F16,
    "bfloat16": GGMLQuantizationType.BF16,
    "float32": GGMLQuantizationType.F32,
}


def legal_types(in_features: int) -> list[str]:
    """List the types that fit an input width.

    Returns:
        Their names, fewest bits first.

    >>> legal_types(576)
    ['MXFP4', 'Q4_0', 'IQ4_NL', 'NVFP4', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0']
    """
    fitting = [target for target in GGUF_FORMATS.values() if target.fits(in_features)]
    return [target.name for target in sorted(fitting, key=lambda target: (target.bits, target.type_id))]
