"""Measured quality of quantized models on text, side by side with the original.

Knows nothing about plans or formats: a candidate is a set of matrices to install.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..backends.grid import Rounded
from ..backends.layers import install_matrix
from ..backends.progress import Progress

Candidate = Mapping[str, Rounded]


@dataclass(frozen=True)
class Quality:
    """What was measured, one value a sequence.

    Attributes:
        kl_nats: mean over the sequence's tokens of KL(original ‖ candidate).
        negative_log_likelihood_nats: mean over the sequence's predicted tokens.
    """

    kl_nats: tuple[float, ...]
    negative_log_likelihood_nats: tuple[float, ...]

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


@contextmanager
def installed(model: nn.Module, candidate: Candidate) -> Iterator[None]:
    """Put a candidate's matrices into a model for a while; what is tied stays tied.

    Args:
        model: the original model.
        candidate: matrices by layer name.

    Yields:
        Nothing; the original matrices are back afterwards.
    """
    modules = {name: model.get_submodule(name) for name in candidate}
    originals = {name: module.weight.data for name, module in modules.items()}
    try:
        for name, rounded in candidate.items():
            install_matrix(modules[name], rounded.dequantize())
        yield
    finally:
        for name, original in originals.items():
            modules[name].weight.data = original


def _log_probabilities(model: nn.Module, sequence: Tensor) -> Tensor:
    logits: Tensor = model(sequence.unsqueeze(0), use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def _negative_log_likelihood(log_probability: Tensor, sequence: Tensor) -> float:
    return -float(log_probability[:-1].gather(1, sequence[1:, None]).mean(dtype=torch.float64))


def measure_candidates(
    model: nn.Module,
    candidates: Mapping[str, Candidate],
    token_ids: Tensor,
    progress: Progress,
    sequences_at_once: int = 2,
) -> dict[str, Quality]:
    """Measure candidates against the original on the same sequences.

    Only ``sequences_at_once`` sequences' predictions of the original are held at a time.

    Args:
        model: the original model.
        candidates: matrices to install, by the candidate's name.
        token_ids: int64 [sequences, tokens].
        progress: shows how far the work is.
        sequences_at_once: a larger number installs candidates less often and takes more memory.

    Returns:
        The quality of every candidate, and of ``original``.
    """
    kl: dict[str, list[float]] = {name: [] for name in candidates}
    likelihood: dict[str, list[float]] = {name: [] for name in ["original", *candidates]}
    batches = torch.split(token_ids, sequences_at_once)
    jobs = [(batch, name) for batch in range(len(batches)) for name in ["original", *candidates]]
    originals: list[Tensor] = []
    with torch.no_grad():
        for batch, name in progress(jobs, "measuring on text"):
            if name == "original":
                originals = [_log_probabilities(model, sequence) for sequence in batches[batch]]
                likelihood[name] += map(_negative_log_likelihood, originals, batches[batch])
                continue
            with installed(model, candidates[name]):
                for original, sequence in zip(originals, batches[batch], strict=True):
                    quantized = _log_probabilities(model, sequence)
                    likelihood[name].append(_negative_log_likelihood(quantized, sequence))
                    divergence = nn.functional.kl_div(quantized, original, reduction="none", log_target=True).sum(-1)
                    kl[name].append(float(divergence.mean(dtype=torch.float64)))
    kl["original"] = [0.0] * len(token_ids)
    return {name: Quality(tuple(kl[name]), tuple(likelihood[name])) for name in likelihood}
