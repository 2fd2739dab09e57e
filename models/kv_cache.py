"""The bytes of the KV cache, from the numbers of a model's config.

For every cached token and block: keys and values of all KV heads, (d_k + d_v) · heads numbers (grouped-query attention,
Ainslie et al. 2023); with multi-latent attention (DeepSeek-V2, 2024) the latent vector and the rotary key instead.
A block with a sliding window caches at most that many tokens. Scales of a quantized cache are not counted, since
engines differ.

Knows nothing about weights.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from ..common.errors import MissingFigureError

ConfigValue = int | float | str | bool | tuple[str, ...] | None
_KEYS: Final = (
    "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "kv_lora_rank", "qk_rope_head_dim",
    "qk_nope_head_dim", "v_head_dim", "multi_query", "new_decoder_architecture", "num_experts", "num_local_experts",
    "n_routed_experts", "num_kv_heads", "num_experts_per_tok", "cross_attention_layers", "num_kv_shared_layers",
    "max_position_embeddings",
)  # fmt: skip
_FULL, _SLIDING = "full_attention", "sliding_attention"


def config_numbers(config: object) -> dict[str, ConfigValue]:
    """Extract from a transformers config the keys that sizes depend on; of a multimodal one, from its text part."""
    text = getattr(config, "get_text_config", lambda: config)()
    found: dict[str, ConfigValue] = {}
    for key in _KEYS:
        value = getattr(text, key, None)
        if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
            found[key] = tuple(value)
        elif isinstance(value, str | int | float) and (not isinstance(value, float) or math.isfinite(value)):
            found[key] = value
    return found


def _number(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _require(config: Mapping[str, Any], key: str) -> int:
    value = _number(config, key)
    if value is None:
        raise MissingFigureError(
            f"the KV cache cannot be computed: the model's config has no usable {key}. "
            "State its bytes as kv_cache in the workload, or leave out the context."
        )
    return value


def numbers_per_token(config: Mapping[str, Any]) -> int:
    """Count the numbers that one block caches for one token.

    Args:
        config: see ``config_numbers``.

    Returns:
        The count.

    Raises:
        MissingFigureError: the config lacks a number.

    >>> numbers_per_token({"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2})
    32
    """
    latent = _number(config, "kv_lora_rank")
    if latent is not None:
        return latent + _require(config, "qk_rope_head_dim")
    heads = _number(config, "num_attention_heads")
    kv_heads = _number(config, "num_key_value_heads")
    if kv_heads is None and config.get("new_decoder_architecture") is True:
        kv_heads = _require(config, "num_kv_heads")
    if kv_heads is None:
        shared_head = config.get("multi_query") is True
        kv_heads = 1 if shared_head else _require(config, "num_attention_heads")
    width = _number(config, "head_dim")
    if width is None:
        width = _require(config, "hidden_size") // (heads or _require(config, "num_attention_heads"))
    return kv_heads * (width + (_number(config, "v_head_dim") or width))


def windows(config: Mapping[str, Any]) -> list[int | None]:
    """Give for every block how many tokens it caches at most.

    Args:
        config: see ``config_numbers``.

    Returns:
        The windows; None for no bound.

    Raises:
        MissingFigureError: a kind of attention whose cache is not modelled, or the config lacks a number.
    """
    num_blocks = _require(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    window = _number(config, "sliding_window")
    if config.get("num_kv_shared_layers") or config.get("cross_attention_layers"):
        raise MissingFigureError(
            "the KV cache of blocks that share or borrow keys is not modelled. "
            "State its bytes as kv_cache in the workload."
        )
    if isinstance(kinds, Sequence) and not isinstance(kinds, str):
        unknown = sorted(set(kinds) - {_FULL, _SLIDING})
        if unknown or len(kinds) != num_blocks:
            raise MissingFigureError(
                f"the KV cache of blocks of the kind {', '.join(unknown) or 'unknown'} is not modelled. "
                "State its bytes as kv_cache in the workload."
            )
        return [_require(config, "sliding_window") if kind == _SLIDING else None for kind in kinds]
    if window is None or config.get("use_sliding_window") is False:
        return [None] * num_blocks
    if config.get("use_sliding_window") is True:  # Qwen2: the first blocks attend to everything
        num_full = min(_number(config, "max_window_layers") or 0, num_blocks)
        return [None] * num_full + [window] * (num_blocks - num_full)
    return [window] * num_blocks


def kv_cache_bytes(config: Mapping[str, Any], context: int, batch: int, kv_bits: float | Fraction) -> tuple[int, ...]:
    """Count the bytes of the KV cache, block by block.

    Args:
        config: see ``config_numbers``.
        context: tokens in each sequence.
        batch: sequences.
        kv_bits: width of a cached number.

    Returns:
        Bytes of every block, rounded up.

    >>> llama_8b = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
    >>> sum(kv_cache_bytes(llama_8b, 8192, 1, 16)) / 2**30
    1.0
    """
    width = numbers_per_token(config) * Fraction(kv_bits) / 8 * batch
    return tuple(math.ceil(width * min(context, window or context)) for window in windows(config))
