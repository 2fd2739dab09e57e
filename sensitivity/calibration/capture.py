"""One forward pass of the model over the data, which keeps every block's inputs.

The pass also gives the gradient of the loss at the last block's output, from which the blocks are differentiated one by
one; see the module backward_pass.

Knows nothing about layers, formats or estimators.
"""

from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import CalibrationError, UnsupportedModelError
from ...common.progress import Progress
from ...models.install import removing
from ...models.layers import ModelStructure, blocks_of

_HIDDEN = "hidden_states"
_ROWS_AT_ONCE = 64  # of a matrix as wide as the vocabulary


@dataclass(frozen=True)
class LabelDraws:
    """How labels are sampled from the model's prediction.

    Attributes:
        seed: the seed of all draws.
        number: the number of draws for every sequence. With one draw the noise exceeds the differences of sequences.
        first_sequence: the number of the first sequence, if others were priced before.
    """

    seed: int
    number: int = 1
    first_sequence: int = 0

    def generator(self, sequence: int, draw: int) -> torch.Generator:
        """Make the generator of one draw, which depends on the seed, the draw and the sequence's number among all."""
        state = np.random.SeedSequence((self.seed, self.first_sequence + sequence, draw)).generate_state(1)
        return torch.Generator().manual_seed(int(state[0]))


@dataclass
class BlockCall:
    """How a block was called on one sequence.

    Attributes:
        hidden: the hidden state that enters it, [1, tokens, hidden].
        arguments: further positional arguments.
        keywords: keyword arguments other than the hidden state.
    """

    hidden: Tensor
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass
class Capture:
    """One forward pass over all sequences.

    Attributes:
        calls: [block][sequence].
        gradients: the gradient of the summed log-probability of sampled labels at the last block's output,
            [sequence][draw], [1, tokens, hidden] each.
        negative_log_likelihood_nats: the mean over all predicted tokens.
    """

    calls: list[list[BlockCall]]
    gradients: list[list[Tensor]]
    negative_log_likelihood_nats: float


def first_tensor(output: Tensor | tuple[Any, ...]) -> Tensor:
    """Give the hidden state among a block's outputs: the tensor, or the first of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def sampled_labels(probability: Tensor, draws: LabelDraws, sequence: int) -> list[Tensor]:
    """Draw labels for every token from the model's own prediction.

    Args:
        probability: float32 [tokens, vocabulary].
        draws: the number of draws and their seed.
        sequence: the number of the sequence.

    Returns:
        int64 [tokens] for each draw.
    """
    num_tokens, vocabulary = probability.shape
    uniform = [
        torch.rand(num_tokens, 1, generator=draws.generator(sequence, draw), dtype=torch.float64)
        for draw in range(draws.number)
    ]
    labels = torch.empty(draws.number, num_tokens, dtype=torch.int64)
    for start in range(0, num_tokens, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        cumulative = probability[rows].cumsum(1, dtype=torch.float64)
        for drawn, number in zip(labels, uniform, strict=True):
            drawn[rows] = torch.searchsorted(cumulative, number[rows] * cumulative[:, -1:])[:, 0]
    return list(labels.clamp_max_(vocabulary - 1))


def capture(
    model: nn.Module,
    structure: ModelStructure,
    token_ids: Tensor,
    draws: LabelDraws | None,
    progress: Progress,
    label: str,
) -> Capture:
    """Run the model once over every sequence.

    Args:
        model: parameters without gradients.
        structure: its layers.
        token_ids: int64 [sequences, tokens].
        draws: how labels are sampled; None for no gradients.
        progress: shows how far the pass is.
        label: what is being read, for the progress bar.

    Returns:
        The inputs of every block, and the gradients at the last one's output.
    """
    blocks = blocks_of(model, structure)
    ends: list[Tensor] = []

    def start_graph(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
        end = first_tensor(output).detach().requires_grad_()
        ends.append(end)
        return end if isinstance(output, Tensor) else (end, *output[1:])

    gradients, negative_log_likelihoods = [], []
    with ExitStack() as hooks:
        calls = _recorded_calls(blocks, hooks, range(len(blocks)))
        if draws is not None:
            hooks.enter_context(removing(blocks[-1].register_forward_hook(start_graph)))
        for index, sequence in enumerate(progress(list(token_ids), label)):
            logits = model(sequence.unsqueeze(0), use_cache=False).logits
            if not _all_finite(logits):
                _require_finite_activations(blocks, [of_block[-1] for of_block in calls], structure)
            log_probability = logits.detach()[0].float().log_softmax(-1)
            negative_log_likelihoods.append(-log_probability[:-1].gather(1, sequence[1:, None]).mean().item())
            if draws is not None:
                gradients.append(gradients_of_draws(logits, log_probability, ends.pop(), draws, index))
    _require_independent_blocks(blocks, calls)
    return Capture(calls, gradients, sum(negative_log_likelihoods) / len(negative_log_likelihoods))


def _all_finite(values: Tensor) -> bool:
    """Tell whether all values are finite; they are checked one by one only if their sum is not."""
    return bool(torch.isfinite(values.detach().sum())) or bool(torch.isfinite(values).all())


def gradients_of_draws(
    logits: Tensor, log_probability: Tensor, end: Tensor, draws: LabelDraws, sequence: int
) -> list[Tensor]:
    """Differentiate Σ_t log p(ŷ_t) for every draw of labels ŷ; at the logits its gradient is the one-hot ŷ_t less p.

    This is a draw of the score, whose covariance is the true Fisher matrix (Kunstner et al. 2019, arXiv 1905.12558),
    unlike the empirical one, which takes the labels from the text.

    Args:
        logits: [1, tokens, vocabulary], computed from ``end``.
        log_probability: of the logits, float32 [tokens, vocabulary], without a graph; overwritten.
        end: the tensor to differentiate by.
        draws: how labels are sampled.
        sequence: the number of the sequence.

    Returns:
        One gradient for each draw, in the shape of ``end``.
    """
    probability = log_probability.exp_()
    labels = sampled_labels(probability, draws, sequence)
    unlabelled = probability.neg_()
    found: list[Tensor] = []
    for draw, of_draw in enumerate(labels):
        place = of_draw.unsqueeze(1)
        score = unlabelled.scatter_add(1, place, torch.ones_like(place, dtype=unlabelled.dtype))
        at_logits = score.unsqueeze(0).to(logits.dtype)
        found += torch.autograd.grad(logits, end, at_logits, retain_graph=draw + 1 < draws.number)
    return found


def run_block(block: nn.Module, call: BlockCall, hidden: Tensor) -> Tensor:
    """Run one block with a call's arguments on a hidden state, [1, tokens, hidden]; returns the one that leaves it."""
    return first_tensor(block(hidden, *call.arguments, **call.keywords))


