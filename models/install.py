"""A loaded model with other weights installed for a while, and its own restored afterwards.

Knows nothing about how the weights were rounded.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..quantization.formats import Format
from ..quantization.ggml import PackedMatrix
from ..quantization.gguf_inputs import input_block, rounded_inputs
from ..quantization.grid import Rounded
from .layers import install_matrix, is_linear

Candidate = Mapping[str, Rounded]


@contextmanager
def installed(model: nn.Module, candidate: Candidate) -> Iterator[None]:
    """Install a candidate's matrices in a model for a while; what is tied stays tied.

    Inputs of products with GGUF types are rounded as llama.cpp does; gradients pass as if they were not.

    Args:
        model: the original model.
        candidate: matrices by layer name.

    Yields:
        Nothing; the original matrices are restored afterwards.
    """
    modules = {name: model.get_submodule(name) for name in candidate}
    originals = {name: module.weight.data for name, module in modules.items()}
    formats = {name: rounded.format for name, rounded in candidate.items() if isinstance(rounded, PackedMatrix)}
    try:
        for name, rounded in candidate.items():
            install_matrix(modules[name], rounded.dequantize())
        with inputs_rounded(model, formats):
            yield
    finally:
        for name, original in originals.items():
            modules[name].weight.data = original


@contextmanager
def inputs_rounded(model: nn.Module, formats: Mapping[str, Format]) -> Iterator[None]:
    """Round the inputs of products with matrices in GGUF types for a while, as llama.cpp does.

    Args:
        model: the model.
        formats: by layer; the product with a tied matrix is the head's.

    Yields:
        Nothing.
    """
    blocks = {model.get_submodule(name).weight: input_block(target) for name, target in formats.items()}
    with ExitStack() as hooks:
        for module in model.modules() if blocks else ():
            block = blocks.get(module.weight) if is_linear(module) else None
            if block is not None:
                hooks.enter_context(removing(module.register_forward_pre_hook(partial(_round_inputs, block))))
        yield


def _round_inputs(block: int, _module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs = arguments[0]
    return (inputs + (rounded_inputs(inputs.detach(), block) - inputs.detach()), *arguments[1:])


@contextmanager
def removing(handle: RemovableHandle) -> Iterator[None]:
    """Remove a hook when the context ends."""
    try:
        yield
    finally:
        handle.remove()
