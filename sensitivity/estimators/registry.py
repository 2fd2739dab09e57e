"""The estimators by name; each prepares what it needs, see the module base.

fisher              ½ vec(ΔW)ᵀ F vec(ΔW) in its window form, F the Fisher matrix: see the module fisher
fisher-token        the same, without the terms between different tokens
fisher-sequence     the same, with all of these terms and a larger error
fisher-diagonal     with the diagonal of F alone; it, element-wise and output-error: see the module gradient_baselines
hessian-trace       ½ · tr(H_l) / n_l · ‖ΔW‖², n_l weights in layer l (Dong et al. 2020, HAWQ-V2, arXiv 1911.03852)
hessian-xtrace      the same, with the traces by the variance-reduced method XTrace
hessian-diagonal    ½ · Σ diag(H_l) ∘ ΔW² (as in Optimal Brain Damage, LeCun et al. 1989)
direct              the measured KL divergence of each layer in each format, all others unchanged: see the module direct
linear              α_l · ‖ΔW‖² / ‖W‖², α_l from a measured perturbation of each layer: see the module higgs

H is the Hessian of the text's negative log-likelihood; its traces and diagonals are estimated by random probes, one
set for each sequence.

Knows nothing about formats or rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...common.files import require_writable
from ...models.layers import Layer
from .base import Estimator, PricingContext, WeightEstimator
from .direct import direct
from .fisher import sequence_form, token_form, window_form
from .fisher_estimator import FisherEstimator, Form
from .gradient_baselines import GradientEstimator, GradientPrice, element_wise, fisher_diagonal, output_error
from .hessian import SequenceHessian
from .higgs import linear
from .hutchinson import diagonal_samples
from .xtrace import xtrace

EstimatorFactory = Callable[[PricingContext], AbstractContextManager[Estimator]]
_XTRACE_PRODUCTS = 8


def _diagonal_pieces(on: PricingContext, reduce: Callable[[Tensor], Tensor], prefix: str) -> Iterator[str]:
    """Draw a sample of the Hessian's diagonal on every sequence; keep ``reduce`` of it in the cache, by layer name."""
    modules = {layer.name: on.loaded.model.get_submodule(layer.name) for layer in on.layers}
    parameters = [module.weight for module in modules.values()]
    assert all(isinstance(parameter, nn.Parameter) for parameter in parameters)

    def compute(number: int, sequence: Tensor) -> dict[str, Tensor]:
        operator = SequenceHessian(on.loaded.model, parameters, sequence)  # type: ignore[arg-type]
        samples = diagonal_samples(operator, on.draws.generator(number, 0))
        return {
            name: reduce(sample.t() if isinstance(module, Conv1D) else sample)
            for (name, module), sample in zip(modules.items(), samples, strict=True)
        }

    for number, sequence in enumerate(on.progress(list(on.token_ids), "Hessian-vector products")):
        piece = f"{prefix}-{number:05d}"
        on.cache.remember(piece, partial(compute, number, sequence))
        yield piece


def _fisher(form: Form) -> EstimatorFactory:
    """Make a Fisher estimator; it works during the backward pass."""

    @contextmanager
    def prepare(on: PricingContext) -> Iterator[Estimator]:
        yield FisherEstimator(on, form)

    return prepare


def _by_gradients(name: str, price: GradientPrice) -> EstimatorFactory:
    """Make an estimator from layer gradients; it works during the backward pass."""

    @contextmanager
    def prepare(on: PricingContext) -> Iterator[Estimator]:
        del on
        yield GradientEstimator(name, price)

    return prepare


def _mean_square(delta: Tensor) -> float:
    return float(delta.double().square().mean())


@contextmanager
def hessian_trace(on: PricingContext) -> Iterator[Estimator]:
    """Estimate every layer's trace by Hutchinson's method; one product per sequence serves all layers."""
    pieces = list(_diagonal_pieces(on, lambda sample: sample.sum(dtype=torch.float64), "hessian-trace"))
    rows = [on.cache.load(piece) for piece in pieces]
    traces = {layer.name: torch.stack([row[layer.name] for row in rows]) for layer in on.layers}
    yield WeightEstimator(lambda layer, delta: traces[layer.name] * (_mean_square(delta) / 2))


@contextmanager
def hessian_xtrace(on: PricingContext) -> Iterator[Estimator]:
    """Estimate every layer's trace by XTrace with 8 products for every layer and sequence."""
    traces: dict[str, Tensor] = {}
    for layer in on.progress(list(on.layers), "Hessian-vector products"):
        traces |= on.cache.remember(f"hessian-xtrace-{layer.name}", partial(_xtraces, on, layer))
    yield WeightEstimator(lambda layer, delta: traces[layer.name] * (_mean_square(delta) / 2))


def _xtraces(on: PricingContext, layer: Layer) -> dict[str, Tensor]:
    """Estimate the trace of one layer on every sequence."""
    weight = on.loaded.model.get_submodule(layer.name).weight
    assert isinstance(weight, nn.Parameter)
    samples = [
        xtrace(SequenceHessian(on.loaded.model, [weight], sequence), _XTRACE_PRODUCTS, on.draws.generator(number, 0))
        for number, sequence in enumerate(on.token_ids)
    ]
    return {layer.name: torch.tensor(samples, dtype=torch.float64)}


@contextmanager
def hessian_diagonal(on: PricingContext) -> Iterator[Estimator]:
    """Estimate every layer's diagonal; the cache holds samples as large as the model for every sequence."""
    num_bytes = 4 * len(on.token_ids) * sum(layer.num_weights for layer in on.layers)
    require_writable(on.cache.folder / "hessian-diagonal", num_bytes)
    pieces = list(_diagonal_pieces(on, torch.Tensor.contiguous, "hessian-diagonal"))

    def price(layer: Layer, delta: Tensor) -> Tensor:
        squares = delta.square()
        return torch.stack([
            (on.cache.load_one(piece, layer.name) * squares).sum(dtype=torch.float64) / 2 for piece in pieces
        ])

    yield WeightEstimator(price)


ESTIMATORS: dict[str, EstimatorFactory] = {
    "fisher": _fisher(window_form),
    "fisher-token": _fisher(token_form),
    "fisher-sequence": _fisher(sequence_form),
    "fisher-diagonal": _by_gradients("fisher-diagonal", fisher_diagonal),
    "element-wise": _by_gradients("element-wise", element_wise),
    "output-error": _by_gradients("output-error", output_error),
    "hessian-trace": hessian_trace,
    "hessian-xtrace": hessian_xtrace,
    "hessian-diagonal": hessian_diagonal,
    "direct": direct,
    "linear": linear,
}
