"""A model's weights in a file instead of in memory: mapped, so that only the pages in use take memory.

The file is a scratch file without a name: it vanishes when the process ends, however that ends. Its disk space is
reserved before the first weight is written. Weights are float32 and may be changed in place; every block releases its
pages when it has run.

Knows nothing about what the weights are for.
"""

import mmap
import os
import tempfile
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.errors import StorageError
from ..common.units import render_bytes

_FLOAT32_BYTES = 4


class ScratchWeights:
    """The weights of one model in a scratch file."""

    def __init__(self, num_bytes: int, folder: Path) -> None:
        """Reserve disk space.

        Args:
            num_bytes: for all weights.
            folder: on the disk to use.

        Raises:
            StorageError: the disk is full, or the folder not writable.
        """
        with tempfile.TemporaryFile(dir=folder) as opened:
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(opened.fileno(), 0, num_bytes)
                opened.truncate(num_bytes)
            except OSError as error:
                raise StorageError(
                    f"cannot put the model's weights into a scratch file in {folder}: {error.strerror or error}. It "
                    f"takes {render_bytes(num_bytes)} while the checkpoint is written. Free some space, or keep the "
                    "weights in memory with --in-memory."
                ) from error
            self._map = mmap.mmap(opened.fileno(), num_bytes)
        self._filled = 0
        self._places: list[tuple[nn.Parameter, Tensor]] = []

    def store(self, tensor: Tensor) -> Tensor:
        """Copy a tensor into the file; the result is float32 and backed by it."""
        place = torch.frombuffer(self._map, dtype=torch.float32, count=tensor.numel(), offset=self._filled)
        self._filled += padded_bytes(tensor)
        return place.view(tensor.shape).copy_(tensor)

    def record_places(self, model: nn.Module) -> None:
        """Note where every parameter of a model lies; all must be backed by the file."""
        self._places = [(parameter, parameter.data) for parameter in model.parameters()]

    def store_replaced(self) -> None:
        """Move parameters that were replaced by other tensors since into their places, overwriting them."""
        for parameter, place in self._places:
            if parameter.data_ptr() != place.data_ptr():
                place.copy_(parameter.data)
                parameter.data = place
        self.release_pages()

    def release_pages(self) -> None:
        """Tell the system that no page is needed in memory now; their contents stay in the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def padded_bytes(tensor: Tensor) -> int:
    """Count the bytes that a tensor takes in the file: whole pages, so that tensors share none."""
    num_bytes = prod(tensor.shape) * _FLOAT32_BYTES
    return -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def offload_weights(model: nn.Module, folder: Path) -> ScratchWeights:
    """Move all parameters of a model into a scratch file, one at a time.

    Args:
        model: parameters of floating point, without gradients; changed to float32.
        folder: where the file lies.

    Returns:
        The file; it lives as long as the parameters do.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.numel()]
    scratch = ScratchWeights(sum(map(padded_bytes, parameters)), folder)
    for parameter in parameters:
        parameter.data = scratch.store(parameter.data)
        scratch.release_pages()
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.register_forward_hook(lambda *_: scratch.release_pages())
    return scratch
