"""llama.cpp through llama-cpp-python, if that is installed: GGUF files decoded on this machine.

Knows nothing about clocks and watts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Final

import torch
from gguf import GGUFReader

from ..common.errors import FileFormatError, MissingDependencyError
from .runtimes import DecodeRun, Step

_PACKAGE: Final = "llama_cpp"
_CONTEXT: Final = 512
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


def llama_cpp_is_here() -> bool:
    """Tell whether llama-cpp-python is installed."""
    return util.find_spec(_PACKAGE) is not None


@dataclass(frozen=True)
class GgufContents:
    """What a GGUF file says about reading.

    Attributes:
        format: the type of most bytes of its blocks.
        num_blocks: of the model.
        read_bytes: per token: all tensors, but only one row of an untied embedding.
    """

    format: str
    num_blocks: int
    read_bytes: int


def gguf_contents(path: Path) -> GgufContents:
    """Inspect a GGUF file.

    Args:
        path: the file.

    Returns:
        Its contents.

    Raises:
        FileFormatError: it is not a GGUF file with blocks.
    """
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise FileFormatError(f"{path} is not a GGUF file: {error}") from error
    names = {tensor.name for tensor in reader.tensors}
    bytes_of: Counter[str] = Counter()
    read, blocks = 0, set()
    for tensor in reader.tensors:
        size = int(tensor.n_bytes)
        if tensor.name == _EMBEDDING and _HEAD in names:
            size //= int(tensor.shape[-1])
        if tensor.name.startswith("blk."):
            bytes_of[tensor.tensor_type.name] += size
            blocks.add(tensor.name.split(".")[1])
        read += size
    if not blocks:
        raise FileFormatError(f"{path} has no block tensors. Name a GGUF file of a decoder model.")
    return GgufContents(bytes_of.most_common(1)[0][0], len(blocks), read)


@dataclass(frozen=True)
class LlamaCppRuntime:
    """llama.cpp on some files.

    Attributes:
        files: GGUF files; of one model in several formats, and cut to fewer blocks if these exist.
        counted: what a run has many of.
    """

    files: Sequence[Path]
    counted: str = "blocks"

    @property
    def name(self) -> str:
        """Name and version."""
        return f"llama.cpp through llama-cpp-python {_imported().__version__}, {torch.get_num_threads()} threads"

    def runs(self) -> Iterator[DecodeRun]:
        """Load one file after the other; yields a run for each."""
        contents = {path: gguf_contents(path) for path in self.files}
        largest = max(found.num_blocks for found in contents.values())
        for path, found in contents.items():
            model = _imported().Llama(str(path), n_ctx=_CONTEXT, n_threads=torch.get_num_threads(), verbose=False)
            whole = found.num_blocks == largest
            yield DecodeRun(found.format, found.num_blocks, whole, found.read_bytes, _beginner(model))
            model.close()


def _beginner(model: Any) -> Callable[[], Step]:  # noqa: ANN401 - the library has no types
    def begin() -> Step:
        model.reset()
        return lambda: model.eval([1])  # which token it is does not matter

    return begin


def _imported() -> Any:  # noqa: ANN401
    try:
        import llama_cpp  # noqa: PLC0415 - an optional engine
    except ImportError as error:
        raise MissingDependencyError(
            "GGUF files are decoded by llama.cpp: pip install llama-cpp-python. Leave --gguf out for torch."
        ) from error
    return llama_cpp
