"""The Fisher loss increase of one layer in one format, in its token-quadratic form.

    c(l, f) = ½ · mean over tokens of (gₜᵀ ΔW xₜ)²

x: the layer's input; g: the gradient at its output of the summed log-probability of labels sampled from the model;
ΔW: rounded minus original. This is ½ vec(ΔW)ᵀ F vec(ΔW), the second-order expansion of the mean KL divergence per
token, with the covariances between different tokens' scores left out.

Knows nothing about where inputs and gradients come from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_ROWS_AT_ONCE = 2048


def fisher_samples(inputs: Tensor, gradients: Tensor, delta: Tensor, tokens_per_sequence: Sequence[int]) -> Tensor:
    """Estimate the loss increase of one change of one matrix, once for every sequence.

    Args:
        inputs: x, [tokens of all sequences, in].
        gradients: g, [tokens of all sequences, out].
        delta: ΔW, [out, in].
        tokens_per_sequence: how the rows divide over the sequences.

    Returns:
        float64 [sequences], ½ · mean over the sequence's tokens of (gᵀ ΔW x)², in nats per token. Their mean estimates
        c(l, f), their spread its standard error.

    >>> x, g = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0], [2.0]])
    >>> fisher_samples(x, g, torch.tensor([[1.0, -1.0]]), [1, 1]).tolist()  # ½ (1 · −1)² and ½ (2 · −1)²
    [0.5, 2.0]
    """
    if not bool(delta.any()):
        return torch.zeros(len(tokens_per_sequence), dtype=torch.float64)
    transposed = delta.t()
    changes = [
        (inputs[start : start + _ROWS_AT_ONCE] @ transposed).mul_(gradients[start : start + _ROWS_AT_ONCE]).sum(1)
        for start in range(0, len(inputs), _ROWS_AT_ONCE)
    ]
    squares = torch.cat(changes).double().square()
    return torch.stack([part.sum() / max(len(part), 1) / 2 for part in torch.split(squares, list(tokens_per_sequence))])
