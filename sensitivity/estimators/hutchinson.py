"""Hutchinson's estimators of a trace (Hutchinson 1990) and of a diagonal (Bekas, Kokiopoulou, Saad 2007).

Let A be symmetric and z a vector of independent signs, E z zᵀ = I. Then E zᵀ A z = tr A and E z ∘ A z = diag A.
With one sign vector over the weights of all layers, the part of zᵀ A z that belongs to a layer estimates the trace
of that layer's diagonal block, since terms between two layers have mean zero: one product serves all layers.

Knows nothing about models or losses: it sees operators that multiply.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class BlockOperator(Protocol):
    """A symmetric linear operator on vectors in blocks, one block a layer."""

    @property
    def shapes(self) -> Sequence[torch.Size]:
        """The blocks' shapes."""
        ...

    def __matmul__(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """Multiply with a vector in blocks of these shapes."""
        ...


def diagonal_samples(operator: BlockOperator, generator: torch.Generator) -> list[Tensor]:
    """Draw one unbiased sample of the diagonal, z ∘ A z, in blocks; a block's sum is a sample of its trace."""
    signs = [torch.randint(0, 2, shape, generator=generator).float().mul_(2).sub_(1) for shape in operator.shapes]
    return [product.mul_(sign) for product, sign in zip(operator @ signs, signs, strict=True)]
