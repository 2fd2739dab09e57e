"""The share of every layer's bytes that one step of decode reads.

Knows nothing about formats or machines.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from ..sensitivity.profile_record import LayerRecord, ProfileRecord

_EXPERT_COUNT_KEYS: Final = ("num_experts", "num_local_experts", "n_routed_experts")


def read_shares(record: ProfileRecord, num_sequences: int) -> tuple[Fraction, ...]:
    """Return the shares, layer by layer; for n sequences n times that of one, all of the layer at most."""
    untied = any(layer.kind == "head" for layer in record.layers)
    shares = (_share_of_one(layer, record.config or {}, untied=untied) for layer in record.layers)
    return tuple(min(Fraction(1), num_sequences * share) for share in shares)


def routed_experts(config: Mapping[str, Any]) -> int | None:
    """Return the number of experts that each token is sent to; None if the config does not tell."""
    routed = config.get("num_experts_per_tok")
    return routed if isinstance(routed, int) else None


def is_expert(layer: LayerRecord) -> bool:
    """Tell whether a layer is a routed expert's."""
    return ".experts." in f".{layer.kind}."


def _share_of_one(layer: LayerRecord, config: Mapping[str, Any], *, untied: bool) -> Fraction:
    if layer.kind == "embedding" and untied:
        return Fraction(1, layer.out_features)
    if layer.read_share is not None:
        return Fraction(layer.read_share)
    total, routed = next((config[key] for key in _EXPERT_COUNT_KEYS if config.get(key)), None), routed_experts(config)
    if is_expert(layer) and isinstance(total, int) and routed is not None and routed <= total:
        return Fraction(routed, total)  # as if all experts were chosen equally often
    return Fraction(1)
