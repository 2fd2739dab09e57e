"""Measured quality of quantized models on text, side by side with the original.

Knows nothing about plans or formats: a candidate is a set of matrices to install.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..common.progress import Progress
from ..models.install import Candidate, installed


@dataclass(frozen=True)
class Quality:
    """Measured quality, one value per sequence: a mean over its tokens.

    KL divergence and agreement take the predictions after every token; the others those whose next token is in the
    text, all but the last. Ties for the most likely token go to the lowest token id.

    Attributes:
        kl_nats: KL(original ‖ candidate).
        negative_log_likelihood_nats: of the token that follows.
        top1_agreement: share where original and candidate agree on the most likely token.
        next_token_accuracy: share where the most likely token is the one that follows.
        flips: share where exactly one of original and candidate was right (Dutta et al. 2024, arXiv 2407.09141).
    """

    kl_nats: tuple[float, ...]
    negative_log_likelihood_nats: tuple[float, ...]
    top1_agreement: tuple[float, ...]
    next_token_accuracy: tuple[float, ...]
    flips: tuple[float, ...]

    def means_of(self, sequences: Sequence[int]) -> dict[str, float]:
        """Average over the sequences at these positions, by the attributes' names."""
        return {
            name: math.fsum(values[index] for index in sequences) / len(sequences)
            for name, values in asdict(self).items()
        }

    @property
    def mean_kl_nats(self) -> float:
        """Mean KL divergence per token."""
        return math.fsum(self.kl_nats) / len(self.kl_nats)

    @property
    def kl_standard_error_nats(self) -> float | None:
        """Standard error of the mean over sequences; None for a single sequence."""
        return standard_error(self.kl_nats)

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-likelihood per token."""
        return math.exp(math.fsum(self.negative_log_likelihood_nats) / len(self.negative_log_likelihood_nats))


def standard_error(values: Sequence[float]) -> float | None:
    """Compute the standard error of a mean.

    Args:
        values: independent values.

    Returns:
        √(s² / n) with the unbiased variance s²; None for fewer than two values.

    >>> standard_error([1.0, 3.0])
    1.0
    """
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


@dataclass(frozen=True)
class _Predictions:
    """What a model predicts for one sequence.

    Attributes:
        log_probability: float32 [tokens, vocabulary].
        most_likely: int64 [tokens].
        correct: bool [tokens − 1], whether the most likely token is the one that follows.
        negative_log_likelihood_nats: mean over the tokens that follow.
    """

    log_probability: Tensor
    most_likely: Tensor
    correct: Tensor
    negative_log_likelihood_nats: float


def _predict(model: nn.Module, sequence: Tensor) -> _Predictions:
    logits: Tensor = model(sequence.unsqueeze(0), use_cache=False).logits[0]
    log_probability = logits.float().log_softmax(-1)
    most_likely = log_probability.argmax(-1)
    followed = log_probability[:-1].gather(1, sequence[1:, None])
    return _Predictions(
        log_probability, most_likely, most_likely[:-1] == sequence[1:], -float(followed.mean(dtype=torch.float64))
    )


def _beside(original: _Predictions, candidate: _Predictions) -> tuple[float, ...]:
    """Compare one sequence: the values in the order of Quality."""
    divergence = nn.functional.kl_div(
        candidate.log_probability, original.log_probability, reduction="none", log_target=True
    )
    return (
        float(divergence.sum(-1).mean(dtype=torch.float64)),
        candidate.negative_log_likelihood_nats,
        _share(candidate.most_likely == original.most_likely),
        _share(candidate.correct),
        _share(candidate.correct != original.correct),
    )


def _share(holds: Tensor) -> float:
    return float(holds.mean(dtype=torch.float64))


def measure_candidates(
    model: nn.Module,
    candidates: Mapping[str, Candidate],
    token_ids: Tensor,
    progress: Progress,
    sequences_at_once: int = 2,
) -> dict[str, Quality]:
    """Measure candidates against the original on the same sequences.

    Only the original's predictions of ``sequences_at_once`` sequences are held at a time.

    Args:
        model: the original model.
        candidates: matrices to install, by the candidate's name.
        token_ids: int64 [sequences, tokens].
        progress: shows how far the work is.
        sequences_at_once: more of them install candidates less often and take more memory.

    Returns:
        The quality of every candidate, and of ``original``.
    """
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in ["original", *candidates]}
    batches = torch.split(token_ids, sequences_at_once)
    jobs = [(batch, name) for batch in range(len(batches)) for name in measured]
    originals: list[_Predictions] = []
    with torch.no_grad():
        for batch, name in progress(jobs, "measuring on text"):
            if name == "original":
                originals = [_predict(model, sequence) for sequence in batches[batch]]
                measured[name] += [
                    (0.0, one.negative_log_likelihood_nats, 1.0, _share(one.correct), 0.0) for one in originals
                ]
                continue
            with installed(model, candidates[name]):
                for original, sequence in zip(originals, batches[batch], strict=True):
                    measured[name].append(_beside(original, _predict(model, sequence)))
    return {name: Quality(*zip(*rows, strict=True)) for name, rows in measured.items()}
