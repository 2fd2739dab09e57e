"""The estimators by name, behind one seam: a change of a layer goes in, samples of its loss increase come out.

fisher              ½ · mean over tokens of (gᵀ ΔW x)²; the module fisher has the details
hessian-trace       ½ · tr(H_l) / n_l · ‖ΔW‖², n_l weights in layer l (Dong et al. 2020, HAWQ-V2, arXiv 1911.03852)
hessian-diagonal    ½ · Σ diag(H_l) ∘ ΔW² (as in Optimal Brain Damage, LeCun et al. 1989)

H is the Hessian of the text's negative log-likelihood; traces and diagonals are Hutchinson's, one probe a sequence.

Knows nothing about formats or rounding.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..backends.layers import Anatomy, Layer, output_head
from ..backends.model import LoadedModel
from ..backends.progress import Progress
from .capture import Capture
from .ends import embedding_samples, head_samples
from .fisher import fisher_samples
from .hessian import SequenceHessian
from .hutchinson import diagonal_samples
from .walk import InputGroup


@dataclass(frozen=True)
class Measurement:
    """What every estimator measures on.

    Attributes:
        loaded: the model.
        anatomy: of the model.
        token_ids: the pricing sequences, int64 [sequences, tokens].
        layers: the layers to be priced.
        seed: of sampled labels and of probes.
        progress: shows how far the passes are.
        workspace: a folder for large intermediate files.
    """

    loaded: LoadedModel
    anatomy: Anatomy
    token_ids: Tensor
    layers: Sequence[Layer]
    seed: int
    progress: Progress
    workspace: Path


class Pricer:
    """Gives samples of the loss increase of a change of a layer; this base uses only the change itself."""

    needs_gradients = False

    def block_samples(self, layer: Layer, group: InputGroup, delta: Tensor) -> Tensor:
        """Price a change of a layer inside the blocks.

        Args:
            layer: the layer.
            group: its inputs and gradients.
            delta: ΔW, [out, in].

        Returns:
            float64 [samples], in nats per token; their mean is the estimate.
        """
        del group
        return self.weight_samples(layer, delta)

    def end_samples(self, layer: Layer, deltas: Sequence[Tensor], captured: Capture | None) -> Tensor:
        """Price changes of the embedding or the head.

        Args:
            layer: the layer.
            deltas: ΔW of every format.
            captured: the pricing sequences after the walk, with the gradients at the first block's input.

        Returns:
            float64 [formats, samples].
        """
        del captured
        return torch.stack([self.weight_samples(layer, delta) for delta in deltas])

    def weight_samples(self, layer: Layer, delta: Tensor) -> Tensor:
        """Price a change by itself.

        Args:
            layer: the layer.
            delta: ΔW, [out, in].

        Returns:
            float64 [samples].
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FisherPricer(Pricer):
    """See the module fisher.

    Attributes:
        measurement: what is measured on.
    """

    measurement: Measurement
    needs_gradients = True

    def block_samples(self, layer: Layer, group: InputGroup, delta: Tensor) -> Tensor:
        """Price a change of a layer inside the blocks.

        Args:
            layer: the layer.
            group: its inputs and gradients.
            delta: ΔW, [out, in].

        Returns:
            float64 [sequences].
        """
        return fisher_samples(group.inputs, group.gradients[layer], delta, group.tokens_per_sequence)

    def end_samples(self, layer: Layer, deltas: Sequence[Tensor], captured: Capture | None) -> Tensor:
        """Price changes of the embedding, the head, or both where they are tied.

        Args:
            layer: the layer.
            deltas: ΔW of every format.
            captured: after the walk.

        Returns:
            float64 [formats, sequences].
        """
        on = self.measurement
        model = on.loaded.model
        assert captured is not None
        module = model.get_submodule(layer.name)
        total = torch.zeros(len(deltas), len(on.token_ids), dtype=torch.float64)
        if layer.tied_name is not None or module is output_head(model):
            total += head_samples(model, on.token_ids, deltas, on.seed, on.progress)
        if module is model.get_input_embeddings():
            total += embedding_samples(model, on.anatomy, on.token_ids, deltas, captured.gradients)
        return total


