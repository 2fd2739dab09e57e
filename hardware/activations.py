"""The bytes of activations, from the shapes of a profile's layers: an estimate, as engines keep buffers of their own.

While a block runs on n tokens at once, it holds in 16 bits the residual stream and the input made of it (h numbers
each), and the outputs of its two widest layers (as gate and up of an MLP; in a mixture of experts, those of all experts
that a token is sent to); after the last block stand the logits of one token for each of s sequences, in 32 bits:

    bytes = 2 · n · (2 h + w₁ + w₂) + 4 · s · V

Attention scores are not counted: current kernels do not store them.

Knows nothing about limits.
"""

import re
from collections import defaultdict

from ..sensitivity.profile_record import LayerRecord, ProfileRecord
from .read_shares import is_expert

_INDEX = re.compile(r"\d+")
_BYTES_OF_A_NUMBER, _BYTES_OF_A_LOGIT = 2, 4


def activation_bytes(record: ProfileRecord, num_tokens: int, num_sequences: int, routed_experts: int = 1) -> int:
    """Estimate the bytes of activations.

    Args:
        record: the layers and their shapes.
        num_tokens: n, computed at once.
        num_sequences: s.
        routed_experts: experts that each token is sent to.

    Returns:
        Bytes.
    """
    widths: dict[int, dict[str, int]] = defaultdict(dict)
    for layer in record.layers:
        if layer.block is not None:
            role = _INDEX.sub("*", layer.kind)  # the experts of a block have one role
            widths[layer.block][role] = max(widths[layer.block].get(role, 0), _width(layer, routed_experts))
    widest = max((sum(sorted(block.values())[-2:]) for block in widths.values()), default=0)
    ends = [layer for layer in record.layers if layer.block is None]
    hidden = max((layer.in_features for layer in ends), default=0) or min(
        (layer.in_features for layer in record.layers), default=0
    )
    vocabulary = max((layer.out_features for layer in ends), default=0)
    per_token = _BYTES_OF_A_NUMBER * (2 * hidden + widest)
    return num_tokens * per_token + _BYTES_OF_A_LOGIT * num_sequences * vocabulary


def _width(layer: LayerRecord, routed_experts: int) -> int:
    return layer.out_features * (routed_experts if is_expert(layer) else 1)
