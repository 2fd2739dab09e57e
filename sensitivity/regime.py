"""Whether a model is in its normal regime while it is measured.

Sequences cut from the middle of a text without the BOS token that a model was trained with take it out of its normal
regime: its predictions become poor, and measurements on them say nothing about its use. The check is a measurement on
the same sequences with and without a BOS token in front.

Knows nothing about formats or estimators.
"""

import math

import torch
from torch import Tensor, nn

from ..models.loading import LoadedModel
from .calibration.text import opening_tokens
from .profile_record import RegimeRecord

_NUM_SEQUENCES = 4


def diagnose_regime(loaded: LoadedModel, token_ids: Tensor, first_token_share: float | None) -> RegimeRecord:
    """Measure a model's regime on a few of its pricing sequences, int64 [sequences, tokens]."""
    few = token_ids[:_NUM_SEQUENCES]
    bos = loaded.tokenizer.bos_token_id
    with_bos = None
    if isinstance(bos, int) and bos not in opening_tokens(loaded.tokenizer):
        in_front = torch.cat([torch.full((len(few), 1), bos), few[:, :-1]], dim=1)
        with_bos = _perplexity(loaded.model, in_front, skipped=1)
    return RegimeRecord(
        perplexity=_perplexity(loaded.model, few[:, :-1], skipped=0),
        perplexity_with_bos=with_bos,
        first_token_share=first_token_share,
    )


def _perplexity(model: nn.Module, token_ids: Tensor, skipped: int) -> float:
    """Measure the perplexity of tokens skipped + 1, …, each predicted from those before it."""
    total, count = 0.0, 0
    with torch.no_grad():
        for sequence in token_ids:
            logits = model(sequence.unsqueeze(0), use_cache=False).logits[0, skipped:-1].float()
            labels = sequence[skipped + 1 :]
            total += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
    return math.exp(min(total / max(count, 1), 700.0))
