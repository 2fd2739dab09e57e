"""Scaling a model's inputs by AWQ, folded into their source, so that the model computes the same function.

The source of an input is found by testing, not assumed from names: a norm whose output *is* the tensor that the layers
read, or a matrix before them. Each candidate is tried with random scales on the block; if the block's output changes
(behind a gate's nonlinearity, for instance), it is no fold, and the input stays unscaled.

Knows nothing about losses.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.progress import Progress
from ..models.install import removing
from ..models.layers import Layer, ModelStructure, blocks_of, install_matrix, is_linear, matrix_of
from ..models.loading import LoadedModel
from ..quantization.awq import AwqSettings, awq_scales
from ..quantization.formats import Format, IntegerFormat
from .calibration.block_inputs import input_covariances, inputs_of, stages
from .calibration.capture import BlockCall, enter_blocks, run_block
from .calibration.expert_coverage import expert_of

_TOLERANCE = 1e-3  # of the block's output: float32 arithmetic moves it by 1e-6, a wrong fold by 0.1 and more


@dataclass(frozen=True)
class Fold:
    """A source that can absorb the scale of an input.

    Attributes:
        source: the norm or matrix that produces the input.
        readers: the layers that read it.
        offset: 1 if the norm multiplies by 1 + weight, else 0.
        repeats: how often each output of the source appears in the input (query heads that share a value head).
        run: how many of its outputs are adjacent in each repeat.
    """

    source: nn.Module
    readers: tuple[nn.Module, ...]
    offset: float = 0.0
    repeats: int = 1
    run: int = 1

    def tied(self, scales: Tensor) -> Tensor:
        """Make scales [in] equal for inputs from one output of the source, by their geometric mean."""
        return self._spread(self._by_output(scales))

    def _by_output(self, scales: Tensor) -> Tensor:
        return scales.log().reshape(-1, self.repeats, self.run).mean(1).exp().reshape(-1)

    def _spread(self, by_output: Tensor) -> Tensor:
        return by_output.reshape(-1, 1, self.run).expand(-1, self.repeats, -1).reshape(-1)

    def apply(self, scales: Tensor) -> None:
        """Scale the readers' columns up and the source's outputs down, by tied scales [in]."""
        for reader in self.readers:
            install_matrix(reader, matrix_of(reader) * scales)
        down = 1.0 / self._by_output(scales)
        weight, bias = self.source.weight, getattr(self.source, "bias", None)
        assert isinstance(weight, nn.Parameter)
        if is_linear(self.source):
            install_matrix(self.source, matrix_of(self.source) * down.unsqueeze(1))
        else:
            weight.data = (weight.data + self.offset) * down - self.offset
        if isinstance(bias, nn.Parameter):
            bias.data = bias.data * down


def scale_inputs(
    loaded: LoadedModel,
    structure: ModelStructure,
    token_ids: Tensor,
    settings: AwqSettings,
    formats: Sequence[Format],
    progress: Progress,
) -> None:
    """Scale all inputs that can be scaled; a second call for the same model does nothing.

    Args:
        loaded: the model; its norms and matrices change, its function does not.
        structure: its layers.
        token_ids: the rounding sequences, int64 [sequences, tokens].
        settings: of the search for scales.
        formats: the formats to search for.
        progress: shows how far the work is.

    Raises:
        InputError: the model's inputs were scaled for other settings before.
    """
    integers = [target for target in formats if isinstance(target, IntegerFormat)]
    mark = f"{settings} {[target.name for target in integers]}"
    if loaded.input_scalings:
        if loaded.input_scalings != [mark]:
            raise InputError("the inputs of this model were scaled for other formats. Load the original again.")
        return
    loaded.input_scalings.append(mark)
    if not integers:
        return
    calls = enter_blocks(loaded.model, structure, token_ids)
    blocks = blocks_of(loaded.model, structure)
    for index in progress(list(range(len(blocks))), "scaling inputs"):
        layers = [layer for layer in structure.layers if layer.block == index]
        _scale_block(loaded, blocks[index], layers, calls[index], settings, integers)
        with torch.no_grad():
            leaving = [run_block(blocks[index], call, call.hidden) for call in calls[index]]
        calls[index] = []
        if index + 1 < len(blocks):
            entering = zip(calls[index + 1], leaving, strict=True)
            calls[index + 1] = [replace(call, hidden=hidden) for call, hidden in entering]


def _scale_block(
    loaded: LoadedModel,
    block: nn.Module,
    layers: Sequence[Layer],
    calls: Sequence[BlockCall],
    settings: AwqSettings,
    formats: Sequence[IntegerFormat],
) -> None:
    for stage in stages(block, layers, calls[:1]):
        for covariance in input_covariances(block, stage, calls):
            reader = covariance.layers[0]
            reaching = next((call for call in calls if reader in inputs_of(block, [reader], call)), None)
            if reaching is None:
                continue
            fold = find_fold(loaded.model.config, block, covariance.layers, layers, reaching)
            if fold is None:
                continue
            matrices = [matrix_of(reader) for reader in fold.readers]
            scales = awq_scales(matrices, covariance.hessian(), formats, settings, fold.tied)
            fold.apply(scales)


def find_fold(
    config: object, block: nn.Module, read_by: Sequence[Layer], all_layers: Sequence[Layer], call: BlockCall
) -> Fold | None:
    """Find a fold for an input.

    Args:
        config: the model's.
        block: the block.
        read_by: the layers that read the input.
        all_layers: the block's layers.
        call: a call of the block that reaches the readers.

    Returns:
        A fold that does not change the block's output; None where there is none.
    """
    readers = tuple(block.get_submodule(layer.kind) for layer in read_by)
    with torch.no_grad():
        expected = run_block(block, call, call.hidden)
    generator = torch.Generator().manual_seed(0)
    for fold in _candidates(config, block, read_by, all_layers, call):
        scales = fold.tied(torch.randn(read_by[0].in_features, generator=generator).mul(0.5).exp())
        with _undone([fold.source, *readers]), torch.no_grad():
            fold.apply(scales)
            moved = (run_block(block, call, call.hidden) - expected).abs().max()
        if float(moved) <= _TOLERANCE * float(expected.abs().max()):
            return fold
    return None


class _undone(ExitStack):  # noqa: N801  used as a verb
    """Puts the parameters of some modules back when the context ends."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        for module in modules:
            for parameter in module.parameters(recurse=False):
                self.callback(_put_back, parameter, parameter.data)


