"""The two ends of the model: embedding and output head, alone or tied, where the user wants them in the program.

The head's output is as wide as the vocabulary, so it is priced sequence by sequence. A tied matrix changes the loss
at both ends; its price is the sum of the two token-quadratic forms, without the covariance between them.

Knows nothing about formats or rounding.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..backends.layers import Anatomy, blocks_of, output_head
from ..backends.progress import Progress
from .capture import removing, sampled_log_likelihood
from .fisher import fisher_samples


class _ReachedFirstBlockError(Exception):
    """Ends a forward pass where the first block begins."""


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


def head_samples(
    model: PreTrainedModel, token_ids: Tensor, deltas: Sequence[Tensor], seed: int, progress: Progress
) -> Tensor:
    """Estimate the Fisher loss increase of changes of the head's matrix, in its role as head.

    Args:
        model: the model.
        token_ids: int64 [sequences, tokens].
        deltas: ΔW of every format, [vocabulary, hidden] each.
        seed: of the sampled labels, as in ``capture``.
        progress: shows how far the pass is.

    Returns:
        float64 [formats, sequences].
    """
    ends: list[tuple[Tensor, Tensor]] = []

    def start_graph(_module: object, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        end = output.detach().requires_grad_()
        ends.append((arguments[0].detach().flatten(0, -2), end))
        return end

    columns = []
    head = output_head(model)
    assert head is not None
    with removing(head.register_forward_hook(start_graph)):
        for index, sequence in enumerate(progress(list(token_ids), "measuring the head")):
            logits = model(sequence.unsqueeze(0), use_cache=False).logits
            sampled_log_likelihood(logits, seed + index).backward()  # type: ignore[no-untyped-call]
            inputs, end = ends.pop()
            assert end.grad is not None
            gradient = end.grad.flatten(0, -2)
            columns.append(torch.cat([fisher_samples(inputs, gradient, delta, [len(inputs)]) for delta in deltas]))
    return torch.stack(columns, dim=1)


def embedding_samples(
    model: PreTrainedModel, anatomy: Anatomy, token_ids: Tensor, deltas: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Estimate the Fisher loss increase of changes of the embedding's matrix, in its role as embedding.

    Args:
        model: the model.
        anatomy: of the model.
        token_ids: int64 [sequences, tokens].
        deltas: ΔE of every format, [vocabulary, hidden] each.
        gradients: at the first block's input, [1, tokens, hidden] a sequence.

    Returns:
        float64 [formats, sequences].
    """
    columns = []
    for sequence, gradient in zip(token_ids, gradients, strict=True):
        at_embedding = _gradient_at_embedding(model, anatomy, sequence, gradient).flatten(0, -2)
        changes = torch.stack([(delta[sequence] * at_embedding).sum(1) for delta in deltas])
        columns.append(changes.double().square().mean(1) / 2)
    return torch.stack(columns, dim=1)


def _gradient_at_embedding(model: PreTrainedModel, anatomy: Anatomy, sequence: Tensor, gradient: Tensor) -> Tensor:
    """Take the gradient from the first block's input back to the embedding's output."""
    seen: list[Tensor] = []

    def start_graph(_module: object, _arguments: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[0]

    def stop(_module: object, arguments: tuple[Tensor, ...], keywords: dict[str, Any]) -> NoReturn:
        seen.append(arguments[0] if arguments else keywords["hidden_states"])
        raise _ReachedFirstBlockError

    first_block = blocks_of(model, anatomy)[0]
    with (
        removing(model.get_input_embeddings().register_forward_hook(start_graph)),
        removing(first_block.register_forward_pre_hook(stop, with_kwargs=True)),
        suppress(_ReachedFirstBlockError),
    ):
        model(sequence.unsqueeze(0), use_cache=False)
    embedded, entering = seen
    entering.backward(gradient)  # type: ignore[no-untyped-call]
    assert embedded.grad is not None
    return embedded.grad
