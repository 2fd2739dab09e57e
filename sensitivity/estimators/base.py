"""What estimators are given, and what they return.

An estimator is given a block whose layers were rounded, and returns samples of the loss increase of every change. There
are two kinds: those that need only the change itself, and those that work through layer gradients, that is the inputs
and output gradients of every layer on a few pricing sequences at a time.

Knows nothing about particular estimators.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...common.progress import Progress
from ...models.layers import Layer, ModelStructure
from ...models.loading import LoadedModel
from ...quantization.formats import Format
from ..calibration.backward_pass import BlockVisit, LayerGradients
from ..calibration.capture import Capture, LabelDraws
from ..calibration.resume_cache import ResumeCache

Samples = dict[str, dict[Format, Tensor]]  # float64 [sequences] by layer and format, in nats per token


@dataclass(frozen=True)
class PricingContext:
    """What an estimator measures on.

    Attributes:
        loaded: the model.
        structure: its layers.
        token_ids: the pricing sequences, int64 [sequences, tokens].
        layers: the layers to be priced.
        draws: how labels are sampled; probes use the same seed.
        progress: shows how far the passes are.
        cache: finished pieces of work, and a place for large temporary files.
    """

    loaded: LoadedModel
    structure: ModelStructure
    token_ids: Tensor
    layers: Sequence[Layer]
    draws: LabelDraws
    progress: Progress
    cache: ResumeCache


class WeightChanges(Protocol):
    """The changes that rounding makes to the layers of a block, or to embedding and head."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers that were rounded."""
        ...

    def matrix(self, layer: Layer) -> Tensor:
        """Give a layer's original matrix, float32 [out, in]."""
        ...

    def deltas(self, layer: Layer) -> Iterator[tuple[Format, Tensor]]:
        """Yield each format of a layer with ΔW, rounded minus original, [out, in]."""
        ...


class Estimator(Protocol):
    """Estimates the loss increase of changes of layers, one sample a pricing sequence."""

    @property
    def needs_gradients(self) -> bool:
        """Whether the pricing sequences have to be differentiated."""
        ...

    @property
    def first_token_squares(self) -> list[float]:
        """Σ aₜ² over first tokens and over all tokens so far; empty where the estimator cannot tell."""
        ...

    def price_block(self, visit: BlockVisit, changes: WeightChanges) -> Samples:
        """Sample the loss increase of changes of the layers of a block; the mean is the estimate."""
        ...

    def price_end(self, layer: Layer, changes: WeightChanges, captured: Capture | None) -> dict[Format, Tensor]:
        """Sample the loss increase of changes of the embedding or the head.

        Args:
            layer: the embedding or the head.
            changes: its changes among others.
            captured: the pricing sequences after the backward pass; None where they were not differentiated.

        Returns:
            float64 [sequences] for every format.
        """
        ...


@dataclass(frozen=True)
class WeightEstimator:
    """Prices a change without layer gradients: ``price`` gives float64 [sequences] for a layer and its ΔW."""

    price: Callable[[Layer, Tensor], Tensor]
    needs_gradients = False
    first_token_squares: list[float] = field(default_factory=list)

    def price_block(self, visit: BlockVisit, changes: WeightChanges) -> Samples:
        """Price the changes of the layers of a block."""
        del visit
        return {layer.name: self.price_end(layer, changes, None) for layer in changes.layers}

    def price_end(self, layer: Layer, changes: WeightChanges, captured: Capture | None) -> dict[Format, Tensor]:
        """Price the changes of any layer."""
        del captured
        return {target: self.price(layer, delta) for target, delta in changes.deltas(layer)}


def price_by_gradients(
    visit: BlockVisit,
    changes: WeightChanges,
    pricing: Callable[[Layer, LayerGradients], Callable[[Format, Tensor], Tensor]],
) -> Samples:
    """Price the changes of the layers of a block on a few pricing sequences at a time.

    Args:
        visit: the block.
        changes: the changes of its layers.
        pricing: for a layer and its gradients, a function from a format and its ΔW to float64 [sequences].

    Returns:
        The samples.
    """
    batches: dict[str, dict[Format, list[Tensor]]] = {}
    for gradients_by_layer in visit.gradient_batches():
        for layer in changes.layers:
            of_layer = batches.setdefault(layer.name, {})
            price = pricing(layer, gradients_by_layer[layer])
            for target, delta in changes.deltas(layer):
                of_layer.setdefault(target, []).append(price(target, delta))
    return {
        name: {target: torch.cat(samples) for target, samples in of_layer.items()} for name, of_layer in batches.items()
    }
