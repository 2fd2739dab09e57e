"""Storage formats of a weight matrix and their exact sizes.

An integer format ``int{bits}-g{group}`` stores a code q of ``bits`` bits for every weight, and for every group of
consecutive inputs of one output a float16 scale s and, unless symmetric, a zero point z of ``bits`` bits; the weight is
s · (q − z). ``int{bits}-row`` has one group per output row; the suffix ``-sym`` fixes z = 2^(bits − 1) and stores none.
Codes and zero points are packed without gaps, and each output row of them fills whole bytes.

The block types of GGUF are formats too, see the module gguf_types. Every format has a name, its ``bits``, the bytes of
a matrix and the input widths that it fits.

Knows nothing about tensors.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from ..common.errors import InputError
from .gguf_types import GGUF_FORMATS, GgufFormat

INTEGER_BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
SCALE_BITS = 16
_INTEGER_NAME = re.compile(r"int(\d+)-(?:g(\d+)|row)(-sym)?")


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)


@dataclass(frozen=True)
class IntegerFormat:
    """Integers with a scale, and perhaps a zero point, per group.

    Attributes:
        bits: width of one code.
        group_size: inputs that share a scale; None for the whole row.
        symmetric: whether the zero point is fixed in the middle and not stored.
    """

    bits: int
    group_size: int | None
    symmetric: bool = False

    @property
    def name(self) -> str:
        """Such as ``int4-g64``."""
        groups = "row" if self.group_size is None else f"g{self.group_size}"
        return f"int{self.bits}-{groups}{'-sym' if self.symmetric else ''}"

    def fits(self, in_features: int) -> bool:
        """Tell whether groups divide the input width."""
        return self.group_size is None or in_features % self.group_size == 0

    def group_width(self, in_features: int) -> int:
        """Count the inputs of a group in a matrix; raises InputError where groups do not divide its width."""
        if self.group_size is None:
            return in_features
        if not self.fits(in_features):
            legal = [f"g{size}" for size in GROUP_SIZES if in_features % size == 0]
            raise InputError(
                f"groups of {self.group_size} do not divide the input width {in_features}. "
                f"Sizes that do: {', '.join([*legal, 'row'])}."
            )
        return self.group_size

    def stored_bytes(self, out_features: int, in_features: int) -> int:
        """Count the bytes of a matrix.

        Returns:
            Those of codes, scales and zero points.

        >>> IntegerFormat(4, 64).stored_bytes(10, 128)  # 10 rows of 64 bytes, 2 scales, 2 zero points
        690
        """
        groups = in_features // self.group_width(in_features)
        zeros = 0 if self.symmetric else _whole_bytes(groups * self.bits)
        return out_features * (_whole_bytes(in_features * self.bits) + groups * SCALE_BITS // 8 + zeros)


@dataclass(frozen=True)
class FloatFormat:
    """16-bit floating point: ``float16`` or ``bfloat16``."""

    name: str
    bits: ClassVar[int] = 16

    def fits(self, in_features: int) -> bool:
        """A matrix of any width can have this format."""
        del in_features
        return True

    def stored_bytes(self, out_features: int, in_features: int) -> int:
        """Count the bytes of a matrix."""
        return 2 * out_features * in_features


CodedFormat = IntegerFormat | GgufFormat
Format = CodedFormat | FloatFormat
FLOAT_FORMATS = {name: FloatFormat(name) for name in ("float16", "bfloat16")}


def parse_format(name: str) -> Format:
    """Parse the name of a format.

    Args:
        name: such as ``int4-g64``, ``int3-row``, ``int8-g128-sym``, ``float16``, or a GGUF type such as ``Q4_K``.

    Returns:
        The format.

    Raises:
        InputError: no such format.

    >>> parse_format("int3-g128-sym")
    IntegerFormat(bits=3, group_size=128, symmetric=True)
    """
    if name in FLOAT_FORMATS:
        return FLOAT_FORMATS[name]
    if name.upper() in GGUF_FORMATS:
        return GGUF_FORMATS[name.upper()]
    match = _INTEGER_NAME.fullmatch(name)
    known = (
        f"Integer formats are int{{{'|'.join(map(str, INTEGER_BITS))}}}-{{g32|g64|g128|row}} with or without -sym; "
        f"16 bits: {', '.join(FLOAT_FORMATS)}. GGUF types: {', '.join(GGUF_FORMATS)}."
    )
    if match is None:
        raise InputError(f"{name!r} is not a format. {known}")
    bits, group, symmetric = match.groups()
    if int(bits) not in INTEGER_BITS or (group is not None and int(group) not in GROUP_SIZES):
        raise InputError(f"the format {name!r} is not offered. {known}")
    return IntegerFormat(int(bits), None if group is None else int(group), symmetric is not None)
