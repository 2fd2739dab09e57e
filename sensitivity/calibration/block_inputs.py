"""The inputs of a block's layers: which layers share one, in which order they run, and the mean of x xᵀ.

Knows nothing about formats or rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from ...models.install import removing
from ...models.layers import Layer
from .capture import BlockCall, run_block
from .expert_coverage import kind_of_siblings, unreached_experts


class _AllReachedError(Exception):
    """Ends a block's forward pass once all watched layers were given their inputs."""


@dataclass
class InputCovariance:
    """Layers that are given the same tensor, and Σ x xᵀ over the tokens that they saw.

    Attributes:
        layers: the layers.
        total: Σ x xᵀ, float32 [in, in].
        num_tokens: the number of x.
        shift: Σ (x₀ − x) xᵀ, float32 [in, in], where x₀ is the layers' input in the original model; None where x₀ is
            unknown, or routed tokens differ.
    """

    layers: list[Layer]
    total: Tensor
    num_tokens: int = 0
    shift: Tensor | None = None

    def add(self, inputs: Tensor, original: Tensor | None) -> None:
        """Add inputs [..., in] and the same tokens' inputs in the original model, None where these are unknown."""
        rows = inputs.flatten(0, -2)
        self.total.addmm_(rows.t(), rows)
        if original is None or original.shape != inputs.shape:
            self.shift = None
        elif self.num_tokens == 0:
            self.shift = (original.flatten(0, -2) - rows).t() @ rows
        elif self.shift is not None:
            self.shift.addmm_((original.flatten(0, -2) - rows).t(), rows)
        self.num_tokens += len(rows)

    def hessian(self) -> Tensor:
        """Give the mean of x xᵀ, float32 [in, in]; the identity where no token was seen."""
        return self.total / self.num_tokens if self.num_tokens else torch.eye(len(self.total))


def stages(block: nn.Module, layers: Sequence[Layer], calls: Sequence[BlockCall]) -> list[list[Layer]]:
    """Divide a block's layers into stages that run one after another; experts of a kind are one stage.

    Args:
        block: the block.
        layers: its layers.
        calls: how it is called.

    Returns:
        The layers by stage, in the order in which they run.
    """
    order: list[tuple[Layer, int]] = []  # the layer, and which tensor it was given
    tensors: list[Tensor] = []
    for call in calls:
        given = inputs_of(block, [layer for layer in layers if layer not in dict(order)], call)
        for layer, inputs in given.items():
            if not any(inputs is known for known in tensors):
                tensors.append(inputs)
            order.append((layer, next(index for index, known in enumerate(tensors) if known is inputs)))
        if len(order) == len(layers):
            break
    by_tensor = [[layer for layer, _ in together] for _, together in groupby(order, key=lambda pair: pair[1])]
    by_stage: dict[str, list[Layer]] = {}
    for together in by_tensor:
        by_stage.setdefault(kind_of_siblings(together[0].kind), []).extend(together)
    stage_of = {kind_of_siblings(layer.kind): stage for stage in by_stage.values() for layer in stage}
    for layer in unreached_experts(layers, dict(order)):
        stage_of[kind_of_siblings(layer.kind)].append(layer)
    return list(by_stage.values())


def inputs_of(block: nn.Module, layers: Sequence[Layer], call: BlockCall) -> dict[Layer, Tensor]:
    """Run a block until all of these layers were given their inputs.

    Args:
        block: the block.
        layers: some of its layers.
        call: how it is called.

    Returns:
        The inputs, in the order in which the layers run; a layer that is not reached is missing.
    """
    given: dict[Layer, Tensor] = {}

    def watch(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            given[layer] = arguments[0]
            if len(given) == len(layers):
                raise _AllReachedError

        return hook

    with ExitStack() as hooks, torch.no_grad(), suppress(_AllReachedError):
        for layer in layers:
            hooks.enter_context(removing(block.get_submodule(layer.kind).register_forward_pre_hook(watch(layer))))
        run_block(block, call, call.hidden)
    return given


def input_covariances(
    block: nn.Module,
    layers: Sequence[Layer],
    calls: Sequence[BlockCall],
    originals: Sequence[Mapping[Layer, Tensor]] | None = None,
) -> list[InputCovariance]:
    """Run a block on all sequences; layers that are given the same tensor form one group.

    Args:
        block: the block.
        layers: some of its layers.
        calls: how it is called, one call a sequence.
        originals: the layers' inputs in the original model for each sequence; None where shifts are not needed.

    Returns:
        The groups; an expert that no token reached is a group of its own.
    """
    covariances: list[InputCovariance] = []
    reached: set[Layer] = set()
    for number, call in enumerate(calls):
        given = inputs_of(block, layers, call)
        for layer, inputs in given.items():
            if layer in reached:
                continue
            reached.add(layer)
            twin = next((covariance for covariance in covariances if given.get(covariance.layers[0]) is inputs), None)
            if twin is None:
                covariances.append(InputCovariance([layer], torch.zeros(layer.in_features, layer.in_features)))
            else:
                twin.layers.append(layer)
        for covariance in covariances:
            first = covariance.layers[0]
            if first in given:
                original = originals[number].get(first) if originals else None
                sees_all = given[first].shape[:-1].numel() == call.hidden.shape[:-1].numel()
                covariance.add(given[first], original if sees_all else None)
    unreached = unreached_experts(layers, reached)
    return covariances + [
        InputCovariance([layer], torch.zeros(layer.in_features, layer.in_features)) for layer in unreached
    ]
