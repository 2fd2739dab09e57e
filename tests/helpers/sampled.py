"""Text that a tiny model wrote itself: there the mean rise of the negative log-likelihood is the KL divergence."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from helpers.tiny_models import WORDS, make_model


def sampled_documents(model: PreTrainedModel, num_documents: int, num_words: int = 31, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.zeros(num_documents, 1, dtype=torch.int64)  # the BOS token
    with torch.no_grad():
        for _ in range(num_words):
            logits = model(token_ids).logits[:, -1].clone()
            logits[:, :2] = -torch.inf
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            token_ids = torch.cat([token_ids, drawn], dim=1)
    return [" ".join(WORDS[token - 2] for token in row[1:].tolist()) for row in token_ids]


def save_sampled(path: Path, num_documents: int = 400, family: str = "llama-tied") -> Path:
    path.write_text("\n\n".join(sampled_documents(make_model(family), num_documents)), encoding="utf-8")
    return path
