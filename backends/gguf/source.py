"""A GGUF file that has everything but the planned types: metadata, tokenizer, chat template, and the order of tensors.

It is the model itself where that is a GGUF file, or what llama.cpp's converter makes of a model folder. How the
converter lays a matrix out is not assumed but looked up: the rows must be the model's own, or those of query and key
reordered for the rotary embedding, as llama.cpp has them in some architectures. Everything else is refused.

Knows nothing about plans.
"""

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from torch import Tensor

from ...common.errors import FileFormatError, InputError, MissingDependencyError, UnsupportedModelError
from ...common.files import require_writable
from ...models.gguf_names import tensor_names
from ...models.layers import Layer, ModelStructure
from ...quantization.ggml import dequantize_blocks, llama_cpp_folder
from ...quantization.gguf_types import GGUF_FORMATS

CONVERTER = "converter/convert_hf_to_gguf.py"
_HEAD = "output.weight"
_FLOATS = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.F64}


@dataclass(frozen=True)
class GgufSource:
    """An open GGUF file."""

    path: Path
    reader: GGUFReader

    @property
    def architecture(self) -> str:
        """llama.cpp's word for the model's architecture."""
        return str(self.field("general.architecture"))

    @cached_property
    def tensors(self) -> dict[str, ReaderTensor]:
        """The tensors by name, in the file's order."""
        return {tensor.name: tensor for tensor in self.reader.tensors}

    def field(self, key: str) -> Any:  # noqa: ANN401  metadata is of any type
        """Read the metadata of a key; None where there is none."""
        found = self.reader.fields.get(key)
        return None if found is None else found.contents()

    def names(self, structure: ModelStructure) -> dict[str, str]:
        """Find the tensors of a model's layers.

        Returns:
            Their names by layer.

        Raises:
            UnsupportedModelError: the file lacks one, or the architecture is unknown.
        """
        found = tensor_names(structure.layers, self.architecture, structure.num_blocks)
        for layer, name in found.items():
            if name not in self.tensors:
                raise UnsupportedModelError(
                    f"{self.path} has no tensor {name} for the layer {layer}: the converter lays this architecture, "
                    f"{self.architecture}, out in another way. Use another backend."
                )
        return found

    def matrix(self, name: str) -> Tensor:
        """Read a tensor's values, float32, in the file's order of rows."""
        return values_of(self.tensors[name])


def values_of(tensor: ReaderTensor) -> Tensor:
    """Read the values of a file's tensor.

    Returns:
        float32, rows last but one.

    Raises:
        FileFormatError: it is of a type that holds no weights.
    """
    kind = tensor.tensor_type
    if kind in _FLOATS:
        return torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    if kind == GGMLQuantizationType.BF16:
        shape = [int(side) for side in reversed(tensor.shape)]
        return torch.from_numpy(np.array(tensor.data).view(np.int16)).view(torch.bfloat16).reshape(shape).float()
    if kind.name not in GGUF_FORMATS:
        raise FileFormatError(f"the tensor {tensor.name} is of the type {kind.name}, which holds no weights.")
    return dequantize_blocks(np.array(tensor.data), GGUF_FORMATS[kind.name])


def open_gguf(path: Path) -> GgufSource:
    """Open a GGUF file: read its metadata, and see that its tensors lie inside it.

    Returns:
        The file.

    Raises:
        FileFormatError: it is not a GGUF file, or it ends too early.
    """
    try:
        source = GgufSource(path, GGUFReader(path))
        source.field("general.architecture").upper()
    except (OSError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise FileFormatError(
            f"{path} is not a GGUF file, or it is cut off: {str(error)[:200]}. Fetch or convert it again."
        ) from error
    return source


def source_of(model: str, work: Path) -> GgufSource:
    """Open the model as GGUF, converting it where it is a folder.

    Args:
        model: a GGUF file or a model folder.
        work: a folder for the converted file.

    Returns:
        The file.

    Raises:
        InputError: the model is neither.
        MissingDependencyError: llama.cpp's converter is not installed.
        UnsupportedModelError: the converter failed; the message says what it said.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return open_gguf(path)
    if not path.is_dir():
        raise InputError(
            f"{model} is neither a local folder nor a GGUF file, and the converter needs one of them. Download the "
            "model, and name its folder with --model."
        )
    return _converted(path, work)


def _converted(path: Path, work: Path) -> GgufSource:
    """Let llama.cpp's converter make a GGUF file of a model folder."""
    converter = llama_cpp_folder() / CONVERTER
    if not converter.is_file():
        raise MissingDependencyError(
            f"llama.cpp's converter is not at {converter}. `make gguf` in scantling's checkout puts it there; or "
            "convert the folder with your own convert_hf_to_gguf.py --outtype f32, and profile that file as the model."
        )
    converted = work / "source.gguf"
    require_writable(converted, 2 * sum(file.stat().st_size for file in path.glob("*.safetensors")))  # 16 to 32 bits
    command = [sys.executable, str(converter), "--outtype", "f32", "--outfile", str(converted), str(path.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  llama.cpp's own script
    if done.returncode or not converted.is_file():
        raise UnsupportedModelError(
            f"llama.cpp's converter could not convert {path}: {_complaint(done.stderr, converter)}"
        )
    return open_gguf(converted)


def _complaint(printed: str, converter: Path) -> str:
    """Give the converter's last line, and what it can convert where it does not know the architecture."""
    last = (printed.strip().splitlines() or ["it ended without a word"])[-1].strip()[:400]
    if "is not supported" not in last:
        return last
    command = [sys.executable, str(converter), "--print-supported-models"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    names = [line.split("- ")[-1].strip() for line in (listed.stdout + listed.stderr).splitlines() if "  - " in line]
    return f"{last} It knows: {', '.join(names)}." if names else last


def row_order(layer: Layer, matrix: Tensor, found: Tensor, head_counts: Iterable[int]) -> Tensor | None:
    """Find out how a file orders the rows of a matrix.

    With h heads, llama.cpp's order for rotary embeddings takes the rows of each head, numbered (half, i), as (i, half).

    Args:
        layer: the layer.
        matrix: the model's, [out, in].
        found: the file's, [out, in].
        head_counts: numbers of heads that the order may be for.

    Returns:
        int64 [out], for every row of the file the model's row; None where they are the same.

    Raises:
        UnsupportedModelError: it is neither the model's order nor that one.
    """
    if matrix.shape == found.shape:
        if torch.equal(matrix, found):
            return None
        rows = torch.arange(len(matrix))
        for heads in head_counts:
            if heads and len(matrix) % (2 * heads) == 0:
                order = rows.reshape(heads, 2, -1).transpose(1, 2).reshape(-1)
                if torch.equal(matrix[order], found):
                    return order
    raise UnsupportedModelError(
        f"the values of {layer.name} in the converted model are not the model's own, in any known order: the converter "
        "changes this layer. Use another backend."
    )
