"""The Fisher estimators: from layer gradients to samples of the loss increase.

Knows nothing about formats or rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models.layers import Layer, output_head
from ...quantization.formats import Format
from ..calibration.backward_pass import BlockVisit, LayerGradients
from ..calibration.capture import Capture
from .activation_rounding import ActivationRounding
from .base import PricingContext, Samples, WeightChanges, price_by_gradients
from .ends import embedding_changes, head_changes

Form = Callable[[Tensor, Sequence[int], int], Tensor]


@dataclass(frozen=True)
class FisherEstimator:
    """Prices changes by one of the forms of the module fisher."""

    on: PricingContext
    form: Form
    first_token_squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    needs_gradients = True

    def price_block(self, visit: BlockVisit, changes: WeightChanges) -> Samples:
        """Price the changes of the layers of a block."""

        def pricing(layer: Layer, layer_gradients: LayerGradients) -> Callable[[Format, Tensor], Tensor]:
            entering = ActivationRounding(
                layer_gradients.inputs, layer_gradients.gradients, lambda: changes.matrix(layer)
            )

            def price(target: Format, delta: Tensor) -> Tensor:
                changed = entering.changes(target, delta)
                self._count_first_tokens(changed, layer_gradients)
                return self.form(changed, layer_gradients.rows_per_sequence, layer_gradients.sequence_length)

            return price

        return price_by_gradients(visit, changes, pricing)

    def _count_first_tokens(self, changed: Tensor, layer_gradients: LayerGradients) -> None:
        """Add to the sums of squares, for layers that see every token."""
        if all(rows == layer_gradients.sequence_length for rows in layer_gradients.rows_per_sequence):
            self.first_token_squares[0] += float(changed[:, :: layer_gradients.sequence_length].square().sum())
            self.first_token_squares[1] += float(changed.square().sum())

    def price_end(self, layer: Layer, changes: WeightChanges, captured: Capture | None) -> dict[Format, Tensor]:
        """Price changes of the embedding, the head, or both if they are tied."""
        on = self.on
        model = on.loaded.model
        assert captured is not None
        module = model.get_submodule(layer.name)
        formats, deltas = zip(*changes.deltas(layer), strict=True)
        num_sequences, length = on.token_ids.shape
        total = torch.zeros(len(deltas), on.draws.number, on.token_ids.numel(), dtype=torch.float64)
        if layer.tied_name is not None or module is output_head(model):
            total += head_changes(model, on.token_ids, list(zip(formats, deltas, strict=True)), on.draws, on.progress)
        if module is model.get_input_embeddings():
            total += embedding_changes(model, on.structure, on.token_ids, deltas, captured.gradients)
        rows = [length] * num_sequences
        return {target: self.form(changed, rows, length) for target, changed in zip(formats, total, strict=True)}
