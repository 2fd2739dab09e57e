"""The backend ``gptq``: a GPTQ checkpoint whose layers may differ in bits, group size and symmetry.

``quantization_config`` states the most common format and, under ``dynamic``, one rule for every layer that differs:
``+:^exact name$`` with its own values, ``-:^exact name$`` for a layer that stays in 16 bits. vLLM asks for fused layers
(qkv_proj, gate_up_proj) by name, so these get a rule too where their members agree. All-symmetric plans are written in
version 1 of the format, which every engine reads; version 1 cannot hold a zero point of 0, so others are written in
version 2; 5 and 6 bits exist only in GPTQModel's planar layout.

Knows nothing about files.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .. import __version__
from ..common.errors import InputError
from ..quantization.formats import Format, IntegerFormat
from ..quantization.grid import Rounded, RoundedMatrix
from .folder_format import CONFIG_FILE, FormattedLayer, FormatTraits, JsonObject, TensorSpec, require_float_ends
from .gptq_layout import GptqLayout

PLANAR_BITS = frozenset({5, 6})
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_WORD_CODES = 32
_TRAITS = FormatTraits(how_to_load="`GPTQModel.load(folder)` of GPTQModel.", keeps_model_names=True)


def integer_layers(layers: Sequence[FormattedLayer]) -> list[tuple[FormattedLayer, IntegerFormat]]:
    """Pick the layers that are stored as integers, with their formats."""
    return [(formatted, formatted.format) for formatted in layers if isinstance(formatted.format, IntegerFormat)]


def require_integers(layers: Sequence[FormattedLayer]) -> None:
    """Refuse a plan that quantizes nothing.

    Raises:
        InputError: no layer is stored as integers.
    """
    if not integer_layers(layers):
        raise InputError("this plan has no integer layers, so there is nothing to quantize. Use --backend fake.")


def exact_name(name: str) -> str:
    r"""Write the regular expression that matches one module.

    Returns:
        The expression.

    >>> print(exact_name("model.layers.0.mlp"))
    ^model\.layers\.0\.mlp$
    """
    return f"^{re.escape(name)}$"


def scheme(target: IntegerFormat) -> JsonObject:
    """Write a format as GPTQ configurations do; a group size of −1 stands for whole rows.

    Returns:
        ``bits``, ``group_size`` and ``sym``.

    >>> scheme(IntegerFormat(4, None, symmetric=True))
    {'bits': 4, 'group_size': -1, 'sym': True}
    """
    return {
        "bits": target.bits,
        "group_size": -1 if target.group_size is None else target.group_size,
        "sym": target.symmetric,
    }


@dataclass(frozen=True)
class GptqBackend:
    """See the module."""

    name: str = "gptq"
    engines: tuple[str, ...] = ("gptqmodel", "vllm", "transformers")
    traits: FormatTraits = _TRAITS

    def layout(self, formats: Collection[Format]) -> GptqLayout:
        """Choose the variant of the layout that a plan with these formats needs."""
        targets = [target for target in formats if isinstance(target, IntegerFormat)]
        planar = any(target.bits in PLANAR_BITS for target in targets)
        version_1 = not planar and all(target.symmetric for target in targets)
        return GptqLayout(planar, zero_offset=int(version_1))

    def validate(self, layers: Sequence[FormattedLayer]) -> None:
        """Refuse what the format cannot express.

        Raises:
            InputError: integers in embedding or head, no integers at all, or a shape that cannot be packed.
        """
        require_float_ends(layers, self.name)
        require_integers(layers)
        planar = self.layout({formatted.format for formatted in layers}).planar
        for formatted, target in integer_layers(layers):
            layer = formatted.layer
            ragged = layer.in_features % _WORD_CODES or layer.out_features % _WORD_CODES
            if ragged and (planar or target.bits == 3):
                why = "5 and 6 bits in the plan" if planar else "3 bits"
                raise InputError(
                    f"{layer.name} is {layer.out_features} × {layer.in_features}: with {why}, GPTQ packs 32 inputs and "
                    "32 outputs at a time. Give it 2, 4 or 8 bits (and no layer 5 or 6), or use --backend fake."
                )

    def specs(self, formatted: FormattedLayer, formats: Collection[Format]) -> dict[str, TensorSpec]:
        """Give the tensors of an integer layer without values."""
        assert isinstance(formatted.format, IntegerFormat)
        layer = formatted.layer
        return self.layout(formats).specs(formatted.format, layer.out_features, layer.in_features)

    def pack(self, formatted: FormattedLayer, record: Rounded, formats: Collection[Format]) -> dict[str, Tensor]:
        """Pack an integer layer."""
        del formatted
        assert isinstance(record, RoundedMatrix)
        return self.layout(formats).pack(record)

    def unpack(self, formatted: FormattedLayer, tensors: Mapping[str, Tensor], formats: Collection[Format]) -> Rounded:
        """Read an integer layer back."""
        assert isinstance(formatted.format, IntegerFormat)
        layer = formatted.layer
        return self.layout(formats).unpack(tensors, formatted.format, layer.out_features, layer.in_features)

    def json_files(self, config: JsonObject, layers: Sequence[FormattedLayer]) -> dict[str, JsonObject]:
        """Give config.json, and quantize_config.json, which AutoGPTQ and older programs read."""
        quantization = self.configuration(layers)
        return {
            CONFIG_FILE: {**config, "quantization_config": quantization},
            "quantize_config.json": quantization,
        }

    def configuration(self, layers: Sequence[FormattedLayer]) -> JsonObject:
        """Give the entry ``quantization_config`` of config.json."""
        common = Counter(target for _, target in integer_layers(layers)).most_common(1)[0][0]
        layout = self.layout({formatted.format for formatted in layers})
        version = "gptq_p" if layout.planar else ("gptq" if layout.zero_offset else "gptq_v2")
        return {
            "quant_method": "gptq",
            "checkpoint_format": version,
            **scheme(common),
            "desc_act": False,
            "static_groups": True,
            "lm_head": False,
            "pack_dtype": "int32",
            "dynamic": dict(_rules(layers, common)),
            "meta": {"quantizer": [f"scantling:{__version__}"]},
        }

    def cautions(self, layers: Sequence[FormattedLayer]) -> list[str]:
        """Say which engines will not load this plan, and why."""
        cautions = fusion_cautions(layers)
        if {target.bits for _, target in integer_layers(layers)} & PLANAR_BITS:
            cautions.append("5 and 6 bits exist only in GPTQModel's layout gptq_p: no other engine reads these files.")
        if len({formatted.format for formatted in layers if formatted.layer.block is not None}) > 1:
            cautions.append("transformers' own GPTQ loader ignores the rules per layer and cannot load this plan.")
        return cautions


def _rules(layers: Sequence[FormattedLayer], common: IntegerFormat) -> Iterator[tuple[str, JsonObject]]:
    """State every decoder layer that differs from the common format, and the fused layers whose members agree."""
    by_name = {formatted.layer.name: formatted.format for formatted in layers if formatted.layer.block is not None}
    for name, members in _fused(by_name):
        targets = {by_name[member] for member in members}
        if len(targets) == 1:
            by_name[name] = targets.pop()
    for name, target in by_name.items():
        if not isinstance(target, IntegerFormat):
            yield f"-:{exact_name(name)}", {}
        elif target != common:
            yield f"+:{exact_name(name)}", scheme(target)


def _fused(names: Mapping[str, object]) -> list[tuple[str, list[str]]]:
    """List the fused layers whose members are all there."""
    found = []
    for fused, members in FUSED.items():
        for name in names:
            parent, _, last = name.rpartition(".")
            paths = [f"{parent}.{member}" for member in members]
            if last == members[0] and all(path in names for path in paths):
                found.append((f"{parent}.{fused}", paths))
    return found


def split_fusions(layers: Sequence[FormattedLayer]) -> list[str]:
    """List the paths of the fused layers whose members differ in format; all experts of a block are fused too."""
    by_name = {formatted.layer.name: formatted.format for formatted in layers}
    split = [name for name, members in _fused(by_name) if len({by_name[member] for member in members}) > 1]
    return split + [name for name, targets in _experts(layers).items() if len(targets) > 1]


def fusion_cautions(layers: Sequence[FormattedLayer]) -> list[str]:
    """Say that vLLM and SGLang refuse a plan in which members of a fused layer differ; empty where none do."""
    split = split_fusions(layers)
    if not split:
        return []
    return [
        f"vLLM and SGLang fuse layers and refuse this plan: the members of {len(split)} fused layers differ in "
        f"format (first: {split[0]})."
    ]


def _experts(layers: Sequence[FormattedLayer]) -> dict[str, set[Format]]:
    """Give the formats of all experts that transformers keeps together, by the path of their module."""
    found: dict[str, set[Format]] = {}
    for formatted in layers:
        if formatted.stacked:
            found.setdefault(formatted.layer.name.rsplit(".", 2)[0], set()).add(formatted.format)
    return found
