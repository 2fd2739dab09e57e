"""llama.cpp's importance matrices: E[x_i²] of every input of every weight tensor, by the tensor's name in GGUF.

Two file formats are read: the newer one, a GGUF file with two tensors per weight, ``NAME.in_sum2`` (Σ x_i² over tokens)
and ``NAME.counts`` (the number of tokens), and the older ``.dat``. The newer one is written. The tools divide sums by
counts in float32; a count that is a power of two makes that exact, so the power nearest to the true number of tokens is
written, and what llama-quantize computes from the file is, bit for bit, what was used here.

Knows nothing about models.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from torch import Tensor

from ..common.errors import FileFormatError, InputError
from ..common.files import whole_file

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _CHUNKS, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_MAGIC = b"GGUF"


@dataclass(frozen=True)
class ImportanceMatrix:
    """An importance matrix.

    Attributes:
        source: the file it was read from.
        means: float32 by name, [in], or [experts, in] for tensors with one matrix per expert.
        datasets: the text it was collected on, as the file says.
    """

    source: str
    means: dict[str, Tensor]
    datasets: tuple[str, ...] = ()

    def of(self, tensor: str, in_features: int) -> Tensor | None:
        """Look up the means of a tensor.

        Args:
            tensor: its name in GGUF.
            in_features: its input width.

        Returns:
            float32 [in]; None if the matrix does not name the tensor.

        Raises:
            InputError: the width differs: the matrix belongs to another model.
        """
        found = self.means.get(tensor)
        if found is not None and found.shape != (in_features,):
            raise InputError(
                f"{self.source} is an importance matrix of another model: it has {tuple(found.shape)} values for "
                f"{tensor}, this model's input width there is {in_features}. Collect one for this model, or leave "
                "out --imatrix."
            )
        return found


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read an importance matrix in either format.

    Args:
        path: the file.

    Returns:
        The matrix.

    Raises:
        FileFormatError: there is no such file, it is not an importance matrix, or it is damaged.
    """
    if not path.is_file():
        raise FileFormatError(f"there is no importance matrix {path}. Check the path given to --imatrix.")
    with path.open("rb") as opened:
        newer = opened.read(4) == _MAGIC
    try:
        means, datasets = _read_gguf(path) if newer else _read_dat(path.read_bytes())
    except (ValueError, KeyError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not an importance matrix of llama.cpp, or is damaged: {error}") from error
    for name, values in means.items():
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise FileFormatError(f"{path} is damaged: the mean squares of {name} must be finite and at least 0.")
    return ImportanceMatrix(str(path), means, datasets)


def _read_gguf(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    reader = GGUFReader(path)
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    if not names:
        raise ValueError(f"a GGUF file without tensors *{_SUMS}")
    means = {}
    for name in names:
        sums, counts = tensors[name + _SUMS], tensors[name + _COUNTS].reshape(-1)
        sums = sums.reshape(len(counts), -1)
        divided = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.float32(1.0))
        means[name] = torch.from_numpy(divided.astype(np.float32)[0] if len(counts) == 1 else divided)
    field = reader.fields.get(_DATASETS)
    return means, tuple(map(str, field.contents())) if field is not None else ()


def _read_dat(raw: bytes) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the older format: a count of entries; for each its name, a number of calls, and means times that number."""
    position = 0

    def integer() -> int:
        nonlocal position
        (value,) = struct.unpack_from("<i", raw, position)
        position += 4
        return int(value)

    def text(length: int) -> str:
        nonlocal position
        if not 0 <= length <= len(raw) - position:
            raise ValueError("a name extends beyond the end of the file")
        position += length
        return raw[position - length : position].decode()

    num_entries = integer()
    if not 0 < num_entries < 1 << 20:
        raise ValueError(f"{num_entries} entries")
    means = {}
    for _ in range(num_entries):
        name = text(integer())
        calls, num_values = integer(), integer()
        values = np.frombuffer(raw, dtype="<f4", count=num_values, offset=position)
        position += 4 * num_values
        means[name] = torch.from_numpy(values / np.float32(calls) if calls > 0 else values.copy())
    if position + 8 > len(raw):
        return means, ()
    integer()
    return means, (text(integer()),)


def write_imatrix(path: Path, means: Mapping[str, Tensor], num_tokens: int, tokens_in_chunk: int, dataset: str) -> None:
    """Write an importance matrix in the newer format.

    Args:
        path: the file, replaced if it exists.
        means: float32 [in] by the tensor's name in GGUF.
        num_tokens: tokens averaged over.
        tokens_in_chunk: the length of the sequences.
        dataset: the text they came from.
    """
    count = 2 ** round(math.log2(num_tokens))
    with whole_file(path) as partial:
        writer = GGUFWriter(partial, "imatrix")
        writer.add_type("imatrix")
        writer.add_array(_DATASETS, [dataset])
        writer.add_uint32(_CHUNKS, max(1, num_tokens // tokens_in_chunk))
        writer.add_uint32(_CHUNK_SIZE, tokens_in_chunk)
        for name, values in sorted(means.items()):
            writer.add_tensor(name + _SUMS, (values.float() * count).reshape(1, -1).numpy())
            writer.add_tensor(name + _COUNTS, np.array([[count]], dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
