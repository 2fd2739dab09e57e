"""The layers of a model, found from its module tree: names, shapes, kinds and blocks.

The decoder blocks are the elements of the module list that holds the most weights in linear layers; every linear inside
is a layer, including those of experts, which the module experts unstacks where they share one tensor. The embedding and
the output head are what the model itself names as such; a tied pair is one layer.

Knows nothing about architectures by name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..common.errors import UnsupportedModelError

EMBEDDING = "embedding"
HEAD = "head"


@dataclass(frozen=True)
class Layer:
    """One weight matrix.

    Attributes:
        name: its module's path.
        kind: the path inside its block, or ``embedding``, ``head``.
        block: the index of its block; None outside the blocks.
        out_features: rows of the matrix.
        in_features: columns.
        tied_name: the head's path where one matrix is both embedding and head.
    """

    name: str
    kind: str
    block: int | None
    out_features: int
    in_features: int
    tied_name: str | None = None

    @property
    def num_weights(self) -> int:
        """Entries of the matrix."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class ModelStructure:
    """The layers of a model.

    Attributes:
        blocks_name: path of the module list that holds the decoder blocks.
        num_blocks: its length.
        layers: block by block, then embedding and head.
        num_other_parameters: entries of the parameters that belong to no layer (norms, biases and the like).
    """

    blocks_name: str
    num_blocks: int
    layers: tuple[Layer, ...]
    num_other_parameters: int

    def layers_of(self, block: int) -> list[Layer]:
        """List the layers of a block, in their order."""
        return [layer for layer in self.layers if layer.block == block]


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer, also one that stores its matrix transposed (GPT-2's Conv1D)."""
    return isinstance(module, nn.Linear | Conv1D)


def matrix_of(module: nn.Module) -> Tensor:
    """View the weight of a linear layer or Conv1D as [out, in], of an embedding as [vocabulary, hidden]."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().t() if isinstance(module, Conv1D) else weight.detach()


def install_matrix(module: nn.Module, matrix: Tensor) -> None:
    """Give a layer another matrix [out, in] without touching the tensor that it had."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    weight.data = (matrix.t().contiguous() if isinstance(module, Conv1D) else matrix).to(weight.dtype)


def blocks_of(model: nn.Module, structure: ModelStructure) -> list[nn.Module]:
    """List the decoder blocks, first block first."""
    found = model.get_submodule(structure.blocks_name)
    assert isinstance(found, nn.ModuleList)
    return list(found)


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, part) for name, part in module.named_modules() if is_linear(part))


def output_head(model: PreTrainedModel) -> nn.Module | None:
    """Give the output head that the model itself names; None if it names none."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head if isinstance(head, nn.Module) else None


def _find_blocks(model: nn.Module) -> str:
    sizes: dict[str, int] = {
        name: sum(matrix_of(part).numel() for _, part in _linears(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    if not sizes or max(sizes.values()) == 0:
        raise UnsupportedModelError(
            f"no list of blocks with linear layers was found in {type(model).__name__}. "
            "scantling handles decoder models whose blocks are an nn.ModuleList."
        )
    return max(sizes, key=lambda name: sizes[name])  # the outermost list comes first among equals


def _layer(name: str, kind: str, block: int | None, module: nn.Module, tied_name: str | None = None) -> Layer:
    out_features, in_features = matrix_of(module).shape
    return Layer(name, kind, block, out_features, in_features, tied_name)


def find_layers(model: PreTrainedModel) -> ModelStructure:
    """Find the blocks and layers of a model.

    Args:
        model: a causal language model.

    Returns:
        Its structure.

    Raises:
        UnsupportedModelError: it has no blocks, embedding or head that can be found.
    """
    blocks_name = _find_blocks(model)
    blocks = model.get_submodule(blocks_name)
    assert isinstance(blocks, nn.ModuleList)
    layers = [
        _layer(f"{blocks_name}.{index}.{kind}", kind, index, module)
        for index, block in enumerate(blocks)
        for kind, module in _linears(block)
    ]
    embedding, head = model.get_input_embeddings(), output_head(model)
    if embedding is None or head is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} names no embedding or no output head: it is not a causal language model."
        )
    path_of = {module: name for name, module in model.named_modules()}
    tied = matrix_of(head).data_ptr() == matrix_of(embedding).data_ptr()
    layers.append(_layer(path_of[embedding], EMBEDDING, None, embedding, path_of[head] if tied else None))
    if not tied:
        layers.append(_layer(path_of[head], HEAD, None, head))
    in_layers = sum(layer.num_weights for layer in layers)
    everything = sum(parameter.numel() for parameter in model.parameters())  # a tied parameter counts once
    return ModelStructure(blocks_name, len(blocks), tuple(layers), everything - in_layers)


def require_finite_weights(model: nn.Module, release: Callable[[], None] | None = None) -> None:
    """Refuse a model with weights that are NaN or infinite.

    Args:
        model: the model.
        release: called after each parameter, which is then not needed any more.

    Raises:
        UnsupportedModelError: there is one; the message names the parameter.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            num_bad = int((~torch.isfinite(parameter)).sum())
            raise UnsupportedModelError(
                f"the parameter {name} holds {num_bad:,} values that are NaN or infinite. The checkpoint is damaged: "
                "download or convert it again."
            )
        if release is not None:
            release()
