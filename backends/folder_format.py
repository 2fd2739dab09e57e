"""The seam of checkpoint folders: what one format says of a layer, and of the whole model.

A format knows tensors by their names, not files: the module folder writes those, and knows no format. Shapes come
without weights, so the checkpoint's size is known to the byte before anything is rounded.

Knows nothing about plans.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from ..common.errors import InputError
from ..models.layers import Layer
from ..quantization.formats import FloatFormat, Format
from ..quantization.grid import CastMatrix, Rounded

WEIGHT = "weight"
CONFIG_FILE = "config.json"
FLOAT_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
JsonObject = dict[str, object]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Entries times their size."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class FormattedLayer:
    """A layer and its format in a plan.

    Attributes:
        layer: the layer.
        format: its format.
        transposed: whether the module keeps its matrix as [in, out] (GPT-2's Conv1D).
        stacked: whether transformers keeps the matrix in one tensor with those of other experts.
    """

    layer: Layer
    format: Format
    transposed: bool = False
    stacked: bool = False


@dataclass(frozen=True)
class FormatTraits:
    """The facts of a format that do not depend on the plan.

    Attributes:
        how_to_load: what the model card says about loading, as Markdown.
        float_dtype: the type of every parameter that is not an integer, by its name; None for the 16-bit type of the
            original checkpoint.
        unties_head: whether a head that is tied to the embedding is written as a tensor of its own.
        keeps_model_names: whether tensors are named as in the model, where checkpoints of its architecture name the
            experts' otherwise.
    """

    how_to_load: str
    float_dtype: str | None = None
    unties_head: bool = False
    keeps_model_names: bool = False


class FolderFormat(Protocol):
    """A format of checkpoint folders."""

    @property
    def name(self) -> str:
        """The backend's name on the command line."""
        ...

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that ``scantling check`` can load it in, the default first."""
        ...

    @property
    def traits(self) -> FormatTraits:
        """What does not depend on the plan."""
        ...

    def validate(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse what the format cannot express, before any work is done.

        Raises:
            InputError: names the layer, the reason, and another backend or format.
        """
        ...

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensors of an integer layer without values.

        Args:
            formatted: the layer.
            formats: all formats of the plan, where the layout depends on them.

        Returns:
            Types and shapes by name, relative to the module.
        """
        ...

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Pack an integer layer: tensors by name, relative to the module."""
        ...

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read an integer layer back; ``unpack(pack(record))`` is the record."""
        ...

    def json_files(self, config: JsonObject, layers: Sequence[FormattedLayer]) -> dict[str, JsonObject]:
        """Give config.json and every other JSON file that the format's engines read.

        Args:
            config: config.json of the unquantized model.
            layers: all layers.

        Returns:
            Contents by file name.
        """
        ...

    def cautions(self, layers: Sequence[FormattedLayer]) -> list[str]:
        """Say, for the model card, which engines will not load this plan, and why."""
        ...


def float_specs(formatted: FormattedLayer, dtype: torch.dtype) -> dict[str, TensorSpec]:
    """Give the tensor of a layer that is stored as floating point, shaped as the module keeps it."""
    shape = (formatted.layer.out_features, formatted.layer.in_features)
    return {WEIGHT: TensorSpec(dtype, shape[::-1] if formatted.transposed else shape)}


def pack_float(formatted: FormattedLayer, record: Rounded, dtype: torch.dtype) -> dict[str, Tensor]:
    """Store a layer as floating point, shaped as the module keeps it."""
    values = record.values if isinstance(record, CastMatrix) else record.dequantize()
    return {WEIGHT: (values.t() if formatted.transposed else values).to(dtype).contiguous()}


def validate_floats(layers: Sequence[FormattedLayer], sixteen_bit_format: str) -> None:
    """Refuse 16-bit layers of another type than the model's checkpoint has.

    Raises:
        InputError: there is such a layer.
    """
    for formatted in layers:
        if isinstance(formatted.format, FloatFormat) and formatted.format.name != sixteen_bit_format:
            raise InputError(
                f"the plan has {formatted.layer.name} in {formatted.format.name}, but the model's checkpoint is "
                f"{sixteen_bit_format}, and engines load a checkpoint in one type. Profile with {sixteen_bit_format}, "
                "or use --backend fake."
            )


def require_unstacked_experts(layers: Sequence[FormattedLayer], backend: str, reason: str) -> None:
    """Refuse integers in experts that transformers keeps in one tensor.

    Raises:
        InputError: there is such a layer.
    """
    for formatted in layers:
        if formatted.stacked and not isinstance(formatted.format, FloatFormat):
            raise InputError(
                f"the plan has {formatted.layer.name}, part of an expert, in {formatted.format.name}, but the backend "
                f"{backend} cannot write experts as integers: {reason}. Use --backend gptq or fake."
            )


def require_float_ends(layers: Sequence[FormattedLayer], backend: str) -> None:
    """Refuse integers in the embedding and the head.

    Raises:
        InputError: one of them has an integer format.
    """
    for formatted in layers:
        if formatted.layer.block is None and not isinstance(formatted.format, FloatFormat):
            raise InputError(
                f"the backend {backend} keeps {formatted.layer.kind} ({formatted.layer.name}) in 16 bits, but the plan "
                f"has {formatted.format.name}. Profile without --include {formatted.layer.kind}; or profile with GGUF "
                "types (--formats Q4_0,Q8_0,float16) for --backend gguf, which stores it in them; or use "
                "--backend fake."
            )
