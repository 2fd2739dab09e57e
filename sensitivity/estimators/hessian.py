"""The Hessian of the language-model loss as an operator, by exact Hessian-vector products.

The loss is the mean negative log-likelihood of the text's own next tokens on one sequence; the product H v is the
gradient of ⟨∇L, v⟩ (Pearlmutter 1994), taken by differentiating twice.

Knows nothing about estimators.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class SequenceHessian:
    """H of the loss on one sequence, int64 [tokens], with respect to some parameters, one block each."""

    model: nn.Module
    parameters: Sequence[nn.Parameter]
    token_ids: Tensor

    @property
    def shapes(self) -> list[torch.Size]:
        """The parameters' shapes."""
        return [parameter.shape for parameter in self.parameters]

    def __matmul__(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """Multiply H with a vector."""
        for parameter in self.parameters:
            parameter.requires_grad_()
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel that can be differentiated twice
                logits = self.model(self.token_ids.unsqueeze(0), use_cache=False).logits[0, :-1]
                loss = nn.functional.cross_entropy(logits, self.token_ids[1:])
                gradients = torch.autograd.grad(loss, list(self.parameters), create_graph=True)
                cast_blocks = [block.to(part.dtype) for block, part in zip(blocks, gradients, strict=True)]
                return list(torch.autograd.grad(gradients, list(self.parameters), grad_outputs=cast_blocks))
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
