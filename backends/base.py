"""The seam of backends: what a checkpoint format must say of a layer, and of the whole model.

A backend knows tensors and their names, not files: the module checkpoint writes them, and knows no backend. Shapes come
without weights, so that a checkpoint's size is known to the byte before anything is rounded.

Knows nothing about plans.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from ..common.errors import ScantlingError
from ..models.layers import Layer
from ..quantization.formats import FloatFormat, Format
from ..quantization.grid import CastMatrix, Rounded

WEIGHT = "weight"
FLOAT_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor without its values.

    Attributes:
        dtype: of its entries.
        shape: its sides.
    """

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


class Backend(Protocol):
    """A checkpoint format."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that ``scantling check`` can load it in, the usual one first."""
        ...

    @property
    def unties_head(self) -> bool:
        """Whether a head that is tied to the embedding is written as a tensor of its own."""
        ...

    @property
    def keeps_model_names(self) -> bool:
        """Whether tensors are called as in the model, where checkpoints of its architecture call experts otherwise."""
        ...

    def float_dtype(self, sixteen_bit_format: str) -> torch.dtype:
        """Give the type of all parameters that are not integers.

        Args:
            sixteen_bit_format: of the original checkpoint.

        Returns:
            The type.
        """
        ...

    def refuse(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse what the format cannot express, before any work is done.

        Args:
            layers: all layers of the model.

        Raises:
            ScantlingError: the message says the layer, the reason and another backend or format.
        """
        ...

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensors of an integer layer.

        Args:
            formatted: the layer.
            formats: all formats of the plan, where the layout depends on them.

        Returns:
            Shapes by name, relative to the module.
        """
        ...

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Pack an integer layer.

        Args:
            formatted: the layer.
            record: its codes, scales and zero points.
            formats: all formats of the plan.

        Returns:
            The tensors by name, relative to the module.
        """
        ...

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read an integer layer back; ``unpack(pack(record))`` is the record.

        Args:
            formatted: the layer.
            tensors: as ``pack`` gives them.
            formats: all formats of the plan.

        Returns:
            The record.
        """
        ...

    def configuration(self, layers: Sequence[FormattedLayer]) -> dict[str, object] | None:
        """Give the entry ``quantization_config`` of config.json.

        Args:
            layers: all layers.

        Returns:
            Plain values; None where the checkpoint needs none.
        """
        ...

    def adapt(self, configuration: dict[str, object]) -> dict[str, object]:
        """Change the rest of config.json for the engines of this format.

        Args:
            configuration: config.json.

        Returns:
            The changed one.
        """
        ...

    def further_files(self, configuration: Mapping[str, object] | None) -> dict[str, str]:
        """Give files that the format needs beside config.json.

        Args:
            configuration: as above.

        Returns:
            Contents by file name.
        """
        ...


class UsualAnswers:
    """What most checkpoint formats answer; a backend overrides what it answers otherwise."""

    unties_head: bool = False
    keeps_model_names: bool = False

    def float_dtype(self, sixteen_bit_format: str) -> torch.dtype:
        """Give the type of all parameters that are not integers.

        Args:
            sixteen_bit_format: of the original checkpoint.

        Returns:
            That type.
        """
        return FLOAT_DTYPES[sixteen_bit_format]

    def adapt(self, configuration: dict[str, object]) -> dict[str, object]:
        """Leave the rest of config.json as it is.

        Args:
            configuration: config.json.

        Returns:
            The same.
        """
        return configuration

    def further_files(self, configuration: Mapping[str, object] | None) -> dict[str, str]:
        """Give files that the format needs beside config.json.

        Args:
            configuration: not used.

        Returns:
            None.
        """
        del configuration
        return {}


def float_specs(formatted: FormattedLayer, dtype: torch.dtype) -> dict[str, TensorSpec]:
    """Give the tensor of a layer that is stored as floating point.

    Args:
        formatted: the layer.
        dtype: its type.

    Returns:
        The weight, as the module keeps it.
    """
    shape = (formatted.layer.out_features, formatted.layer.in_features)
    return {WEIGHT: TensorSpec(dtype, shape[::-1] if formatted.transposed else shape)}


def pack_float(formatted: FormattedLayer, record: Rounded, dtype: torch.dtype) -> dict[str, Tensor]:
    """Store a layer as floating point.

    Args:
        formatted: the layer.
        record: its values.
        dtype: the type.

    Returns:
        The weight, as the module keeps it.
    """
    values = record.values if isinstance(record, CastMatrix) else record.dequantize()
    return {WEIGHT: (values.t() if formatted.transposed else values).to(dtype).contiguous()}


def validate_floats(layers: Sequence[FormattedLayer], sixteen_bit_format: str) -> None:
    """Refuse a plan with 16-bit layers of another type than the checkpoint's one.

    Args:
        layers: all layers.
        sixteen_bit_format: the checkpoint's type.

    Raises:
        ScantlingError: there is such a layer.
    """
    for formatted in layers:
        if isinstance(formatted.format, FloatFormat) and formatted.format.name != sixteen_bit_format:
            raise ScantlingError(
                f"{formatted.layer.name} is {formatted.format.name} in this plan, but the model's checkpoint is "
                f"{sixteen_bit_format}, and engines load a checkpoint in one type. Profile with {sixteen_bit_format}, "
                "or use --backend fake."
            )


def require_unstacked_experts(layers: Sequence[FormattedLayer], backend: str, reason: str) -> None:
    """Refuse integers in experts that transformers keeps in one tensor.

    Args:
        layers: all layers.
        backend: its name.
        reason: why it cannot hold them.

    Raises:
        ScantlingError: there is such a layer.
    """
    for formatted in layers:
        if formatted.stacked and not isinstance(formatted.format, FloatFormat):
            raise ScantlingError(
                f"{formatted.layer.name}, an expert's, is {formatted.format.name} in this plan, and the backend "
                f"{backend} does not write integers there: {reason}. Use --backend gptq or fake."
            )


def require_float_ends(layers: Sequence[FormattedLayer], backend: str) -> None:
    """Refuse integers in the embedding and the head.

    Args:
        layers: all layers.
        backend: its name.

    Raises:
        ScantlingError: one of them has an integer format.
    """
    for formatted in layers:
        if formatted.layer.block is None and not isinstance(formatted.format, FloatFormat):
            raise ScantlingError(
                f"the backend {backend} keeps {formatted.layer.kind} ({formatted.layer.name}) in 16 bits, the plan has "
                f"{formatted.format.name}. Profile without --include {formatted.layer.kind}; or with types of GGUF "
                "(--formats Q4_0,Q8_0,float16), for --backend gguf, which stores it in them; or use --backend fake."
            )
