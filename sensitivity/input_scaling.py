"""Scaling a model's inputs by AWQ, folded into what makes them, so that the model computes what it did.

Where an input comes from is found out, not assumed from names: a norm whose output *is* the tensor that the layers
read, or a matrix before them. Each fold is first tried with random scales on the block; where the block's output moves,
it is no fold (a gate before its nonlinearity, for instance), and the input is left unscaled.

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
    """A place where an input's scale can be taken up.

    Attributes:
        source: the norm or matrix that makes the input.
        readers: the layers that read it.
        offset: 1 where the norm multiplies by 1 + weight, else 0.
        repeats: how often each output of the source appears in the input (query heads that share a value head).
        run: how many of its outputs lie side by side in each repeat.
    """

    source: nn.Module
    readers: tuple[nn.Module, ...]
    offset: float = 0.0
    repeats: int = 1
    run: int = 1

    def tied(self, scales: Tensor) -> Tensor:
        """Make scales equal where the source has one output for several inputs.

        Args:
            scales: [in].

        Returns:
            [in], the geometric mean over the repeats.
        """
        return self._spread(self._by_output(scales))

    def _by_output(self, scales: Tensor) -> Tensor:
        return scales.log().reshape(-1, self.repeats, self.run).mean(1).exp().reshape(-1)

    def _spread(self, by_output: Tensor) -> Tensor:
        return by_output.reshape(-1, 1, self.run).expand(-1, self.repeats, -1).reshape(-1)

    def apply(self, scales: Tensor) -> None:
        """Scale the readers' columns up and the source's outputs down.

        Args:
            scales: [in], tied.
        """
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
    how: tuple[AwqSettings, Sequence[Format]],
    progress: Progress,
) -> None:
    """Scale all inputs that can be scaled; a second call for the same model does nothing.

    Args:
        loaded: the model; its norms and matrices change, what it computes does not.
        structure: of the model.
        token_ids: the rounding sequences, int64 [sequences, tokens].
        how: the search, and the formats it is for.
        progress: shows how far the work is.

    Raises:
        InputError: the model's inputs were scaled for other settings before.
    """
    settings, formats = how
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
        _scale_block(loaded, blocks[index], layers, calls[index], (settings, integers))
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
    how: tuple[AwqSettings, Sequence[IntegerFormat]],
) -> None:
    settings, formats = how
    for stage in stages(block, layers, calls[:1]):
        for covariance in input_covariances(block, stage, calls):
            reader = covariance.layers[0]
            reaching = next((call for call in calls if reader in inputs_of(block, [reader], call)), None)
            if reaching is None:
                continue
            fold = find_fold(loaded.model.config, block, (covariance.layers, layers), reaching)
            if fold is None:
                continue
            matrices = [matrix_of(reader) for reader in fold.readers]
            scales = awq_scales(matrices, covariance.hessian(), formats, settings, fold.tied)
            fold.apply(scales)


def find_fold(
    config: object, block: nn.Module, layers: tuple[Sequence[Layer], Sequence[Layer]], call: BlockCall
) -> Fold | None:
    """Find where the scale of an input can be taken up.

    Args:
        config: of the model.
        block: the block.
        layers: those that read the input, and all of the block.
        call: how the block is called, so that it reaches those layers.

    Returns:
        A fold that leaves the block's output as it is; None where there is none.
    """
    readers = tuple(block.get_submodule(layer.kind) for layer in layers[0])
    with torch.no_grad():
        expected = run_block(block, call, call.hidden)
    generator = torch.Generator().manual_seed(0)
    for fold in _candidates(config, block, layers, readers, call):
        scales = fold.tied(torch.randn(layers[0][0].in_features, generator=generator).mul(0.5).exp())
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
    layers: tuple[Sequence[Layer], Sequence[Layer]],
    readers: tuple[nn.Module, ...],
    call: BlockCall,
) -> Iterator[Fold]:
    """List the norms that make the input, with and without an offset, then the matrices whose outputs fit its width."""
    read_by, all_layers = layers
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
