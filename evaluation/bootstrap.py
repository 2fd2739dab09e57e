"""Confidence intervals by the block bootstrap.

Tokens of one document depend on each other, and so do its sequences; whole documents are resampled with replacement
(Künsch 1989; Efron 1979). With B documents, of which resample r holds document b n(r, b) times, and s(i) the document
of sequence i, a mean over sequences becomes

    mean(r) = Σ_i n(r, s(i)) v_i / Σ_i n(r, s(i))

and any function of such means is resampled by the same draws, so that what plans have in common cancels in their ratio.

A percentile interval of few documents is too narrow. It is widened as in Hesterberg (2015): the level α/2 is
replaced by Φ(−√(B / (B − 1)) · t), t the quantile of Student's distribution with B − 1 degrees of freedom, which makes
the interval of a mean that of the t-test.

Knows nothing about models, plans or text.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..common.errors import InputError
from ..common.records import Finite, Record


class Interval(Record):
    """An estimate and the two-sided interval around it.

    Attributes:
        estimate: on the whole text.
        lower: lower bound.
        upper: upper bound.
    """

    estimate: Finite
    lower: Finite
    upper: Finite


class BootstrapSettings(Record):
    """How intervals are made.

    Attributes:
        confidence: of a two-sided interval; either end is a one-sided bound of confidence (1 + confidence) / 2.
        num_resamples: number of resamples of the documents.
        seed: of the draws.
    """

    confidence: Finite = 0.95
    num_resamples: int = 4000
    seed: int = 0


def needed_documents(confidence: float) -> int:
    """Count the documents that a confidence needs.

    All of n independent values lie on one side of their median with probability 2 · 2⁻ⁿ: from fewer values, no interval
    that rests on them alone has this confidence, however wide.

    Args:
        confidence: of a two-sided interval, between 0 and 1.

    Returns:
        The least n with 2 · 2⁻ⁿ ≤ 1 − confidence.

    Raises:
        InputError: the confidence is not between 0 and 1.

    >>> needed_documents(0.95), needed_documents(0.99)
    (6, 8)
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {confidence:g}. Give for instance 0.95.")
    return math.ceil(math.log2(2 / (1 - confidence)) - 1e-9)


@dataclass(frozen=True)
class BlockBootstrap:
    """Draws of documents.

    Attributes:
        document_of_sequence: the number of each sequence's document.
        bootstrap: confidence, number of draws, seed.
    """

    document_of_sequence: tuple[int, ...]
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    @cached_property
    def num_documents(self) -> int:
        """Number of different documents that the sequences come from."""
        return len(set(self.document_of_sequence))

    def require_enough(self) -> None:
        """Require enough documents and resamples for the confidence."""
        needed = needed_documents(self.bootstrap.confidence)
        if self.num_documents < needed:
            raise InputError(
                f"the evaluation sequences come from {self.num_documents} documents, too few for intervals of "
                f"{self.bootstrap.confidence:.0%} confidence, which take {needed}. Measure on at least {needed} "
                "sequences of different documents (--sequences, or a longer text), or lower --confidence."
            )
        if self.bootstrap.num_resamples < 1000:
            raise InputError(
                f"the ends of an interval need 1000 or more resamples, got {self.bootstrap.num_resamples}."
            )

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Weight of every sequence in every resample, float64 [resamples, sequences]; rows sum to 1."""
        _, document = np.unique(self.document_of_sequence, return_inverse=True)
        generator = np.random.default_rng(self.bootstrap.seed)
        counts = generator.multinomial(
            self.num_documents, [1 / self.num_documents] * self.num_documents, self.bootstrap.num_resamples
        )
        drawn = counts[:, document].astype(np.float64)
        shares: NDArray[np.float64] = drawn / drawn.sum(axis=1, keepdims=True)
        return shares

    def means(self, values: ArrayLike) -> NDArray[np.float64]:
        """Resample a mean.

        Args:
            values: float64 [sequences] or [sequences, columns].

        Returns:
            float64 [resamples] or [resamples, columns].
        """
        resampled: NDArray[np.float64] = self.weights @ np.asarray(values, dtype=np.float64)
        return resampled

    @cached_property
    def levels(self) -> tuple[float, float]:
        """The quantiles of the resamples that bound an interval."""
        blocks = self.num_documents
        tail = (1 - self.bootstrap.confidence) / 2
        level = float(stats.norm.cdf(math.sqrt(blocks / (blocks - 1)) * stats.t.ppf(tail, blocks - 1)))
        return level, 1 - level

    def interval(self, estimate: float, replicates: ArrayLike) -> Interval:
        """Give the interval of a quantity from its estimate, which it includes, and its value in every resample."""
        lower, upper = np.quantile(np.asarray(replicates, dtype=np.float64), self.levels)
        return Interval(estimate=estimate, lower=min(float(lower), estimate), upper=max(float(upper), estimate))

    def mean_interval(self, values: ArrayLike) -> Interval:
        """Give the interval of a mean over sequences."""
        listed = np.asarray(values, dtype=np.float64)
        return self.interval(math.fsum(listed) / len(listed), self.means(listed))
