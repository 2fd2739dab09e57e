"""Trains a small model of another family on the calibration part of the Wikipedia excerpt, as a second real model.

    python benchmarks/second_model.py FOLDER --family qwen3 --minutes 30

Byte-pair tokens from the same text, a folder that transformers loads; with --gguf FILE also a GGUF file in 16 bits, for
llama.cpp (qwen3 alone). All widths of both families are multiples of 256. The learning rate follows the time that is
left, so a slower machine trains less: figures made with such a model name its perplexity.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from scantling.sensitivity.calibration.text import load_text

VOCABULARY, LENGTH, BATCH, LEARNING_RATE = 1024, 256, 4, 2e-3


def tokenizer_of(documents: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Learn byte-pair tokens.

    Args:
        documents: the text.

    Returns:
        A tokenizer without special tokens but the end of a text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")  # noqa: S106


def untrained(family: str) -> PreTrainedModel:
    """Make a model of a family.

    Args:
        family: ``qwen3`` or ``gpt2``.

    Returns:
        About 6 million weights, random.
    """
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=1024, n_embd=256, n_layer=6, n_head=8))
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=128,  # the family's, which transformers takes for granted in GGUF files
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )


def train(model: PreTrainedModel, token_ids: Tensor, minutes: float) -> int:
    """Train with AdamW, a short warm-up and a cosine over the time.

    Args:
        model: changed.
        token_ids: int64 [tokens].
        minutes: how long.

    Returns:
        The steps made.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    generator, start, step = torch.Generator().manual_seed(0), time.perf_counter(), 0
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        first = torch.randint(len(token_ids) - LENGTH, (BATCH,), generator=generator)
        batch = torch.stack([token_ids[at : at + LENGTH] for at in first.tolist()])
        loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}, loss {loss.item():.3f}", flush=True)
        step += 1
    return step


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write a Qwen3 model as llama.cpp wants it.

    Args:
        model: of the family qwen3, with tied embeddings.
        tokenizer: of it.
        path: the file.
    """
    config, state = model.config, model.state_dict()
    writer = GGUFWriter(path, "qwen3")
    writer.add_name("second model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == tokenizer.eos_token else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in written["model"]["merges"]])
    assert isinstance(tokenizer.eos_token_id, int)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    names = get_tensor_name_map(MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, values in state.items():
        if name != "lm_head.weight":
            stored_name = names.get_name(name, try_suffixes=(".weight",))
            assert stored_name is not None, name
            writer.add_tensor(stored_name, values.half().numpy() if values.ndim > 1 else values.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=["qwen3", "gpt2"], default="qwen3")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--gguf", type=Path)
    arguments = parser.parse_args()
    documents = load_text("wikipedia").calibration()
    tokenizer, model = tokenizer_of(documents), untrained(arguments.family)
    token_ids = torch.tensor([token for document in documents for token in tokenizer.encode(document)])
    steps = train(model, token_ids, arguments.minutes)
    print(f"{steps} steps of {BATCH} × {LENGTH} tokens; the text has {len(token_ids)}")
    model.save_pretrained(arguments.folder)
    tokenizer.save_pretrained(arguments.folder)
    if arguments.gguf is not None:
        write_gguf(model, tokenizer, arguments.gguf)


if __name__ == "__main__":
    main()
