"""A tiny Llama as a GGUF file in 32 bits, with a byte tokenizer, that transformers and llama.cpp both load."""

from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

FOUND = util.find_spec("llama_cpp")
HAS_LIBRARY = FOUND is not None and any(Path(str(FOUND.origin)).parent.glob("lib/*ggml-base*"))


needs_library = pytest.mark.skipif(not HAS_LIBRARY, reason="llama.cpp's library is not installed: make gguf")

SMALL = ["--sequences", "2", "--pricing-sequences", "3", "--length", "32"]
BYTES = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
IN_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def reorder(matrix: torch.Tensor, heads: int) -> np.ndarray:
    """Interleave the halves of each head's rows, as llama.cpp's rotary embedding has them."""
    return matrix.reshape(heads, 2, -1, matrix.shape[1]).transpose(1, 2).reshape(matrix.shape).numpy()


def make(hidden: int, inner: int, blocks: int, tied: bool, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(BYTES) + 2,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        initializer_range=0.08,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def add_metadata(writer: GGUFWriter, hidden: int, inner: int, blocks: int) -> None:
    tokens = ["<s>", "</s>", *BYTES]
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(blocks)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(hidden // 4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)


def module_names(blocks: int, tied: bool) -> dict[str, str]:
    """Map the names of GGUF tensors to the model's modules."""
    names = dict(OUTSIDE if tied else OUTSIDE | {"output": "lm_head"})
    for block in range(blocks):
        names |= {f"blk.{block}.{name}": f"model.layers.{block}.{there}" for name, there in IN_BLOCK.items()}
    return names


def save_gguf(path: Path, hidden=256, inner=256, blocks=2, tied=True, seed=0, change=None) -> LlamaForCausalLM:
    model = make(hidden, inner, blocks, tied, seed)
    writer = GGUFWriter(path, "llama")
    add_metadata(writer, hidden, inner, blocks)
    state = model.state_dict()
    for name, there in module_names(blocks, tied).items():
        matrix = state[f"{there}.weight"]
        values = matrix.numpy()
        if name.endswith(("attn_q", "attn_k")):
            values = reorder(matrix, 4 if name.endswith("attn_q") else 2)
        if change is not None:
            values = change(name, values)
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
