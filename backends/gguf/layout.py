"""A GGUF file laid out before there are values, and filled in any order.

Everything that the source file says of the model is kept, key by key with its type; only keys about the file's own
types are replaced. ``general.file_type`` is left out: llama.cpp then looks at the tensors. Tensors outside the plan
keep the type and the bytes that they have in the source.

Knows nothing about plans or layers.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from .source import GgufSource

ALIGNMENT = 32
_QUANTIZATION_VERSION = 2
_REPLACED_KEYS = (
    "GGUF.",
    "quantize.",
    "general.architecture",
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
    "scantling.",
)


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file: its shape, rows before columns, and its type."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType

    @property
    def num_bytes(self) -> int:
        """Without the padding behind it."""
        weights, num_bytes = GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // weights * num_bytes


@dataclass(frozen=True)
class GgufLayout:
    """A file before its values.

    Attributes:
        header: its first bytes, up to the first tensor.
        tensors: by name, in the file's order.
    """

    header: bytes
    tensors: dict[str, GgufTensor]

    @property
    def tensor_bytes(self) -> int:
        """Of all tensors, without padding."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def file_bytes(self) -> int:
        """Of the whole file."""
        return len(self.header) + sum(_padded(tensor.num_bytes) for tensor in self.tensors.values())

    def offsets(self) -> dict[str, int]:
        """Give the position of every tensor in the file, by name."""
        found, position = {}, len(self.header)
        for name, tensor in self.tensors.items():
            found[name] = position
            position += _padded(tensor.num_bytes)
        return found


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def lay_out_gguf(
    source: GgufSource, planned: Mapping[str, GGMLQuantizationType], dropped: frozenset[str], about: Mapping[str, str]
) -> GgufLayout:
    """Lay a file out.

    Args:
        source: has the metadata and the shapes.
        planned: the types of the planned tensors, by name.
        dropped: tensors that are not written.
        about: further metadata.

    Returns:
        The layout.
    """
    tensors = {
        name: GgufTensor(tuple(int(side) for side in reversed(tensor.shape)), planned.get(name, tensor.tensor_type))
        for name, tensor in source.tensors.items()
        if name not in dropped
    }
    header = _header(source, tensors, about)
    return GgufLayout(header + bytes(_padded(len(header)) - len(header)), tensors)


def _header(source: GgufSource, tensors: Mapping[str, GgufTensor], about: Mapping[str, str]) -> bytes:
    """Let the package gguf write everything before the first tensor, without padding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header"
        writer = GGUFWriter(path, source.architecture)
        for key, entry in source.reader.fields.items():
            if not key.startswith(_REPLACED_KEYS):
                sub_type = entry.types[-1] if entry.types[0] == GGUFValueType.ARRAY else None
                writer.add_key_value(key, entry.contents(), entry.types[0], sub_type)
        writer.add_quantization_version(_QUANTIZATION_VERSION)
        for key, value in about.items():
            writer.add_string(key, value)
        for name, tensor in tensors.items():
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return path.read_bytes()


def fill_header(layout: GgufLayout, file: BinaryIO) -> None:
    """Write everything that is known without values: the header, and zeros to the file's end."""
    file.write(layout.header)
    file.truncate(layout.file_bytes)


def fill_tensor(layout: GgufLayout, file: BinaryIO, name: str, values: NDArray[np.generic]) -> None:
    """Write a tensor's bytes, which are in the file's order of rows."""
    assert values.nbytes == layout.tensors[name].num_bytes, name
    file.seek(layout.offsets()[name])
    file.write(np.ascontiguousarray(values).tobytes())
