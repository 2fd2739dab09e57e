"""The backend ``fake``: a float32 checkpoint whose weights hold the quantized values.

It is as large as the original in float32; its use is to run a plan in any program that loads a transformers folder.
Knows nothing about files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantization.formats import Format
from ..quantization.grid import CastMatrix, Rounded
from .base import WEIGHT, FormattedLayer, TensorSpec, UsualAnswers, float_specs, pack_float


@dataclass(frozen=True)
class FakeBackend(UsualAnswers):
    """See the module."""

    name: str = "fake"
    engines: tuple[str, ...] = ("transformers",)

    def float_dtype(self, sixteen_bit_format: str) -> torch.dtype:
        """Give the type of all parameters.

        Args:
            sixteen_bit_format: not used.

        Returns:
            float32.
        """
        del sixteen_bit_format
        return torch.float32

    def refuse(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse nothing: every value fits float32.

        Args:
            layers: not used.
        """

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensor of a layer.

        Args:
            formatted: the layer.
            formats: not used.

        Returns:
            The weight.
        """
        del formats
        return float_specs(formatted, torch.float32)

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Store a layer's values.

        Args:
            formatted: the layer.
            record: its values.
            formats: not used.

        Returns:
            The weight.
        """
        del formats
        return pack_float(formatted, record, torch.float32)

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read a layer's values back.

        Args:
            formatted: the layer.
            tensors: as ``pack`` gives them.
            formats: not used.

        Returns:
            The values; which codes they came from is not stored.
        """
        del formats
        weight = tensors[WEIGHT]
        return CastMatrix(weight.t() if formatted.transposed else weight)

    def configuration(self, layers: Sequence[FormattedLayer]) -> dict[str, object] | None:
        """Say that the checkpoint is an ordinary one.

        Args:
            layers: not used.

        Returns:
            None.
        """
        del layers
        return None
