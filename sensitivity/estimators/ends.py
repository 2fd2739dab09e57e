"""Embedding and output head, alone or tied, where the program decides them.

The head's output is as wide as the vocabulary, so it is processed sequence by sequence. A tied matrix changes the
log-likelihood in both roles: its first-order change is the sum of theirs.

Knows nothing about formats or rounding.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...common.progress import Progress
from ...models.install import removing
from ...models.layers import ModelStructure, blocks_of, matrix_of, output_head
from ...quantization.formats import Format
from ..calibration.capture import LabelDraws, gradients_of_draws
from .activation_rounding import ActivationRounding


class _ReachedFirstBlockError(Exception):
    """Ends a forward pass at the first block's input."""


def head_hessian(model: PreTrainedModel, token_ids: Tensor, progress: Progress) -> Tensor:
    """Compute the mean of x xᵀ over what enters the output head.

    Args:
        model: the model.
        token_ids: int64 [sequences, tokens].
        progress: shows how far the pass is.

    Returns:
        float32 [hidden, hidden].
    """
    total: list[Tensor] = []

    def add(_module: object, arguments: tuple[Tensor, ...]) -> None:
        inputs = arguments[0].flatten(0, -2)
        product = inputs.t() @ inputs / len(inputs)
        total[:] = [total[0] + product] if total else [product]

    head = output_head(model)
    assert head is not None
    with removing(head.register_forward_pre_hook(add)), torch.no_grad():
        for sequence in progress(list(token_ids), "reading the head's inputs"):
            model(sequence.unsqueeze(0), use_cache=False)
    return total[0] / len(token_ids)


def head_changes(
    model: PreTrainedModel,
    token_ids: Tensor,
    deltas: Sequence[tuple[Format, Tensor]],
    draws: LabelDraws,
    progress: Progress,
) -> Tensor:
    """Compute the first-order changes aₜ of changes of the head's matrix, in its role as head.

    Args:
        model: the model.
        token_ids: int64 [sequences, tokens].
        deltas: each format with ΔW, [vocabulary, hidden].
        draws: how labels are sampled, as in ``capture``.
        progress: shows how far the pass is.

    Returns:
        float64 [formats, draws, sequences · tokens].
    """
    ends: list[tuple[Tensor, Tensor]] = []

    def start_graph(_module: object, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        end = output.detach().requires_grad_()
        ends.append((arguments[0].detach().flatten(0, -2), end))
        return end

    parts = []
    head = output_head(model)
    assert head is not None
    with removing(head.register_forward_hook(start_graph)):
        for index, sequence in enumerate(progress(list(token_ids), "measuring the head")):
            logits = model(sequence.unsqueeze(0), use_cache=False).logits
            inputs, end = ends.pop()
            log_probability = logits.detach()[0].float().log_softmax(-1)
            gradients = torch.cat(gradients_of_draws(logits, log_probability, end, draws, index))
            entering = ActivationRounding(inputs, gradients, lambda: matrix_of(head))
            parts.append(torch.stack([entering.changes(target, delta) for target, delta in deltas]))
    return torch.cat(parts, dim=2)


def embedding_changes(
    model: PreTrainedModel,
    structure: ModelStructure,
    token_ids: Tensor,
    deltas: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
) -> Tensor:
    """Compute the first-order changes aₜ of changes of the embedding's matrix, in its role as embedding.

    Args:
        model: the model.
        structure: its layers.
        token_ids: int64 [sequences, tokens].
        deltas: ΔE of every format, [vocabulary, hidden] each.
        gradients: at the first block's input, [sequence][draw], [1, tokens, hidden] each.

    Returns:
        float64 [formats, draws, sequences · tokens].
    """
    parts = []
    for sequence, drawn in zip(token_ids, gradients, strict=True):
        at_embedding = torch.cat(_gradients_at_embedding(model, structure, sequence, drawn))
        parts.append(torch.stack([(delta[sequence] * at_embedding).sum(2) for delta in deltas]).double())
    return torch.cat(parts, dim=2)


def _gradients_at_embedding(
    model: PreTrainedModel, structure: ModelStructure, sequence: Tensor, gradients: Sequence[Tensor]
) -> list[Tensor]:
    """Take gradients back from the first block's input to the embedding's output, [1, tokens, hidden] each."""
    seen: list[Tensor] = []

    def start_graph(_module: object, _arguments: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[0]

    def stop(_module: object, arguments: tuple[Tensor, ...], keywords: dict[str, Any]) -> NoReturn:
        seen.append(arguments[0] if arguments else keywords["hidden_states"])
        raise _ReachedFirstBlockError

    first_block = blocks_of(model, structure)[0]
    with (
        removing(model.get_input_embeddings().register_forward_hook(start_graph)),
        removing(first_block.register_forward_pre_hook(stop, with_kwargs=True)),
        suppress(_ReachedFirstBlockError),
    ):
        model(sequence.unsqueeze(0), use_cache=False)
    embedded, entering = seen
    return [torch.autograd.grad(entering, embedded, gradient, retain_graph=True)[0] for gradient in gradients]