@dataclass(frozen=True)
class HessianTracePricer(Pricer):
    """½ · tr(H_l) / n_l · ‖ΔW‖².

    Attributes:
        traces: for every layer's name, float64 [probes].
    """

    traces: dict[str, Tensor]

    def weight_samples(self, layer: Layer, delta: Tensor) -> Tensor:
        """Price a change by itself.

        Args:
            layer: the layer.
            delta: ΔW, [out, in].

        Returns:
            float64 [probes].
        """
        return self.traces[layer.name] * (float(delta.double().square().sum()) / layer.num_weights / 2)


@dataclass(frozen=True)
class HessianDiagonalPricer(Pricer):
    """½ · Σ diag(H_l) ∘ ΔW².

    Attributes:
        files: one safetensors file a probe, with a sample of the diagonal for every layer's name.
    """

    files: Sequence[Path]

    def weight_samples(self, layer: Layer, delta: Tensor) -> Tensor:
        """Price a change by itself.

        Args:
            layer: the layer.
            delta: ΔW, [out, in].

        Returns:
            float64 [probes].
        """
        samples = []
        for file in self.files:
            with safe_open(file, framework="pt") as opened:
                samples.append((opened.get_tensor(layer.name) * delta.square()).sum(dtype=torch.float64) / 2)
        return torch.stack(samples)


def _diagonals(on: Measurement) -> Iterator[dict[str, Tensor]]:
    """Draw a sample of the Hessian's diagonal on every sequence: matrices [out, in] by layer name."""
    modules = {layer.name: on.loaded.model.get_submodule(layer.name) for layer in on.layers}
    parameters = [module.weight for module in modules.values()]
    assert all(isinstance(parameter, nn.Parameter) for parameter in parameters)
    generator = torch.Generator().manual_seed(on.seed)
    for sequence in on.progress(list(on.token_ids), "Hessian-vector products"):
        operator = SequenceHessian(on.loaded.model, parameters, sequence)  # type: ignore[arg-type]
        samples = diagonal_samples(operator, generator)
        yield {
            name: sample.t().contiguous() if isinstance(module, Conv1D) else sample
            for (name, module), sample in zip(modules.items(), samples, strict=True)
        }


@contextmanager
def fisher(on: Measurement) -> Iterator[Pricer]:
    """Prepare the Fisher estimator; it measures as the blocks are walked.

    Args:
        on: what is measured on.

    Yields:
        The pricer.
    """
    yield FisherPricer(on)


@contextmanager
def hessian_trace(on: Measurement) -> Iterator[Pricer]:
    """Estimate every layer's trace.

    Args:
        on: what is measured on.

    Yields:
        The pricer.
    """
    rows = [{name: sample.sum(dtype=torch.float64) for name, sample in drawn.items()} for drawn in _diagonals(on)]
    yield HessianTracePricer({layer.name: torch.stack([row[layer.name] for row in rows]) for layer in on.layers})


@contextmanager
def hessian_diagonal(on: Measurement) -> Iterator[Pricer]:
    """Estimate every layer's diagonal; the samples lie in the workspace as long as the context is open.

    Args:
        on: what is measured on.

    Yields:
        The pricer.
    """
    with tempfile.TemporaryDirectory(dir=on.workspace, prefix=".scantling-diagonal-") as folder:
        files = []
        for number, drawn in enumerate(_diagonals(on)):
            files.append(Path(folder) / f"probe-{number}.safetensors")
            save_file(drawn, files[-1])
        yield HessianDiagonalPricer(files)


ESTIMATORS: dict[str, Callable[[Measurement], AbstractContextManager[Pricer]]] = {
    "fisher": fisher,
    "hessian-trace": hessian_trace,
    "hessian-diagonal": hessian_diagonal,
}
