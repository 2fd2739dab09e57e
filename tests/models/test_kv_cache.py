"""The KV cache against the caches that transformers keeps, and against known sizes."""

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    DynamicCache,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen3Config,
)

from helpers.tiny_models import make_model
from scantling.common.errors import ScantlingError
from scantling.models.kv_cache import config_numbers, kv_cache_bytes


@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "gpt2"])
def test_the_kv_cache_is_what_transformers_keeps(family):
    model = make_model(family)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.arange(2, 26).unsqueeze(0).repeat(2, 1), past_key_values=cache, use_cache=True)
    kept = [sum(part.numel() for part in block[:2] if part is not None) for block in cache]
    assert list(kv_cache_bytes(config_numbers(model.config), 24, 2, 16)) == [2 * numbers for numbers in kept]


def test_a_sliding_window_caches_what_transformers_keeps_and_the_token_that_it_computes():
    config = MistralConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, sliding_window=8,
    )  # fmt: skip
    cache = DynamicCache(config=config)
    with torch.no_grad():
        MistralForCausalLM(config)(torch.arange(24).unsqueeze(0), past_key_values=cache, use_cache=True)
    for block, size in zip(cache, kv_cache_bytes(config_numbers(config), 24, 1, 16), strict=True):
        kept = sum(part.numel() for part in block[:2] if part is not None)
        one_token = 2 * 2 * 16
        assert size == 2 * (kept + one_token)


@pytest.mark.parametrize(
    ("config", "bytes_per_block"),
    [
        # Known sizes: heads · width · 2 (keys and values) · 2 bytes a token.
        (LlamaConfig(hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, num_hidden_layers=2), [4096] * 2),
        (GPT2Config(n_embd=768, n_head=12, n_layer=2), [3072] * 2),
        (Qwen3Config(num_attention_heads=16, num_key_value_heads=8, head_dim=128, num_hidden_layers=1), [4096]),
        (FalconConfig(hidden_size=128, num_attention_heads=4, num_hidden_layers=1, multi_query=True), [128]),
        # DeepSeek-V2: the latent of 512 and the rotary key of 64.
        (DeepseekV2Config(num_hidden_layers=1, kv_lora_rank=512, qk_rope_head_dim=64), [1152]),
        (DeepseekV3Config(num_hidden_layers=2), [1152] * 2),
    ],
)  # fmt: skip
def test_the_kv_cache_of_known_models(config, bytes_per_block):
    assert list(kv_cache_bytes(config_numbers(config), 1000, 1, 16)) == [1000 * size for size in bytes_per_block]


def test_sliding_windows_bound_the_cache():
    gemma = Gemma3TextConfig(
        num_hidden_layers=6,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=512,
    )
    sizes = kv_cache_bytes(config_numbers(gemma), 4096, 1, 16)
    assert sorted(set(sizes)) == [512 * 64, 4096 * 64]
    assert sizes.count(4096 * 64) == 1  # every sixth block attends to everything
    mistral = MistralConfig(
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=128,
    )
    assert kv_cache_bytes(config_numbers(mistral), 4096, 1, 8) == (128 * 64,) * 2
    qwen = Qwen2Config(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    assert kv_cache_bytes(config_numbers(qwen), 4096, 1, 16) == (4096 * 128,) * 2


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"num_hidden_layers": None, "num_attention_heads": None}, "no usable num_attention_heads"),
        ({"num_hidden_layers": True}, "no usable num_hidden_layers"),
        ({"layer_types": ["linear_attention"] * 2}, "blocks of the kind linear_attention"),
        ({"layer_types": ["full_attention"]}, "of the kind unknown"),
        ({"num_kv_shared_layers": 1}, "share or borrow"),
        ({"layer_types": ["sliding_attention"] * 2}, "no usable sliding_window"),
    ],
)
def test_a_cache_that_is_not_known_is_not_guessed(config, match):
    with pytest.raises(ScantlingError, match=match):
        kv_cache_bytes({"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 4} | config, 10, 1, 16)