def _require_finite_activations(
    blocks: Sequence[nn.Module], calls: Sequence[BlockCall], structure: ModelStructure
) -> NoReturn:
    """Name the first layer whose output is not finite; else the block, else what follows the blocks."""
    broken = [index for index, call in enumerate(calls) if not bool(torch.isfinite(call.hidden).all())]
    block = (broken[0] if broken else len(calls)) - 1
    where = "enter the first block" if block < 0 else f"leave block {block}"
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> None:
            if not bool(torch.isfinite(output).all()):
                found.append(name)

        return hook

    if block >= 0:
        with ExitStack() as hooks, torch.no_grad():
            for layer in structure.layers:
                if layer.block == block:
                    module = blocks[block].get_submodule(layer.kind)
                    hooks.enter_context(removing(module.register_forward_hook(look(layer.name))))
            run_block(blocks[block], calls[block], calls[block].hidden)
    after = f" (first after the layer {found[0]})" if found else ""
    raise CalibrationError(f"the activations that {where} are NaN or infinite{after}: the model cannot run in float32.")


def _require_independent_blocks(blocks: Sequence[nn.Module], calls: Sequence[Sequence[BlockCall]]) -> None:
    """Check on the first sequence that each block run alone gives the next one's input."""
    for index in range(len(blocks) - 1):
        with torch.no_grad():
            alone = run_block(blocks[index], calls[index][0], calls[index][0].hidden)
        together = calls[index + 1][0].hidden
        if alone.shape != together.shape or not torch.allclose(alone, together, rtol=1e-3, atol=1e-4):
            raise UnsupportedModelError(
                f"block {index} run alone does not give what enters block {index + 1}: the blocks of this architecture "
                "exchange more than one hidden state, which scantling does not handle yet."
            )


def enter_blocks(model: nn.Module, structure: ModelStructure, token_ids: Tensor) -> list[list[BlockCall]]:
    """Run the model over every sequence and keep the calls of its blocks, without hidden states but the first.

    Args:
        model: the model.
        structure: its layers.
        token_ids: int64 [sequences, tokens].

    Returns:
        [block][sequence]; the hidden states of all blocks but the first are empty.
    """
    blocks = blocks_of(model, structure)
    with ExitStack() as hooks, torch.no_grad():
        calls = _recorded_calls(blocks, hooks, [0])
        for sequence in token_ids:
            model(sequence.unsqueeze(0), use_cache=False)
    return calls


def _recorded_calls(
    blocks: Sequence[nn.Module], hooks: ExitStack, with_hidden: Container[int]
) -> list[list[BlockCall]]:
    """Record the calls of blocks as the model runs, [block][sequence]; other hidden states are kept empty."""
    calls: list[list[BlockCall]] = [[] for _ in blocks]

    def recording(index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            hidden = (arguments[0] if arguments else keywords[_HIDDEN]).detach()
            others = {key: value for key, value in keywords.items() if key != _HIDDEN}
            calls[index].append(BlockCall(hidden if index in with_hidden else hidden[:, :0], arguments[1:], others))

        return hook

    for index, block in enumerate(blocks):
        hooks.enter_context(removing(block.register_forward_pre_hook(recording(index), with_kwargs=True)))
    return calls
