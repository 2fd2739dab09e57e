"""The backend ``auto-gptq``: one format for all decoder layers, as the package auto-gptq reads it, and many engines do.

The package reads bits and group size once for the whole model, version 1 of the layout (zero points stored minus one,
so symmetric formats only), and a head of its own: where head and embedding are tied, the matrix is written twice.

Knows nothing about files.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .. import __version__
from ..common.errors import ScantlingError
from ..quantization.formats import FloatFormat, Format, IntegerFormat
from ..quantization.grid import Rounded, RoundedMatrix
from .base import FormattedLayer, TensorSpec, UsualAnswers, require_float_ends, require_unstacked_experts
from .gptq import integer_layers, scheme
from .gptq_layout import GptqLayout

LEGAL_BITS = (2, 3, 4, 8)
_LAYOUT = GptqLayout(zero_offset=1)
_WORD_CODES = 32


@dataclass(frozen=True)
class AutoGptqBackend(UsualAnswers):
    """See the module."""

    name: str = "auto-gptq"
    engines: tuple[str, ...] = ("auto-gptq", "gptqmodel", "transformers", "vllm")
    unties_head: bool = True

    def refuse(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse what auto-gptq cannot express.

        Args:
            layers: all layers.

        Raises:
            ScantlingError: mixed formats, 5 or 6 bits, zero points, experts, or shapes that it does not take.
        """
        require_float_ends(layers, self.name)
        require_unstacked_experts(layers, self.name, "auto-gptq itself has no way to load them")
        targets = {formatted.format for formatted in layers if formatted.layer.block is not None}
        if len(targets) > 1:
            names = ", ".join(sorted(target.name for target in targets))
            raise ScantlingError(
                f"auto-gptq reads one bit width and one group size for the whole model, this plan mixes {names}. Use "
                "--backend gptq (GPTQModel, vLLM) or --backend compressed-tensors (transformers, vLLM; symmetric)."
            )
        (target,) = targets
        if isinstance(target, FloatFormat):
            raise ScantlingError(
                "this plan has no integer layers, so there is nothing to quantize. Use --backend fake."
            )
        if target.bits not in LEGAL_BITS:
            raise ScantlingError(
                f"auto-gptq reads 2, 3, 4 and 8 bits, this plan has {target.bits}. Use --backend gptq."
            )
        if not isinstance(target, IntegerFormat) or not target.symmetric:
            raise ScantlingError(
                "auto-gptq's layout stores every zero point minus one, so it cannot hold 0, and its successor "
                f"GPTQModel refuses it without symmetry; this plan has {target.name}. Profile with symmetric formats "
                f"({target.name}-sym), or use --backend gptq."
            )
        for formatted in layers:
            layer = formatted.layer
            if layer.block is not None and (layer.in_features % _WORD_CODES or layer.out_features % _WORD_CODES):
                raise ScantlingError(
                    f"{layer.name} is {layer.out_features} × {layer.in_features}, and auto-gptq reads layers whose "
                    "sides are multiples of 32. Use --backend gptq."
                )

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensors of an integer layer.

        Args:
            formatted: the layer.
            formats: not used.

        Returns:
            Shapes by name.
        """
        del formats
        assert isinstance(formatted.format, IntegerFormat)
        return _LAYOUT.specs(formatted.format, formatted.layer.out_features, formatted.layer.in_features)

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Pack an integer layer.

        Args:
            formatted: the layer.
            record: its codes, scales and zero points.
            formats: not used.

        Returns:
            The tensors by name.
        """
        del formatted, formats
        assert isinstance(record, RoundedMatrix)
        return _LAYOUT.pack(record)

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read an integer layer back.

        Args:
            formatted: the layer.
            tensors: as ``pack`` gives them.
            formats: not used.

        Returns:
            The record.
        """
        del formats
        assert isinstance(formatted.format, IntegerFormat)
        return _LAYOUT.unpack(tensors, formatted.format, formatted.layer.out_features, formatted.layer.in_features)

    def configuration(self, layers: Sequence[FormattedLayer]) -> dict[str, object] | None:
        """Give the entry ``quantization_config`` of config.json.

        Args:
            layers: all layers, of one format.

        Returns:
            Plain values.
        """
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

    def adapt(self, configuration: dict[str, object]) -> dict[str, object]:
        """Write what transformers 4, which auto-gptq runs on, reads from elsewhere than transformers 5 does.

        Args:
            configuration: config.json.

        Returns:
            A copy with ``rope_theta`` at the top, and without a tie of head and embedding.
        """
        adapted = {**configuration, "tie_word_embeddings": False}
        rope = configuration.get("rope_parameters")
        if isinstance(rope, Mapping) and "rope_theta" in rope:
            adapted.setdefault("rope_theta", rope["rope_theta"])
        return adapted

    def further_files(self, configuration: Mapping[str, object] | None) -> dict[str, str]:
        """Give ``quantize_config.json``, which auto-gptq reads first.

        Args:
            configuration: the entry of config.json.

        Returns:
            The file.
        """
        known = {key: value for key, value in (configuration or {}).items() if key != "meta"}
        return {"quantize_config.json": json.dumps(known, indent=2) + "\n"}
