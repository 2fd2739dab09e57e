"""The linear model of HIGGS (Malinovskii et al. 2024, arXiv 2411.17525): loss grows with the relative weight error.

    c(l, f) = α_l · t²,   t² = ‖ΔW‖² / ‖W‖²

α_l is measured once per layer: Gaussian noise of a small relative size t₀² is added to its matrix, and the resulting KL
divergence is divided by t₀². What a rounding method does besides making ΔW small, such as GPTQ's turning it away from
the inputs, is not seen.

Knows nothing about rounding or formats.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ...models.layers import Layer, matrix_of
from ..calibration.partial_run import PartialRuns, partial_runs
from .base import Estimator, PricingContext, WeightEstimator

NOISE_RELATIVE_SQUARE = 0.01  # t₀², about that of 4 bits in groups of 64


def slopes(runs: PartialRuns, layer: Layer, matrix: Tensor, generator: torch.Generator) -> Tensor:
    """Measure α_l.

    Args:
        runs: the original's on some sequences.
        layer: the layer.
        matrix: W, [out, in].
        generator: draws the noise.

    Returns:
        float64 [sequences], KL divergence in nats per token divided by t₀².
    """
    noise = torch.randn(matrix.shape, generator=generator)
    noise *= matrix.norm() * NOISE_RELATIVE_SQUARE**0.5 / noise.norm()
    return runs.divergences(layer, matrix + noise) / NOISE_RELATIVE_SQUARE


@contextmanager
def linear(on: PricingContext) -> Iterator[Estimator]:
    """Measure α_l of every layer."""
    matrices = {layer.name: matrix_of(on.loaded.model.get_submodule(layer.name)) for layer in on.layers}
    generator = torch.Generator().manual_seed(on.draws.seed)
    with partial_runs(on.loaded.model, on.structure, on.token_ids, on.cache.folder, on.progress) as runs:
        slope = {
            layer.name: slopes(runs, layer, matrices[layer.name], generator)
            for layer in on.progress(list(on.layers), "perturbing layers")
        }

    def price(layer: Layer, delta: Tensor) -> Tensor:
        square = float(matrices[layer.name].double().square().sum())
        return slope[layer.name] * (float(delta.double().square().sum()) / square if square else 0.0)

    yield WeightEstimator(price)
