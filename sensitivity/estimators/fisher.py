"""The Fisher loss increase of one layer in one format: three forms of the same sum.

Let labels ŷ be sampled from the model's own prediction, x a layer's input at token t, g the gradient at its output of
the summed log-probability of the labels, ΔW rounded minus original, and

    aₜ = gₜᵀ ΔW xₜ

the contribution of token t to the first-order change of that log-probability. Labels at different positions are drawn
independently, so their scores' covariance is T times the Fisher matrix F of one token, and over draws of labels

    sequence form    ½ · (Σₜ aₜ)² / T    has the mean    ½ vec(ΔW)ᵀ F vec(ΔW),

the second-order expansion of the mean KL divergence per token. But one draw is the square of a nearly normal number,
so its standard deviation is 1.4 times its mean. The

    token form       ½ · Σₜ aₜ² / T

averages T squares, but omits E aₜ aₛ for s ≠ t, which is not zero: a prediction depends on a layer at several tokens,
mostly neighbouring ones. The quantity sought is the long-run variance of the series aₜ, and the

    window form      ½ · Σ_{|s − t| < w} (1 − |s − t| / w) aₜ aₛ / T

is the estimator of Newey and West (1987, Econometrica 55, 703–708): never negative, the token form for w = 1 and
the sequence form for w → ∞. It equals the mean square of the sums over all windows of w neighbouring tokens. An expert
sees a share of the tokens, and its window is that share of w: about w tokens of the text.

Knows nothing about where inputs and gradients come from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOW_TOKENS = 128  # by measurement, see benchmarks/LOG.md


def first_order_changes(inputs: Tensor, gradients: Tensor, delta: Tensor) -> Tensor:
    """Compute aₜ = gₜᵀ ΔW xₜ; the product ΔW x serves all draws of labels.

    Args:
        inputs: x, [tokens, in].
        gradients: g, [draws, tokens, out].
        delta: ΔW, [out, in].

    Returns:
        float64 [draws, tokens].

    >>> x, g = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[[1.0], [2.0]]])
    >>> first_order_changes(x, g, torch.tensor([[1.0, -1.0]])).tolist()
    [[-1.0, -2.0]]
    """
    if not bool(delta.any()):
        return torch.zeros(gradients.shape[:2], dtype=torch.float64)
    changes = inputs @ delta.t()
    return torch.einsum("dto,to->dt", gradients, changes).double()


def token_form(changes: Tensor, rows_per_sequence: Sequence[int], sequence_length: int) -> Tensor:
    """Compute the token form of every sequence.

    Args:
        changes: aₜ, [draws, rows of all sequences]; a row is a token that the layer saw.
        rows_per_sequence: the number of rows of each sequence.
        sequence_length: T, tokens in every sequence, seen by the layer or not.

    Returns:
        float64 [sequences], in nats per token, the mean over the draws.

    >>> token_form(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), [2, 2], 2).tolist()  # ½ (1 + 9) / 2 and ½ · 4 / 2
    [2.5, 1.0]
    """
    squares = changes.double().square().mean(0)
    return torch.stack([part.sum() for part in torch.split(squares, list(rows_per_sequence))]) / (2 * sequence_length)


def sequence_form(changes: Tensor, rows_per_sequence: Sequence[int], sequence_length: int) -> Tensor:
    """Compute the sequence form of every sequence.

    Args:
        changes: aₜ, [draws, rows of all sequences].
        rows_per_sequence: the number of rows of each sequence.
        sequence_length: T.

    Returns:
        float64 [sequences], in nats per token, the mean over the draws.

    >>> sequence_form(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), [2, 2], 2).tolist()  # ½ (1 + 3)² / 2 and ½ (2 + 0)² / 2
    [4.0, 1.0]
    """
    parts = torch.split(changes.double(), list(rows_per_sequence), dim=1)
    return torch.stack([part.sum(1).square().mean() for part in parts]) / (2 * sequence_length)


def window_form(
    changes: Tensor, rows_per_sequence: Sequence[int], sequence_length: int, window: int = WINDOW_TOKENS
) -> Tensor:
    """Compute the window form of every sequence.

    Args:
        changes: aₜ, [draws, rows of all sequences].
        rows_per_sequence: the number of rows of each sequence.
        sequence_length: T.
        window: w, tokens.

    Returns:
        float64 [sequences], in nats per token, the mean over the draws.

    >>> window_form(torch.tensor([[1.0, 3.0]]), [2], 2, 2).tolist()  # ½ (1 + 9 + 2 · ½ · 3) / 2
    [3.25]
    >>> window_form(torch.tensor([[1.0, 3.0]]), [2], 2, 1).tolist()  # the token form
    [2.5]
    >>> window_form(torch.tensor([[1.0, 3.0]]), [2], 4, 4).tolist()  # two of four tokens seen: 2 rows are about 4
    [1.625]
    """
    samples = []
    for part in torch.split(changes.double(), list(rows_per_sequence), dim=1):
        rows = part.shape[1]
        width = max(1, round(window * rows / sequence_length))
        sums = torch.nn.functional.pad(part.cumsum(1), (1, 0))
        first = torch.arange(1 - width, rows)
        in_windows = sums[:, (first + width).clamp_max(rows)] - sums[:, first.clamp_min(0)]
        samples.append(in_windows.square().sum(1).mean() / width)
    return torch.stack(samples) / (2 * sequence_length)
