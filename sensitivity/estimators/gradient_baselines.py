"""Cheap or classical baselines, which ignore more of the Fisher matrix, or the gradients altogether.

With x a layer's input, g the gradient at its output of the log-probability of sampled labels, T tokens in a sequence:

fisher-diagonal       ½ Σᵢⱼ Fᵢⱼ ΔWᵢⱼ² / T,  Fᵢⱼ = Σₜ (gₜᵢ xₜⱼ)²: the diagonal of the Fisher matrix, as in Optimal Brain
                      Damage (LeCun, Denker, Solla 1989) and elastic weight consolidation (Kirkpatrick et al. 2017)
element-wise          ½ Σₜ Σᵢ gₜᵢ² (ΔW xₜ)ᵢ² / T: outputs independent of each other, as in the gradient score of
                      NVIDIA's ModelOpt AutoQuantize
output-error          Σₜ ‖ΔW xₜ‖² / Σₜ ‖W xₜ‖²: the relative output error, a number without a unit, which ranks formats
                      and predicts no loss

Knows nothing about formats or rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...common.errors import InputError
from ...models.layers import Layer
from ...quantization.formats import Format
from ..calibration.backward_pass import BlockVisit, LayerGradients
from ..calibration.capture import Capture
from .base import Samples, WeightChanges, price_by_gradients

GradientPrice = Callable[[Tensor, LayerGradients, Tensor], Tensor]


def fisher_diagonal(matrix: Tensor, layer_gradients: LayerGradients, delta: Tensor) -> Tensor:
    """Compute ½ Σᵢⱼ Σₜ (gₜᵢ xₜⱼ)² ΔWᵢⱼ² / T of every sequence, without forming a matrix over i and j.

    Args:
        matrix: not used.
        layer_gradients: x and g.
        delta: ΔW, [out, in].

    Returns:
        float64 [sequences], in nats per token, the mean over the draws.
    """
    del matrix
    spread = layer_gradients.inputs.square() @ delta.square().t()
    return _sum_of_sequences(
        torch.einsum("dto,to->t", layer_gradients.gradients.square(), spread) / len(layer_gradients.gradients),
        layer_gradients,
    ) / (2 * layer_gradients.sequence_length)


def element_wise(matrix: Tensor, layer_gradients: LayerGradients, delta: Tensor) -> Tensor:
    """Compute ½ Σₜ Σᵢ gₜᵢ² (ΔW xₜ)ᵢ² / T of every sequence.

    Args:
        matrix: not used.
        layer_gradients: x and g.
        delta: ΔW, [out, in].

    Returns:
        float64 [sequences], in nats per token, the mean over the draws.
    """
    del matrix
    errors = (layer_gradients.inputs @ delta.t()).square_()
    return _sum_of_sequences(
        torch.einsum("dto,to->t", layer_gradients.gradients.square(), errors) / len(layer_gradients.gradients),
        layer_gradients,
    ) / (2 * layer_gradients.sequence_length)


def output_error(matrix: Tensor, layer_gradients: LayerGradients, delta: Tensor) -> Tensor:
    """Compute Σₜ ‖ΔW xₜ‖² / Σₜ ‖W xₜ‖² of every sequence; zero where the output is zero or no token was seen.

    Args:
        matrix: W, [out, in].
        layer_gradients: x.
        delta: ΔW, [out, in].

    Returns:
        float64 [sequences], without a unit.
    """
    errors = _sum_of_sequences((layer_gradients.inputs @ delta.t()).square_().sum(1), layer_gradients)
    outputs = _sum_of_sequences((layer_gradients.inputs @ matrix.t()).square_().sum(1), layer_gradients)
    return torch.where(outputs > 0, errors / outputs.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def _sum_of_sequences(rows: Tensor, layer_gradients: LayerGradients) -> Tensor:
    """Sum rows by sequence: [rows] to float64 [sequences]."""
    return torch.stack([part.sum() for part in torch.split(rows.double(), layer_gradients.rows_per_sequence)])


@dataclass(frozen=True)
class GradientEstimator:
    """Prices layers inside the blocks from their gradients; ``price`` gives float64 [sequences].

    Attributes:
        name: the estimator's, for messages.
        price: from W, the layer gradients and ΔW.
    """

    name: str
    price: GradientPrice
    needs_gradients = True
    first_token_squares: list[float] = field(default_factory=list)

    def price_block(self, visit: BlockVisit, changes: WeightChanges) -> Samples:
        """Price the changes of the layers of a block."""

        def pricing(layer: Layer, layer_gradients: LayerGradients) -> Callable[[Format, Tensor], Tensor]:
            return lambda _, delta: self.price(changes.matrix(layer), layer_gradients, delta)

        return price_by_gradients(visit, changes, pricing)

    def price_end(self, layer: Layer, changes: WeightChanges, captured: Capture | None) -> dict[Format, Tensor]:
        """Refuse the embedding and the head."""
        del changes, captured
        raise InputError(
            f"the estimator {self.name} does not price the {layer.kind}. Leave it in 16 bits (without --include "
            f"{layer.kind}), or use the estimator fisher."
        )
