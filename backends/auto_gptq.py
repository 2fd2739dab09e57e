"""The backend ``auto-gptq``: one format for all decoder layers, as the package auto-gptq reads it, and many engines do.

The package reads bits and group size once for the whole model, version 1 of the layout (zero points stored minus one,
so symmetric formats only), and a head of its own: where head and embedding are tied, the matrix is written twice.

Knows nothing about files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .. import __version__
from ..common.errors import InputError
from ..quantization.formats import FloatFormat, Format, IntegerFormat
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
from .gptq import integer_layers, scheme
from .gptq_layout import GptqLayout

LEGAL_BITS = (2, 3, 4, 8)
_LAYOUT = GptqLayout(zero_offset=1)
_WORD_CODES = 32
_TRAITS = FormatTraits(
    how_to_load="`AutoGPTQForCausalLM.from_quantized(folder)` of auto-gptq, and many engines that read its format.",
    unties_head=True,
)


@dataclass(frozen=True)
class AutoGptqBackend:
    """See the module."""

    name: str = "auto-gptq"
    engines: tuple[str, ...] = ("auto-gptq", "gptqmodel", "transformers", "vllm")
    traits: FormatTraits = _TRAITS

    def validate(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse what auto-gptq cannot express.

        Raises:
            InputError: mixed formats, 5 or 6 bits, zero points, experts, or shapes that it does not take.
        """
        require_float_ends(layers, self.name)
        require_unstacked_experts(layers, self.name, "auto-gptq itself has no way to load them")
        targets = {formatted.format for formatted in layers if formatted.layer.block is not None}
        if len(targets) > 1:
            names = ", ".join(sorted(target.name for target in targets))
            raise InputError(
                f"auto-gptq reads one bit width and one group size for the whole model, this plan mixes {names}. Use "
                "--backend gptq (GPTQModel, vLLM) or --backend compressed-tensors (transformers, vLLM; symmetric)."
            )
        _validate_format(*targets)
        for formatted in layers:
            layer = formatted.layer
            if layer.block is not None and (layer.in_features % _WORD_CODES or layer.out_features % _WORD_CODES):
                raise InputError(
                    f"{layer.name} is {layer.out_features} × {layer.in_features}, but auto-gptq reads only layers "
                    "whose sides are multiples of 32. Use --backend gptq."
                )

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensors of an integer layer without values."""
        del formats
        assert isinstance(formatted.format, IntegerFormat)
        return _LAYOUT.specs(formatted.format, formatted.layer.out_features, formatted.layer.in_features)

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Pack an integer layer."""
        del formatted, formats
        assert isinstance(record, RoundedMatrix)
        return _LAYOUT.pack(record)

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read an integer layer back."""
        del formats
        assert isinstance(formatted.format, IntegerFormat)
        return _LAYOUT.unpack(tensors, formatted.format, formatted.layer.out_features, formatted.layer.in_features)

    def json_files(self, config: JsonObject, layers: Sequence[FormattedLayer]) -> dict[str, JsonObject]:
        """Give config.json, and quantize_config.json, which auto-gptq reads first.

        auto-gptq runs on transformers 4, which reads ``rope_theta`` from the top of config.json; and head and embedding
        are not tied in its checkpoints.

        Returns:
            Contents by file name.
        """
        adapted: JsonObject = {**config, "tie_word_embeddings": False}
        rope = config.get("rope_parameters")
        if isinstance(rope, Mapping) and "rope_theta" in rope:
            adapted.setdefault("rope_theta", rope["rope_theta"])
        quantization = self.configuration(layers)
        return {
            CONFIG_FILE: {**adapted, "quantization_config": quantization},
            "quantize_config.json": {key: value for key, value in quantization.items() if key != "meta"},
        }

    def configuration(self, layers: Sequence[FormattedLayer]) -> JsonObject:
        """Give the entry ``quantization_config`` of config.json, for layers of one format."""
        target = integer_layers(layers)[0][1]
        return {
            "quant_method": "gptq",
            "checkpoint_format": "gptq",
            **scheme(target),
            "desc_act": False,
            "static_groups": True,
            "true_sequential": True,
            "damp_percent": 0.05,
            "meta": {"quantizer": [f"scantling:{__version__}"]},
        }

    def cautions(self, layers: Sequence[FormattedLayer]) -> list[str]:
        """Give none: what auto-gptq cannot load is refused."""
        del layers
        return []


def _validate_format(target: Format) -> None:
    if isinstance(target, FloatFormat):
        raise InputError("this plan has no integer layers, so there is nothing to quantize. Use --backend fake.")
    if target.bits not in LEGAL_BITS:
        raise InputError(f"auto-gptq reads 2, 3, 4 and 8 bits, this plan has {target.bits}. Use --backend gptq.")
    if not isinstance(target, IntegerFormat) or not target.symmetric:
        raise InputError(
            "auto-gptq's layout stores every zero point minus one, so it cannot hold 0, and its successor GPTQModel "
            f"refuses it without symmetry; this plan has {target.name}. Profile with symmetric formats "
            f"({target.name}-sym), or use --backend gptq."
        )
