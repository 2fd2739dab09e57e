"""The backward pass, block by block from the last to the first, with all sequences at each block.

Every block is run again by itself on the inputs of the captured pass, and the gradients are taken through it. That
gives every layer's inputs and output gradients, while memory holds only one block's, for a few sequences. There are two
sets of sequences: formats are fitted to the *rounding* sequences, of which only the mean of x xᵀ is kept, and their
loss increase is estimated on the *pricing* sequences, which rounding never saw.

Knows nothing about formats, rounding or estimators.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...common.progress import Progress
from ...models.install import removing
from ...models.layers import Layer, ModelStructure, blocks_of
from .capture import BlockCall, Capture, run_block
from .expert_coverage import unreached_experts

_TOKENS_AT_ONCE = 8192  # of pricing sequences times draws, for which output gradients of a whole block are held


@dataclass
class InputGroup:
    """Layers of a block that read the same input.

    Attributes:
        layers: the layers.
        hessian: mean of x xᵀ over the tokens of the rounding sequences, float32 [in, in]; the identity for an expert
            that no token reached.
        num_tokens: tokens of the rounding sequences that the layers saw; None where they were not counted.
    """

    layers: list[Layer]
    hessian: Tensor
    num_tokens: int | None = None


@dataclass(frozen=True)
class LayerGradients:
    """Inputs and output gradients of one layer on some pricing sequences.

    Attributes:
        inputs: x, [rows, in]; a row is a token that the layer saw.
        gradients: g, at the layer's output, [draws, rows, out].
        rows_per_sequence: the number of rows of each sequence.
        sequence_length: tokens in every sequence.
    """

    inputs: Tensor
    gradients: Tensor
    rows_per_sequence: list[int]
    sequence_length: int


@dataclass(frozen=True)
class BlockVisit:
    """One block of the backward pass.

    Attributes:
        index: the block's position.
        groups: its layers with the inputs that their formats are fitted to.
        gradient_batches: iterates over the pricing sequences in order, a few at a time; to be exhausted once.
        num_pricing_tokens: tokens of the pricing sequences that each layer saw, complete after that iteration.
    """

    index: int
    groups: list[InputGroup]
    gradient_batches: Callable[[], Iterator[dict[Layer, LayerGradients]]]
    num_pricing_tokens: Counter[Layer] = field(default_factory=Counter)


@dataclass
class _RunningCovariance:
    """Σ x xᵀ over the tokens that one group of layers saw."""

    layers: list[Layer]
    total: Tensor
    num_tokens: int = 0

    def add(self, inputs: Tensor) -> None:
        self.total.addmm_(inputs.t(), inputs)
        self.num_tokens += len(inputs)

    def group(self) -> InputGroup:
        hessian = self.total.div_(self.num_tokens) if self.num_tokens else self.total.fill_diagonal_(1.0)
        return InputGroup(self.layers, hessian, self.num_tokens)


@dataclass
class _Record:
    """Inputs [rows, in] and, for every draw, gradients [rows, out] of one layer, call by call."""

    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)
    rows_per_sequence: list[int] = field(default_factory=list)


def blocks_backward(
    model: nn.Module,
    structure: ModelStructure,
    rounding: Capture,
    pricing: Capture | None,
    progress: Progress,
    num_done: int = 0,
) -> Iterator[BlockVisit]:
    """Visit the blocks from the last to the first.

    What is no longer needed is freed on the way. At the end ``pricing.gradients`` holds the gradients at the first
    block's input.

    Args:
        model: the model.
        structure: its layers.
        rounding: the captured rounding sequences; consumed.
        pricing: the captured pricing sequences, with gradients; consumed. None where nothing is priced.
        progress: shows how far the pass is.
        num_done: blocks at the end to skip; ``pricing.gradients`` are then those at the input of the first of these.

    Yields:
        A visit to each block.
    """
    blocks = blocks_of(model, structure)
    num_blocks = len(blocks) - num_done
    for capture in (rounding, pricing):
        if capture is not None:
            capture.calls[num_blocks:] = [[] for _ in range(num_done)]
    label = "rounding blocks" if pricing is None else "rounding and pricing"
    for index in progress(list(reversed(range(num_blocks))), label):
        layers = [layer for layer in structure.layers if layer.block == index]
        covariances = _running_covariances(blocks[index], layers, rounding.calls[index])
        rounding.calls[index] = []
        groups = [covariance.group() for covariance in covariances]
        num_tokens: Counter[Layer] = Counter()

        def gradient_batches(
            index: int = index,
            groups: Sequence[InputGroup] = tuple(groups),
            num_tokens: Counter[Layer] = num_tokens,
        ) -> Iterator[dict[Layer, LayerGradients]]:
            if pricing is not None:
                for gradients_by_layer in _differentiate(blocks[index], groups, pricing, index):
                    num_tokens.update({layer: sum(of.rows_per_sequence) for layer, of in gradients_by_layer.items()})
                    yield gradients_by_layer

        yield BlockVisit(index, groups, gradient_batches, num_tokens)


def _running_covariances(
    block: nn.Module, layers: Sequence[Layer], calls: Sequence[BlockCall]
) -> list[_RunningCovariance]:
    """Run a block on the rounding sequences; layers that are given the same tensor make one group."""
    covariances: list[_RunningCovariance] = []
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
            _join(covariances, given)
            for covariance in covariances:
                if covariance.layers[0] in given:
                    covariance.add(given[covariance.layers[0]].flatten(0, -2))
    reached = {layer for covariance in covariances for layer in covariance.layers}
    unreached = unreached_experts(layers, reached)
    return covariances + [
        _RunningCovariance([layer], torch.zeros(layer.in_features, layer.in_features)) for layer in unreached
    ]


def _join(covariances: list[_RunningCovariance], given: Mapping[Layer, Tensor]) -> None:
    """Add layers without a group to the group that is given the same tensor, or to a new one."""
    grouped = {layer for covariance in covariances for layer in covariance.layers}
    for layer, inputs in given.items():
        if layer in grouped:
            continue
        twin = next((covariance for covariance in covariances if given.get(covariance.layers[0]) is inputs), None)
        if twin is not None:
            twin.layers.append(layer)
        else:
            covariances.append(_RunningCovariance([layer], torch.zeros(layer.in_features, layer.in_features)))


def _differentiate(
    block: nn.Module, groups: Sequence[InputGroup], pricing: Capture, index: int
) -> Iterator[dict[Layer, LayerGradients]]:
    """Run a block forward and backward on the pricing sequences, and move their gradients to its input."""
    calls = pricing.calls[index]
    sequence_length = calls[0].hidden.shape[-2]
    at_once = max(1, _TOKENS_AT_ONCE // (sequence_length * len(pricing.gradients[0])))
    for start in range(0, len(calls), at_once):
        records = {layer: _Record() for group in groups for layer in group.layers}
        for number in range(start, min(start + at_once, len(calls))):
            pricing.gradients[number] = _one_sequence(block, groups, records, calls[number], pricing.gradients[number])
        yield {
            layer: _layer_gradients(layer, group, records, sequence_length)
            for group in groups
            for layer in group.layers
        }
    pricing.calls[index] = []


def _one_sequence(
    block: nn.Module,
    groups: Sequence[InputGroup],
    records: Mapping[Layer, _Record],
    call: BlockCall,
    gradients: Sequence[Tensor],
) -> list[Tensor]:
    """Run a block on one sequence, forward once and backward for every draw; returns the gradients at its input."""
    outputs: list[tuple[Layer, Tensor]] = []

    def record(layer: Layer, *, keeps_inputs: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            if keeps_inputs:
                records[layer].inputs.append(arguments[0].detach().flatten(0, -2))
            outputs.append((layer, output))

        return hook

    hidden = call.hidden.detach().requires_grad_()
    with ExitStack() as hooks:
        for group in groups:
            for layer in group.layers:
                module = block.get_submodule(layer.kind)
                hook = record(layer, keeps_inputs=layer is group.layers[0])
                hooks.enter_context(removing(module.register_forward_hook(hook)))
        end = run_block(block, call, hidden)
    wanted = [hidden, *(output for _, output in outputs)]
    found = [
        torch.autograd.grad(end, wanted, gradient, retain_graph=draw + 1 < len(gradients), materialize_grads=True)
        for draw, gradient in enumerate(gradients)
    ]
    for group in groups:
        for layer in group.layers:
            places = [place for place, (of, _) in enumerate(outputs, start=1) if of is layer]
            rows = [[drawn[place].flatten(0, -2) for drawn in found] for place in places]
            records[layer].gradients += rows
            records[layer].rows_per_sequence.append(sum(len(of_draws[0]) for of_draws in rows))
    return [drawn[0] for drawn in found]


def _layer_gradients(
    layer: Layer, group: InputGroup, records: Mapping[Layer, _Record], sequence_length: int
) -> LayerGradients:
    """Concatenate a layer's calls; the layers of a group share their inputs."""
    of_layer, of_group = records[layer], records[group.layers[0]]
    if of_group is of_layer and of_layer.inputs:
        of_group.inputs[:] = [torch.cat(of_group.inputs)]
    if not of_layer.gradients:
        return LayerGradients(
            torch.empty(0, layer.in_features),
            torch.empty(1, 0, layer.out_features),
            of_layer.rows_per_sequence,
            sequence_length,
        )
    num_rows = sum(len(of_draws[0]) for of_draws in of_layer.gradients)
    joined = of_layer.gradients[0][0].new_empty(len(of_layer.gradients[0]), num_rows, layer.out_features)
    for of_draw, parts in zip(joined, zip(*of_layer.gradients, strict=True), strict=True):
        torch.cat(parts, out=of_draw)
    of_layer.gradients.clear()
    return LayerGradients(of_group.inputs[0], joined, of_layer.rows_per_sequence, sequence_length)
