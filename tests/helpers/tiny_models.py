"""Tiny models of real architectures and a tokenizer, which save as folders that transformers loads."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from scantling.sensitivity.calibration.capture import sampled_labels

WORDS = [f"w{i}" for i in range(90)]
VOCABULARY_SIZE = len(WORDS) + 2
_MIXTURE = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_WIDE_MIXTURE = {**_MIXTURE, "hidden_size": 64, "intermediate_size": 64}  # every side a multiple of 32


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def make_model(family: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = dense_model(family) or mixture(family)
    if model is None:
        raise ValueError(family)
    return model.eval().requires_grad_(False)


def dense_model(family: str) -> PreTrainedModel | None:
    match family:
        case "llama-tied" | "llama-untied" | "llama-wide":
            wide = family == "llama-wide"  # every side a multiple of 32
            config = LlamaConfig(
                vocab_size=VOCABULARY_SIZE,
                hidden_size=64 if wide else 32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=family != "llama-untied",
                initializer_range=0.3,
            )
            return LlamaForCausalLM(config)
        case "qwen3":
            return Qwen3ForCausalLM(
                Qwen3Config(
                    vocab_size=VOCABULARY_SIZE,
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=16,
                    max_position_embeddings=64,
                    initializer_range=0.3,
                )
            )
        case "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=VOCABULARY_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
                )
            )
    return None


def mixture(family: str) -> PreTrainedModel | None:
    match family:
        case "mixtral" | "mixtral-wide":
            sides = _WIDE_MIXTURE if family == "mixtral-wide" else {"intermediate_size": 48, **_MIXTURE}
            return MixtralForCausalLM(MixtralConfig(num_local_experts=4, **sides))
        case "qwen3-moe" | "qwen3-moe-wide":
            sides = _WIDE_MIXTURE if family == "qwen3-moe-wide" else _MIXTURE
            inner = sides["hidden_size"]
            return Qwen3MoeForCausalLM(Qwen3MoeConfig(moe_intermediate_size=inner, num_experts=8, **sides))
        case "gpt-oss":  # transposed, with biases, gate and up interleaved
            model = GptOssForCausalLM(GptOssConfig(intermediate_size=48, num_local_experts=4, **_MIXTURE))
            for name, parameter in model.named_parameters():
                if name.endswith("_bias"):
                    parameter.data.normal_()
            return model
        case "granite-moe":
            return GraniteMoeForCausalLM(GraniteMoeConfig(intermediate_size=48, num_local_experts=4, **_MIXTURE))
    return None


def prose(num_words: int, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, len(WORDS), (num_words,), generator=generator).tolist()
    words = [WORDS[i] for i in picks]
    return "\n\n".join(" ".join(words[i : i + 50]) for i in range(0, num_words, 50))


def save_model(folder: Path, family: str, seed: int = 0) -> Path:
    make_model(family, seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def log_likelihoods(logits, draws, number):
    """Compute Σ_t log p(ŷ_t) for every draw of labels ŷ, all in one autograd graph."""
    log_probability = logits[0].float().log_softmax(-1)
    for labels in sampled_labels(logits.detach()[0].float().softmax(-1), draws, number):
        yield log_probability.gather(1, labels.unsqueeze(1)).sum()