def _put_back(parameter: nn.Parameter, values: Tensor) -> None:
    parameter.data = values


def _candidates(
    config: object,
    block: nn.Module,
    read_by: Sequence[Layer],
    all_layers: Sequence[Layer],
    call: BlockCall,
) -> Iterator[Fold]:
    """List norms that produce the input, with and without an offset, then matrices whose outputs fit its width."""
    readers = tuple(block.get_submodule(layer.kind) for layer in read_by)
    width = read_by[0].in_features
    for norm in _makers(block, read_by[0], call):
        yield Fold(norm, readers)
        yield Fold(norm, readers, offset=1.0)
    value_heads = getattr(config, "num_key_value_heads", None)
    for layer in reversed(all_layers):
        another_expert = expert_of(layer.kind) not in {None, expert_of(read_by[0].kind)}
        if layer in read_by or width % layer.out_features or another_expert:
            continue
        source = block.get_submodule(layer.kind)
        if layer.out_features == width:
            yield Fold(source, readers)
        elif isinstance(value_heads, int) and layer.out_features % value_heads == 0:
            yield Fold(source, readers, repeats=width // layer.out_features, run=layer.out_features // value_heads)


def _makers(block: nn.Module, reader: Layer, call: BlockCall) -> list[nn.Module]:
    """Find the modules with a weight per channel whose output is the very tensor that a layer reads."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:  # noqa: ANN401
            outputs.append((module, output))

        return hook

    with ExitStack() as hooks:
        for module in block.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.shape == (reader.in_features,):
                hooks.enter_context(removing(module.register_forward_hook(keep(module))))
        given = inputs_of(block, [reader], call)[reader]
    return [module for module, output in outputs if output is given]
