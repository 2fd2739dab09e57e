"""safetensors files laid out before their tensors exist, and filled in any order.

A safetensors file is 8 bytes with the length of its header, the header (JSON with type, shape and offsets of every
tensor, padded with spaces to a multiple of 8), and the tensors without gaps. All of that follows from types and shapes:
sizes are known to the byte beforehand, disk space is reserved before the work, and each block's tensors are written as
soon as they exist.

Knows nothing about models.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .folder_format import TensorSpec

_TYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Shard:
    """One file, with its tensors by name in the order in which they lie there."""

    file_name: str
    specs: Mapping[str, TensorSpec]

    @cached_property
    def header(self) -> bytes:
        """The first bytes of the file: the length of the JSON, and the JSON."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        start = 0
        for name, spec in self.specs.items():
            stop = start + spec.num_bytes
            entries[name] = {
                "dtype": _TYPE_NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [start, stop],
            }
            start = stop
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where every tensor begins in the file, in bytes."""
        offsets, offset = {}, len(self.header)
        for name, spec in self.specs.items():
            offsets[name] = offset
            offset += spec.num_bytes
        return offsets

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(spec.num_bytes for spec in self.specs.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.tensor_bytes


def lay_out(specs: Mapping[str, TensorSpec], largest_shard_bytes: int) -> list[Shard]:
    """Divide tensors over files, in order, each as full as fits.

    Args:
        specs: the tensors.
        largest_shard_bytes: of tensors in a file; a larger tensor has a file of its own.

    Returns:
        The files, named as transformers names them.
    """
    parts: list[dict[str, TensorSpec]] = [{}]
    filled = 0
    for name, spec in specs.items():
        if parts[-1] and filled + spec.num_bytes > largest_shard_bytes:
            parts.append({})
            filled = 0
        parts[-1][name] = spec
        filled += spec.num_bytes
    total = len(parts)
    names = [f"model-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]
    if total == 1:
        names = ["model.safetensors"]
    return [Shard(file_name, _aligned(part)) for file_name, part in zip(names, parts, strict=True)]


def _aligned(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Put wide types first, so that every tensor begins at a multiple of its entries' size."""
    return dict(sorted(specs.items(), key=lambda item: -item[1].dtype.itemsize))


def index_file(shards: Sequence[Shard]) -> dict[str, str]:
    """Write the index that tells which file holds which tensor; empty for a single file."""
    if len(shards) == 1:
        return {}
    file_of = {name: shard.file_name for shard in shards for name in shard.specs}
    index = {"metadata": {"total_size": sum(shard.tensor_bytes for shard in shards)}, "weight_map": file_of}
    return {"model.safetensors.index.json": json.dumps(index, indent=2) + "\n"}


@dataclass(frozen=True)
class ShardFiles:
    """Files in a folder that are being filled."""

    folder: Path
    shards: Sequence[Shard]

    @cached_property
    def _shard_of(self) -> dict[str, Shard]:
        return {name: shard for shard in self.shards for name in shard.specs}

    def allocate(self) -> None:
        """Make the files at full size, with their headers; disk space is reserved now where the system can."""
        for shard in self.shards:
            (self.folder / shard.file_name).parent.mkdir(parents=True, exist_ok=True)
            with (self.folder / shard.file_name).open("wb") as opened:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(opened.fileno(), 0, shard.num_bytes)
                opened.write(shard.header)
                opened.truncate(shard.num_bytes)

    def are_allocated(self) -> bool:
        """Tell whether all files exist at their full size."""
        paths = [(self.folder / shard.file_name, shard.num_bytes) for shard in self.shards]
        return all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in paths)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors to their offsets, and flush them to the disk.

        Raises:
            ValueError: a type or shape is not that of the layout.
        """
        for shard, names in self._by_shard(tensors):
            with (self.folder / shard.file_name).open("r+b") as opened:
                for name in names:
                    tensor, spec = tensors[name].detach().contiguous(), shard.specs[name]
                    if (tensor.dtype, tuple(tensor.shape)) != (spec.dtype, spec.shape):
                        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, its place is for {spec}")
                    opened.seek(shard.offsets[name])
                    opened.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
                opened.flush()
                os.fsync(opened.fileno())

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors back that have been written."""
        tensors = {}
        for shard, of_shard in self._by_shard(names):
            for name in of_shard:
                spec = shard.specs[name]
                raw = np.fromfile(
                    self.folder / shard.file_name, np.uint8, count=spec.num_bytes, offset=shard.offsets[name]
                )
                tensors[name] = torch.empty(spec.shape, dtype=spec.dtype)
                tensors[name].reshape(-1).view(torch.uint8).copy_(torch.from_numpy(raw))
        return tensors

    def _by_shard(self, names: Iterable[str]) -> list[tuple[Shard, list[str]]]:
        grouped: dict[str, tuple[Shard, list[str]]] = {}
        for name in names:
            shard = self._shard_of[name]
            grouped.setdefault(shard.file_name, (shard, []))[1].append(name)
        return list(grouped.values())
