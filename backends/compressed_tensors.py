"""The backend ``compressed-tensors``: packed integers in the format ``pack-quantized``, written by that library itself.

One group of the configuration for every format, with its layers named one by one. The library's own compressor packs
each layer, and what it packed is read back with its own decompressor and compared before it is written.

Knows nothing about files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..common.errors import EngineError, InputError, MissingDependencyError
from ..quantization.formats import Format, IntegerFormat
from ..quantization.grid import Rounded, RoundedMatrix
from .folder_format import (
    CONFIG_FILE,
    FormattedLayer,
    FormatTraits,
    JsonObject,
    TensorSpec,
    require_float_ends,
    require_unstacked_experts,
)
from .gptq import fusion_cautions, integer_layers, require_integers

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme

_FORMAT = "pack-quantized"
_TRAITS = FormatTraits(
    how_to_load="`AutoModelForCausalLM.from_pretrained(folder)` of transformers, with compressed-tensors installed."
)
_EXPERTS = "transformers unpacks all experts by one scheme, and their values in 16 bits"


def require_library() -> None:
    """Refuse to go on without the library.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if util.find_spec("compressed_tensors") is None:
        raise MissingDependencyError(
            "the backend compressed-tensors needs the library of that name. "
            "Install it with: pip install 'scantling[compressed-tensors]'"
        )


def quantization_scheme(target: IntegerFormat, names: Sequence[str]) -> "QuantizationScheme":
    """Write a format, and the names of the layers that have it, as the library does."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme  # noqa: PLC0415  an optional extra

    arguments = QuantizationArgs(
        num_bits=target.bits,
        type="int",
        symmetric=target.symmetric,
        strategy="channel" if target.group_size is None else "group",
        group_size=target.group_size,
    )
    return QuantizationScheme(targets=list(names), weights=arguments, format=_FORMAT)


def _compressor() -> Any:  # noqa: ANN401  the library's classes are not typed
    from compressed_tensors.compressors.base import BaseCompressor  # noqa: PLC0415  an optional extra

    return BaseCompressor.get_value_from_registry(_FORMAT)


@dataclass(frozen=True)
class PackQuantizedBackend:
    """See the module."""

    name: str = "compressed-tensors"
    engines: tuple[str, ...] = ("transformers", "vllm")
    traits: FormatTraits = _TRAITS

    def validate(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse what the format, or transformers' reading of it, cannot express.

        Raises:
            InputError: a layer is asymmetric, transposed, an expert's, embedding or head.
            MissingDependencyError: the library is not installed.
        """
        require_library()
        require_float_ends(layers, self.name)
        require_unstacked_experts(layers, self.name, _EXPERTS)
        require_integers(layers)
        for formatted, target in integer_layers(layers):
            if not target.symmetric:
                raise InputError(
                    f"{formatted.layer.name} is {target.name}, with zero points, which transformers does not unpack "
                    f"from a compressed-tensors checkpoint. Profile with symmetric formats ({target.name}-sym), or "
                    "use --backend gptq."
                )
            if formatted.transposed:
                raise InputError(
                    f"{formatted.layer.name} is a transposed layer (Conv1D, as in GPT-2), which compressed-tensors "
                    "does not replace. Use --backend gptq or fake."
                )

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensors of an integer layer, by letting the library compress a matrix without values."""
        del formats
        target, layer = formatted.format, formatted.layer
        assert isinstance(target, IntegerFormat)
        groups = layer.in_features // target.group_width(layer.in_features)
        without_values = {
            "weight": torch.empty(layer.out_features, layer.in_features, device="meta"),
            "weight_scale": torch.empty(layer.out_features, groups, dtype=torch.float16, device="meta"),
        }
        compressed = _compressor().compress(without_values, quantization_scheme(target, [layer.name]))
        return {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in compressed.items()}

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Pack an integer layer with the library's compressor.

        Returns:
            The tensors by name, relative to the module.

        Raises:
            EngineError: the library read back other values than it was given.
        """
        del formats
        assert isinstance(record, RoundedMatrix)
        scale = record.scales.float()
        weight_scheme = quantization_scheme(record.format, [formatted.layer.name])
        compressed: dict[str, Tensor] = _compressor().compress(
            {"weight": record.dequantize(), "weight_scale": scale}, weight_scheme
        )
        if not torch.equal(_compressor().decompress(compressed, weight_scheme)["weight"], record.dequantize()):
            raise EngineError(
                f"compressed-tensors read other values back from {formatted.layer.name} than it was given. "
                "Report this with the library's version; --backend gptq does not depend on it."
            )
        return {name: tensor.contiguous() for name, tensor in compressed.items()} | {"weight_scale": record.scales}

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read an integer layer back."""
        del formats
        from compressed_tensors.compressors.pack_quantized.helpers import (  # noqa: PLC0415  an optional extra
            unpack_from_int32,
        )

        target = formatted.format
        assert isinstance(target, IntegerFormat)
        shape = torch.Size((formatted.layer.out_features, formatted.layer.in_features))
        middle = 2 ** (target.bits - 1)
        codes = unpack_from_int32(tensors["weight_packed"], target.bits, shape).to(torch.int16) + middle
        scales = tensors["weight_scale"]
        return RoundedMatrix(target, codes.to(torch.uint8), scales, torch.full_like(scales, middle, dtype=torch.uint8))

    def json_files(self, config: JsonObject, layers: Sequence[FormattedLayer]) -> dict[str, JsonObject]:
        """Give config.json with the library's configuration."""
        return {CONFIG_FILE: {**config, "quantization_config": self.configuration(layers)}}

    def cautions(self, layers: Sequence[FormattedLayer]) -> list[str]:
        """Say which engines will not load this plan, and why."""
        return fusion_cautions(layers)

    def configuration(self, layers: Sequence[FormattedLayer]) -> JsonObject:
        """Give the entry ``quantization_config`` of config.json."""
        from compressed_tensors.quantization import (  # noqa: PLC0415  an optional extra
            QuantizationConfig,
            QuantizationStatus,
        )

        names: dict[Format, list[str]] = {}
        for formatted in layers:
            names.setdefault(formatted.format, []).append(formatted.layer.name)
        groups = {
            f"group_{number}": quantization_scheme(target, named)
            for number, (target, named) in enumerate(
                (target, named) for target, named in names.items() if isinstance(target, IntegerFormat)
            )
        }
        kept = [
            formatted.layer.tied_name or formatted.layer.name
            for formatted in layers
            if not isinstance(formatted.format, IntegerFormat)
        ]
        configuration = QuantizationConfig(
            config_groups=groups,
            quant_method="compressed-tensors",
            format=_FORMAT,
            quantization_status=QuantizationStatus.COMPRESSED,
            ignore=kept,
        )
        dumped: JsonObject = configuration.model_dump(mode="json", exclude_none=True)
        return dumped
