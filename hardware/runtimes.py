"""Runtimes that decode a model token by token on this machine: the seam, and torch.

A runtime provides runs: a model in one format, how many bytes a token of it reads, and a way to begin a text whose next
token is computed at every call. Models are also run cut to some of their blocks: two sizes of one format tell the
efficiency from the overhead.

Knows nothing about clocks and watts.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from ..models.layers import blocks_of, find_layers, output_head
from ..models.loading import LoadedModel

Step = Callable[[], None]


@dataclass(frozen=True)
class DecodeRun:
    """A model that is ready to decode.

    Attributes:
        format: of its matrices.
        num_blocks: of the model, whole or cut; or matrices.
        whole: whether it has all its blocks.
        read_bytes: per token, without the cache.
        begin: starts a text; each call of what it returns computes one token.
    """

    format: str
    num_blocks: int
    whole: bool
    read_bytes: int
    begin: Callable[[], Step]


class DecodeRuntime(Protocol):
    """Decodes models on this machine."""

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    @property
    def counted(self) -> str:
        """What a run has many of: blocks of a model, or matrices."""
        ...

    def runs(self) -> Iterator[DecodeRun]:
        """Yield the runs one at a time, so that one model is in memory."""
        ...


def _as_float32(model: PreTrainedModel) -> nn.Module:
    return model


def _as_bfloat16(model: PreTrainedModel) -> nn.Module:
    converted: nn.Module = copy.deepcopy(model)
    return converted.to(torch.bfloat16)


def _as_int8(model: PreTrainedModel) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this way will move to another package
        quantized: nn.Module = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    return quantized


_FORMATS: Final[dict[str, Callable[[PreTrainedModel], nn.Module]]] = {
    "float32": _as_float32,
    "bfloat16": _as_bfloat16,
    "int8": _as_int8,
}
DEFAULT_SHARES: Final = (1 / 3, 2 / 3, 1.0)


@dataclass(frozen=True)
class TorchRuntime:
    """Transformers on torch, on the CPU: float32, bfloat16, and torch's own dynamic int8 (one scale per matrix).

    Attributes:
        loaded: the model, in float32; its blocks are restored afterwards.
        shares: of the blocks in each run, the whole model in the last.
        counted: what a run has many of.
    """

    loaded: LoadedModel
    shares: Sequence[float] = DEFAULT_SHARES
    counted: str = "blocks"

    @property
    def name(self) -> str:
        """Name and version."""
        return f"transformers on torch {torch.__version__}, {torch.get_num_threads()} threads"

    def runs(self) -> Iterator[DecodeRun]:
        """Cut the model and convert it to each format; yields one run per size and format."""
        model = self.loaded.model
        structure = find_layers(model)
        blocks = blocks_of(model, structure)
        for share in self.shares:
            num_blocks = max(1, round(share * len(blocks)))
            _set_blocks(model, structure.blocks_name, blocks[:num_blocks])
            try:
                for name, convert in _FORMATS.items():
                    converted = convert(model)
                    size = read_bytes_of(converted, model)
                    yield DecodeRun(name, num_blocks, num_blocks == len(blocks), size, _beginner(converted))
            finally:
                _set_blocks(model, structure.blocks_name, blocks)


def _set_blocks(model: PreTrainedModel, blocks_name: str, blocks: Sequence[nn.Module]) -> None:
    model.set_submodule(blocks_name, nn.ModuleList(blocks))
    model.config.get_text_config().num_hidden_layers = len(blocks)


def read_bytes_of(converted: nn.Module, original: PreTrainedModel) -> int:
    """Count the bytes that a token reads: all parameters and packed matrices, but only one row of an untied embedding.

    Args:
        converted: the model as it runs.
        original: the same before conversion, which knows its embedding and head.

    Returns:
        Bytes.
    """
    embedding, head = original.get_input_embeddings(), output_head(original)
    names = {module: name for name, module in original.named_modules()}
    found = 0
    seen: set[int] = set()
    here = converted.get_submodule(names[embedding])
    assert isinstance(here.weight, torch.Tensor)
    head_weight = None if head is None else getattr(converted.get_submodule(names[head]), "weight", None)
    alone = head_weight is not here.weight
    for parameter in converted.parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            rows = parameter.shape[0] if alone and parameter is here.weight else 1
            found += parameter.numel() * parameter.element_size() // rows
    for module in converted.modules():
        weight = getattr(module, "weight", None)
        if callable(weight):  # torch's packed matrices
            packed = weight()
            found += packed.numel() * packed.element_size()
    return found


def _beginner(model: nn.Module) -> Callable[[], Step]:
    def begin() -> Step:
        cache, token = DynamicCache(), torch.zeros((1, 1), dtype=torch.long)

        def step() -> None:
            nonlocal token
            with torch.inference_mode():
                logits = model(input_ids=token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1:].argmax(-1)

        return step

    return begin
