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
from .folder_format import (
    CONFIG_FILE,
    WEIGHT,
    FormattedLayer,
    FormatTraits,
    JsonObject,
    TensorSpec,
    float_specs,
    pack_float,
)

_TRAITS = FormatTraits(
    how_to_load="`AutoModelForCausalLM.from_pretrained(folder)` of transformers; the weights are float32 that hold the "
    "quantized values.",
    float_dtype="float32",
)


@dataclass(frozen=True)
class FakeBackend:
    """See the module."""

    name: str = "fake"
    engines: tuple[str, ...] = ("transformers",)
    traits: FormatTraits = _TRAITS

    def validate(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse nothing: every value fits float32."""

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensor of a layer: its weight."""
        del formats
        return float_specs(formatted, torch.float32)

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Store a layer's values."""
        del formats
        return pack_float(formatted, record, torch.float32)

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read a layer's values back; which codes they came from is not stored."""
        del formats
        weight = tensors[WEIGHT]
        return CastMatrix(weight.t() if formatted.transposed else weight)

    def json_files(self, config: JsonObject, layers: Sequence[FormattedLayer]) -> dict[str, JsonObject]:
        """Give config.json as it is: the checkpoint is an ordinary one."""
        del layers
        return {CONFIG_FILE: config}

    def cautions(self, layers: Sequence[FormattedLayer]) -> list[str]:
        """Give none: transformers loads every plan."""
        del layers
        return []
