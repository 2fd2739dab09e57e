"""The seam between the walk through a model and the estimators of what a change of a layer costs.

An estimator is given a block whose layers were rounded, and gives samples of the loss increase of every change. There
are two kinds: those that need only the change itself, and those that work through tapes, that is inputs and gradients
of every layer on a few pricing sequences at a time.

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
class Measurement:
    """What every estimator measures on.

    Attributes:
        loaded: the model.
        structure: of the model.
        token_ids: the pricing sequences, int64 [sequences, tokens].
        layers: the layers to be priced.
        draws: of labels; their seed is that of the probes, too.
        progress: shows how far the passes are.
        parts: what is finished, and a place for large files meanwhile.
    """

    loaded: LoadedModel
    structure: ModelStructure
    token_ids: Tensor
    layers: Sequence[Layer]
    draws: LabelDraws
    progress: Progress
    parts: ResumeCache


class WeightChanges(Protocol):
    """What became of the layers of a block, or of the ends, by rounding."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers that were rounded."""
        ...

    def matrix(self, layer: Layer) -> Tensor:
        """Give a layer's original matrix.

        Args:
            layer: the layer.

        Returns:
            float32 [out, in].
        """
        ...

    def deltas(self, layer: Layer) -> Iterator[tuple[Format, Tensor]]:
        """Go through a layer's formats.

        Args:
            layer: the layer.

        Returns:
            Each format with ΔW, rounded minus original, [out, in].
        """
        ...


class Estimator(Protocol):
    """Gives samples of the loss increase of changes of layers."""

    @property
    def needs_gradients(self) -> bool:
        """Whether the pricing sequences have to be differentiated."""
        ...

    @property
    def first_token_squares(self) -> list[float]:
        """Σ aₜ² over first tokens and over all, for what was priced so far; empty where the estimator cannot tell."""
        ...

    def price_block(self, visit: BlockVisit, changes: WeightChanges) -> Samples:
        """Price the changes of the layers of a block."""
        ...

    def price_end(self, layer: Layer, changes: WeightChanges, captured: Capture | None) -> dict[Format, Tensor]:
        """Price changes of the embedding or the head."""
        ...


@dataclass(frozen=True)
class WeightEstimator:
    """Prices a change by itself.

    Attributes:
        price: float64 [samples] for a layer and its ΔW.
    """

    price: Callable[[Layer, Tensor], Tensor]
    needs_gradients = False
    first_token_squares: list[float] = field(default_factory=list)

    def price_block(self, visit: BlockVisit, changes: WeightChanges) -> Samples:
        """Price the changes of the layers of a block."""
        del visit
        return {layer.name: self.price_end(layer, changes, None) for layer in changes.layers}

    def price_end(self, layer: Layer, changes: WeightChanges, captured: Capture | None) -> dict[Format, Tensor]:
        """Price changes of any layer."""
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
        changes: of its layers.
        pricing: for a layer and its tape, what gives float64 [sequences of the tape] for a format and its ΔW.

    Returns:
        The samples.
    """
    parts: dict[str, dict[Format, list[Tensor]]] = {}
    for gradients_by_layer in visit.gradients_by_layer():
        for layer in changes.layers:
            of_layer = parts.setdefault(layer.name, {})
            price = pricing(layer, gradients_by_layer[layer])
            for target, delta in changes.deltas(layer):
                of_layer.setdefault(target, []).append(price(target, delta))
    return {
        name: {target: torch.cat(samples) for target, samples in of_layer.items()} for name, of_layer in parts.items()
    }
