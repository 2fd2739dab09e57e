"""Direct measurement: the KL divergence of one layer in one format, all other layers as they were.

    c(l, f) = mean over tokens of KL(original ‖ original with layer l in format f)

It holds outside the range of any expansion, and ignores how layers interact. It costs a forward pass from the layer's
block on for every layer, format and sequence: L · F / 2 passes over the text, where the Fisher form takes a few. It is
for small models, few sequences, and as a reference for other estimators.

Knows nothing about rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from ...models.layers import Layer
from ...quantization.formats import Format
from ..calibration.backward_pass import BlockVisit
from ..calibration.capture import Capture
from ..calibration.partial_run import PartialRuns, partial_runs
from .base import Estimator, PricingContext, Samples, WeightChanges


@dataclass(frozen=True)
class DirectEstimator:
    """Measures every change by itself, with the original's runs on the pricing sequences."""

    runs: PartialRuns
    needs_gradients = False
    first_token_squares: list[float] = field(default_factory=list)

    def price_block(self, visit: BlockVisit, changes: WeightChanges) -> Samples:
        """Measure the changes of the layers of a block."""
        del visit
        return {layer.name: self.price_end(layer, changes, None) for layer in changes.layers}

    def price_end(self, layer: Layer, changes: WeightChanges, captured: Capture | None) -> dict[Format, Tensor]:
        """Measure the changes of any layer."""
        del captured
        matrix = changes.matrix(layer)
        return {target: self.runs.divergences(layer, matrix + delta) for target, delta in changes.deltas(layer)}


@contextmanager
def direct(on: PricingContext) -> Iterator[Estimator]:
    """Run the original on the pricing sequences."""
    with partial_runs(on.loaded.model, on.structure, on.token_ids, on.cache.folder, on.progress) as runs:
        yield DirectEstimator(runs)
