"""Whether a model works as it was trained to while it is measured.

Sequences cut from the middle of a text without the BOS token that a model was trained with throw it out of its normal
regime: its predictions become poor, and what is measured on them says nothing about its use. The check is a
measurement: the same sequences with and without a BOS token in front.

Knows nothing about formats or estimators.
"""

import math

import torch
from torch import Tensor, nn

from ..backends.model import LoadedModel
from .profile import RegimeRecord
from .text import opening_tokens

_NUM_SEQUENCES = 4
_MUCH_BETTER = 1.25
_NEARLY_ALL = 0.5


def look_into_regime(loaded: LoadedModel, token_ids: Tensor, first_token_share: float | None) -> RegimeRecord:
    """Measure a model's regime on a few of its sequences.

    Args:
        loaded: the model.
        token_ids: the pricing sequences, int64 [sequences, tokens].
        first_token_share: of a change's effect, where the estimator tells.

    Returns:
        The record.
    """
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


def regime_warnings(regime: RegimeRecord, vocabulary: int) -> list[str]:
    """Say what is wrong with a regime.

    Args:
        regime: as measured.
        vocabulary: number of words that the model knows.

    Returns:
        One sentence for every trouble; none where there is none.
    """
    found = []
    if regime.perplexity > vocabulary:
        found.append(
            f"the model's perplexity on the calibration text is {regime.perplexity:,.0f}, worse than a guess among its "
            f"{vocabulary:,} words: weights, tokenizer and text do not belong together, and no prediction will hold."
        )
    if regime.perplexity_with_bos is not None and regime.perplexity > _MUCH_BETTER * regime.perplexity_with_bos:
        found.append(
            f"the model's perplexity on the calibration text is {regime.perplexity:.2f}, and "
            f"{regime.perplexity_with_bos:.2f} with its BOS token in front, which its tokenizer does not put there: it "
            "is measured outside its normal regime, and predictions will not hold. Set add_bos_token in the "
            "tokenizer's configuration."
        )
    if regime.first_token_share is not None and regime.first_token_share > _NEARLY_ALL:
        found.append(
            f"{regime.first_token_share:.0%} of the predicted loss increase comes through the first token of a "
            "sequence: look at how sequences begin, the model may be outside its normal regime."
        )
    return found


def _perplexity(model: nn.Module, token_ids: Tensor, skipped: int) -> float:
    """Measure the perplexity of tokens skipped + 1, …, each given those before it."""
    total, count = 0.0, 0
    with torch.no_grad():
        for sequence in token_ids:
            logits = model(sequence.unsqueeze(0), use_cache=False).logits[0, skipped:-1].float()
            labels = sequence[skipped + 1 :]
            total += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
    return math.exp(min(total / max(count, 1), 700.0))
