"""Running a model from one block on: the effect of a change of one layer, without computing the blocks before it.

One pass keeps every block's output and the original's predictions. To run from a block on, the blocks before it return
what was kept, and the model runs as usual, so that masks and positions are its own.

Knows nothing about formats or estimators.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...common.files import require_writable
from ...common.progress import Progress
from ...models.install import removing
from ...models.layers import Layer, ModelStructure, blocks_of, install_matrix


def mean_divergence(original: Tensor, logits: Tensor) -> float:
    """Compute the mean KL divergence per token.

    Args:
        original: log-probabilities, [tokens, vocabulary].
        logits: of the changed model, [tokens, vocabulary].

    Returns:
        Mean over tokens of Σ p (log p − log q), in nats.

    >>> even, uneven = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> round(mean_divergence(even, uneven), 6)  # ½ log(½ / ¼) + ½ log(½ / ¾)
    0.143841
    """
    changed = logits.float().log_softmax(-1)
    divergence = nn.functional.kl_div(changed, original, reduction="none", log_target=True).sum(-1)
    return float(divergence.mean(dtype=torch.float64))


@dataclass(frozen=True)
class PartialRuns:
    """The original model's passes over some sequences, which can be repeated from any block on.

    Attributes:
        model: the model.
        structure: its layers.
        token_ids: int64 [sequences, tokens].
        outputs: what each block returned, [block][sequence].
        predictions: for each sequence a file with the original's log-probabilities.
    """

    model: PreTrainedModel
    structure: ModelStructure
    token_ids: Tensor
    outputs: Sequence[Sequence[Any]]
    predictions: Sequence[Path]

    def divergences(self, layer: Layer, matrix: Tensor) -> Tensor:
        """Measure the effect of another matrix in one layer.

        Args:
            layer: the layer.
            matrix: [out, in].

        Returns:
            float64 [sequences], mean KL divergence per token from the original, in nats.
        """
        module = self.model.get_submodule(layer.name)
        original = module.weight.data
        assert isinstance(original, Tensor)
        measured = []
        try:
            install_matrix(module, matrix)
            for number, sequence in enumerate(self.token_ids):
                with self._handing_on(layer.block or 0, number), torch.no_grad():
                    logits = self.model(sequence.unsqueeze(0), use_cache=False).logits[0]
                measured.append(mean_divergence(torch.from_numpy(np.load(self.predictions[number])), logits))
        finally:
            module.weight.data = original
        return torch.tensor(measured, dtype=torch.float64)

    @contextmanager
    def _handing_on(self, block: int, number: int) -> Iterator[None]:
        """Make the blocks before one return what they returned for a sequence of the original."""
        skipped = blocks_of(self.model, self.structure)[:block]
        try:
            for index, module in enumerate(skipped):
                kept = self.outputs[index][number]
                module.forward = lambda *_arguments, kept=kept, **_keywords: kept
            yield
        finally:
            for module in skipped:
                del module.forward


@contextmanager
def partial_runs(
    model: PreTrainedModel, structure: ModelStructure, token_ids: Tensor, workspace: Path, progress: Progress
) -> Iterator[PartialRuns]:
    """Run the original once; its predictions stay in the workspace while the context is open.

    Args:
        model: the model.
        structure: its layers.
        token_ids: int64 [sequences, tokens].
        workspace: a folder for the predictions, four bytes for every token and vocabulary entry.
        progress: shows how far the pass is.

    Yields:
        The passes.
    """
    vocabulary = int(getattr(model.config, "vocab_size", 0))
    require_writable(workspace / "predictions", 4 * vocabulary * token_ids.numel())
    blocks = blocks_of(model, structure)
    outputs: list[list[Any]] = [[] for _ in blocks]
    with tempfile.TemporaryDirectory(dir=workspace, prefix=".scantling-predictions-") as folder:
        predictions: list[Path] = []
        with ExitStack() as hooks, torch.no_grad():
            for index, block in enumerate(blocks):
                keep = outputs[index].append
                hooks.enter_context(
                    removing(block.register_forward_hook(lambda _module, _given, output, keep=keep: keep(output)))
                )
            for number, sequence in enumerate(progress(list(token_ids), "running the original")):
                logits = model(sequence.unsqueeze(0), use_cache=False).logits[0]
                predictions.append(Path(folder) / f"{number}.npy")
                np.save(predictions[-1], logits.float().log_softmax(-1).numpy())
        yield PartialRuns(model, structure, token_ids, outputs, predictions)
