"""Where quality crosses a threshold as plans get smaller.

A specimen is loaded step by step until it yields; here a model is compressed step by step. Each plan of the budget
sweep has a load, the KL divergence D from the original, and a deflection, the loss of quality: the rise of the text's
mean negative log-likelihood, so that perplexity rises by the factor exp(loss). The original is the point (0, 0).

The curve through the points is the isotonic regression of the loss on D (a loss that seems to fall as D rises is
noise), joined by straight lines. A threshold is crossed where the curve first reaches it: between two measured points,
or beyond the last one, which is then all that is known. Nothing is extrapolated.

Knows nothing about models, plans or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from ..bootstrap import BlockBootstrap
from ..quality import Quality

Floats = NDArray[np.float64]
ORIGIN = "original"


@dataclass(frozen=True)
class Crossing:
    """Where a threshold is crossed.

    Attributes:
        kl_nats: the KL divergence there; the largest of the sweep where it is not crossed.
        reached: whether it is crossed.
        between: the sweep points around it; the last one alone where it is not crossed.
        replicates: the KL divergence in every resample of the text, float64 [resamples].
        share_reached: share of the resamples in which it is crossed.
    """

    kl_nats: float
    reached: bool
    between: tuple[str, ...]
    replicates: Floats
    share_reached: float


@dataclass(frozen=True)
class DegradationCurve:
    """Loss of quality against KL divergence, on the whole text and on every resample of it.

    Attributes:
        names: of the sweep points.
        kl_nats: float64 [points].
        loss_nats: rise of the negative log-likelihood per token, float64 [points].
        kl_replicates: float64 [resamples, points].
        loss_replicates: likewise.
    """

    names: tuple[str, ...]
    kl_nats: Floats
    loss_nats: Floats
    kl_replicates: Floats
    loss_replicates: Floats

    def crossing(self, threshold_nats: float) -> Crossing:
        """Find where the curve first reaches a loss, above 0."""
        kl, order, position = _cross(self.kl_nats, self.loss_nats, threshold_nats)
        names = [ORIGIN, *(self.names[index] for index in order)]
        reached = position < len(names)
        resampled = [
            _cross(loads, losses, threshold_nats)
            for loads, losses in zip(self.kl_replicates, self.loss_replicates, strict=True)
        ]
        return Crossing(
            kl_nats=kl,
            reached=reached,
            between=(names[position - 1], names[position]) if reached else (names[-1],),
            replicates=np.array([one[0] for one in resampled]),
            share_reached=sum(one[2] < len(names) for one in resampled) / len(resampled),
        )


def _cross(loads: Floats, losses: Floats, threshold: float) -> tuple[float, NDArray[np.intp], int]:
    """Give the load at the threshold, the points by load, and the first position beyond the threshold (0: origin)."""
    order = np.argsort(loads, kind="stable")
    load = np.concatenate([[0.0], loads[order]])
    loss = np.concatenate([[0.0], np.maximum(isotonic_regression(losses[order]).x, 0.0)])
    beyond = np.flatnonzero(loss >= threshold)
    if not len(beyond):
        return float(load[-1]), order, len(load)
    position = int(beyond[0])
    share = (threshold - loss[position - 1]) / (loss[position] - loss[position - 1])
    return float(load[position - 1] + share * (load[position] - load[position - 1])), order, position


def curve_of(
    names: Sequence[str], sweep_points: Sequence[Quality], original: Quality, resampling: BlockBootstrap
) -> DegradationCurve:
    """Draw the curve of a sweep on one domain.

    Args:
        names: of the sweep points.
        sweep_points: their measured quality.
        original: the original's on the same sequences.
        resampling: the draws of documents.

    Returns:
        The curve.
    """
    kl = np.array([sweep_point.kl_nats for sweep_point in sweep_points]).T
    loss = np.array([loss_by_sequence(sweep_point, original) for sweep_point in sweep_points]).T
    return DegradationCurve(
        names=tuple(names),
        kl_nats=kl.mean(axis=0),
        loss_nats=loss.mean(axis=0),
        kl_replicates=resampling.means(kl),
        loss_replicates=resampling.means(loss),
    )


def loss_by_sequence(quality: Quality, original: Quality) -> Floats:
    """Give the rise of a plan's negative log-likelihood over the original's in nats per token, float64 [sequences]."""
    return np.subtract(quality.negative_log_likelihood_nats, original.negative_log_likelihood_nats)
