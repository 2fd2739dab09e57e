"""The estimators by name: each prepares what it needs and gives a pricer, see the module pricing.

fisher              ½ vec(ΔW)ᵀ F vec(ΔW) in its window form, F the Fisher matrix; the module fisher has the details
fisher-token        the same, without what different tokens have in common
fisher-sequence     the same, with all of it, at the price of a larger error
fisher-diagonal     with the diagonal of F alone; element-wise and output-error: the module tape_forms has the three
hessian-trace       ½ · tr(H_l) / n_l · ‖ΔW‖², n_l weights in layer l (Dong et al. 2020, HAWQ-V2, arXiv 1911.03852)
hessian-xtrace      the same, with the traces by the variance-reduced method XTrace
hessian-diagonal    ½ · Σ diag(H_l) ∘ ΔW² (as in Optimal Brain Damage, LeCun et al. 1989)
direct              measured KL divergence of each layer in each format, all others as they were: the module direct
linear              α_l · ‖ΔW‖² / ‖W‖², α_l from a measured perturbation of each layer (HIGGS): the module linear_model

H is the Hessian of the text's negative log-likelihood; its traces and diagonals are estimated with random probes, one
set a sequence.

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
from .base import Estimator, Measurement, WeightEstimator
from .direct import direct
from .fisher import sequence_form, token_form, window_form
from .fisher_estimator import FisherEstimator, Form
from .gradient_baselines import GradientEstimator, GradientPrice, element_wise, fisher_diagonal, output_error
from .hessian import SequenceHessian
from .higgs import linear
from .hutchinson import diagonal_samples
from .xtrace import xtrace

EstimatorFactory = Callable[[Measurement], AbstractContextManager[Estimator]]
_XTRACE_PRODUCTS = 8


def _diagonal_pieces(on: Measurement, reduce: Callable[[Tensor], Tensor], prefix: str) -> Iterator[str]:
    """Draw a sample of the Hessian's diagonal on every sequence and keep what is made of it, by layer name."""
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
        on.parts.remember(piece, partial(compute, number, sequence))
        yield piece


def _fisher(form: Form) -> EstimatorFactory:
    """Make a Fisher estimator; it measures as the blocks are walked."""

    @contextmanager
    def prepare(on: Measurement) -> Iterator[Estimator]:
        yield FisherEstimator(on, form)

    return prepare


def _layer_gradients(name: str, price: GradientPrice) -> EstimatorFactory:
    """Make an estimator that measures as the blocks are walked."""

    @contextmanager
    def prepare(on: Measurement) -> Iterator[Estimator]:
        del on
        yield GradientEstimator(name, price)

    return prepare


def _mean_square(delta: Tensor) -> float:
    return float(delta.double().square().mean())


@contextmanager
def hessian_trace(on: Measurement) -> Iterator[Estimator]:
    """Estimate every layer's trace by Hutchinson's method; one product a sequence serves all layers."""
    pieces = list(_diagonal_pieces(on, lambda sample: sample.sum(dtype=torch.float64), "hessian-trace"))
    rows = [on.parts.load(piece) for piece in pieces]
    traces = {layer.name: torch.stack([row[layer.name] for row in rows]) for layer in on.layers}
    yield WeightEstimator(lambda layer, delta: traces[layer.name] * (_mean_square(delta) / 2))


@contextmanager
def hessian_xtrace(on: Measurement) -> Iterator[Estimator]:
    """Estimate every layer's trace by XTrace, 8 products for every layer and sequence."""
    traces: dict[str, Tensor] = {}
    for layer in on.progress(list(on.layers), "Hessian-vector products"):
        traces |= on.parts.remember(f"hessian-xtrace-{layer.name}", partial(_xtraces, on, layer))
    yield WeightEstimator(lambda layer, delta: traces[layer.name] * (_mean_square(delta) / 2))


def _xtraces(on: Measurement, layer: Layer) -> dict[str, Tensor]:
    """Estimate the trace of one layer on every sequence."""
    weight = on.loaded.model.get_submodule(layer.name).weight
    assert isinstance(weight, nn.Parameter)
    samples = [
        xtrace(SequenceHessian(on.loaded.model, [weight], sequence), _XTRACE_PRODUCTS, on.draws.generator(number, 0))
        for number, sequence in enumerate(on.token_ids)
    ]
    return {layer.name: torch.tensor(samples, dtype=torch.float64)}


@contextmanager
def hessian_diagonal(on: Measurement) -> Iterator[Estimator]:
    """Estimate every layer's diagonal; the samples lie among the parts, as large as the model for every sequence."""
    num_bytes = 4 * len(on.token_ids) * sum(layer.num_weights for layer in on.layers)
    require_writable(on.parts.folder / "hessian-diagonal", num_bytes)
    pieces = list(_diagonal_pieces(on, torch.Tensor.contiguous, "hessian-diagonal"))

    def price(layer: Layer, delta: Tensor) -> Tensor:
        squares = delta.square()
        return torch.stack([
            (on.parts.load_one(piece, layer.name) * squares).sum(dtype=torch.float64) / 2 for piece in pieces
        ])

    yield WeightEstimator(price)


ESTIMATORS: dict[str, EstimatorFactory] = {
    "fisher": _fisher(window_form),
    "fisher-token": _fisher(token_form),
    "fisher-sequence": _fisher(sequence_form),
    "fisher-diagonal": _layer_gradients("fisher-diagonal", fisher_diagonal),
    "element-wise": _layer_gradients("element-wise", element_wise),
    "output-error": _layer_gradients("output-error", output_error),
    "hessian-trace": hessian_trace,
    "hessian-xtrace": hessian_xtrace,
    "hessian-diagonal": hessian_diagonal,
    "direct": direct,
    "linear": linear,
}
