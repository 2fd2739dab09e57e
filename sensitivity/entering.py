"""How a model calls its blocks, without what flows between them.

Knows nothing about layers.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.layers import Anatomy, blocks_of
from .capture import BlockCall, removing


def enter_blocks(model: nn.Module, anatomy: Anatomy, token_ids: Tensor) -> list[list[BlockCall]]:
    """Run the model over every sequence and keep how its blocks are called, with the hidden state of the first only.

    Args:
        model: the model.
        anatomy: of the model.
        token_ids: int64 [sequences, tokens].

    Returns:
        [block][sequence]; the hidden states after the first block's are empty.
    """
    blocks = blocks_of(model, anatomy)
    calls: list[list[BlockCall]] = [[] for _ in blocks]

    def keep(index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            hidden = (arguments[0] if arguments else keywords["hidden_states"]).detach()
            others = {key: value for key, value in keywords.items() if key != "hidden_states"}
            calls[index].append(BlockCall(hidden if index == 0 else hidden[:, :0], arguments[1:], others))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for index, block in enumerate(blocks):
            hooks.enter_context(removing(block.register_forward_pre_hook(keep(index), with_kwargs=True)))
        for sequence in token_ids:
            model(sequence.unsqueeze(0), use_cache=False)
    return calls
