"""Going through the model block by block, from the last to the first, with all sequences at each.

Every block is run again by itself on what it was given in the captured pass, and the gradient is taken through it. That
gives every layer's inputs, and the gradients at its outputs, while only one block's are held in memory. Two sets of
sequences go through: formats are fitted to the *rounding* sequences, of which only the mean of x xᵀ is kept, and their
loss increase is priced on the *pricing* sequences, which the rounding never saw.

Knows nothing about formats, rounding or estimators.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..backends.layers import Anatomy, Layer, blocks_of
from ..backends.progress import Progress
from ..solver.errors import ScantlingError
from .capture import BlockCall, Capture, removing, run_block


@dataclass
class InputGroup:
    """Layers of a block that read the same input.

    Attributes:
        layers: the layers.
        hessian: mean of x xᵀ over the tokens of the rounding sequences, float32 [in, in].
        inputs: of the pricing sequences, [tokens, in]; empty in a walk without them.
        gradients: for each layer, at its output on the pricing sequences, [tokens, out].
        tokens_per_sequence: how the rows divide over the pricing sequences.
    """

    layers: list[Layer]
    hessian: Tensor
    inputs: Tensor
    gradients: dict[Layer, Tensor]
    tokens_per_sequence: list[int]


@dataclass
class _Moment:
    """Σ x xᵀ over the tokens that one group of layers has seen."""

    layers: list[Layer]
    total: Tensor
    num_tokens: int = 0

    def add(self, inputs: Tensor) -> None:
        self.total.addmm_(inputs.t(), inputs)
        self.num_tokens += len(inputs)


@dataclass
class _Tape:
    """The inputs that the pricing sequences brought to one group."""

    parts: list[Tensor] = field(default_factory=list)
    tokens_per_sequence: list[int] = field(default_factory=list)

    def end_sequence(self) -> None:
        self.tokens_per_sequence.append(sum(map(len, self.parts)) - sum(self.tokens_per_sequence))


def walk_blocks(
    model: nn.Module, anatomy: Anatomy, rounding: Capture, pricing: Capture | None, progress: Progress
) -> Iterator[list[InputGroup]]:
    """Go through the blocks from the last to the first.

    What a block no longer needs is freed on the way, the yielded groups too. After the walk ``pricing.gradients`` holds
    the gradients where the first block begins.

    Args:
        model: the model.
        anatomy: of the model.
        rounding: of the rounding sequences; used up.
        pricing: of the pricing sequences, with gradients; used up. None where nothing is priced.
        progress: shows how far the walk is.

    Yields:
        The input groups of each block.
    """
    blocks = blocks_of(model, anatomy)
    label = "rounding blocks" if pricing is None else "rounding and pricing"
    for index in progress(list(reversed(range(len(blocks)))), label):
        layers = [layer for layer in anatomy.layers if layer.block == index]
        moments = _collect_moments(blocks[index], layers, rounding.calls[index])
        rounding.calls[index] = []
        tapes = {moment.layers[0]: _Tape() for moment in moments}
        gradients: dict[Layer, list[Tensor]] = {layer: [] for layer in layers}
        if pricing is not None:
            _differentiate(blocks[index], tapes, gradients, pricing, index)
            pricing.calls[index] = []
        groups = [_input_group(moment, tapes.pop(moment.layers[0]), gradients) for moment in moments]
        yield groups
        groups.clear()


def _collect_moments(block: nn.Module, layers: Sequence[Layer], calls: Sequence[BlockCall]) -> list[_Moment]:
    """Run a block on the rounding sequences; layers that are given the same tensor make one group."""
    moments: list[_Moment] = []
    given: dict[Layer, Tensor] = {}

    def watch(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            given[layer] = arguments[0]

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.enter_context(removing(block.get_submodule(layer.kind).register_forward_pre_hook(watch(layer))))
        for call in calls:
            given.clear()
            run_block(block, call, call.hidden)
            _join(moments, given)
            for moment in moments:
                if moment.layers[0] in given:
                    moment.add(given[moment.layers[0]].flatten(0, -2))
    grouped = {layer for moment in moments for layer in moment.layers}
    for layer in layers:
        if layer not in grouped:
            raise ScantlingError(
                f"the layer {layer.name} was not reached by any calibration token. Give more or more varied text."
            )
    return moments


def _join(moments: list[_Moment], given: Mapping[Layer, Tensor]) -> None:
    """Put layers that are not in a group yet into the one that is given the same tensor, or into a new one."""
    grouped = {layer for moment in moments for layer in moment.layers}
    for layer, inputs in given.items():
        if layer in grouped:
            continue
        twin = next((moment for moment in moments if given.get(moment.layers[0]) is inputs), None)
        if twin is not None:
            twin.layers.append(layer)
        else:
            moments.append(_Moment([layer], torch.zeros(layer.in_features, layer.in_features)))


def _differentiate(
    block: nn.Module,
    inputs: Mapping[Layer, _Tape],
    gradients: Mapping[Layer, list[Tensor]],
    pricing: Capture,
    index: int,
) -> None:
    """Run a block forward and backward on the pricing sequences; fills the tapes and moves the gradients on."""

    def record(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            if layer in inputs:
                inputs[layer].parts.append(arguments[0].detach().flatten(0, -2))
            output.register_hook(lambda gradient: gradients[layer].append(gradient.flatten(0, -2)))  # type: ignore[no-untyped-call]

        return hook

    with ExitStack() as hooks:
        for layer in gradients:
            hooks.enter_context(removing(block.get_submodule(layer.kind).register_forward_hook(record(layer))))
        for number, call in enumerate(pricing.calls[index]):
            hidden = call.hidden.requires_grad_()
            run_block(block, call, hidden).backward(pricing.gradients[number])  # type: ignore[no-untyped-call]
            assert hidden.grad is not None
            pricing.gradients[number] = hidden.grad
            for tape in inputs.values():
                tape.end_sequence()


def _input_group(moment: _Moment, tape: _Tape, gradients: dict[Layer, list[Tensor]]) -> InputGroup:
    """Put a group's parts together and free them."""
    joined = {layer: _joined(gradients.pop(layer), layer.out_features) for layer in moment.layers}
    return InputGroup(
        layers=moment.layers,
        hessian=moment.total.div_(moment.num_tokens),
        inputs=_joined(tape.parts, moment.layers[0].in_features),
        gradients=joined,
        tokens_per_sequence=tape.tokens_per_sequence,
    )


def _joined(parts: list[Tensor], width: int) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, width)
