"""llama.cpp's own quantizers, called in its C library.

The package ``llama_cpp`` carries the library in its folder ``lib``; ``make gguf`` puts it there. Only its part
``ggml-base`` is loaded, which computes on arrays and knows no models. A row's blocks depend on that row and on the
importance alone, so rows are split among threads and the result is the same for any number of them.

Knows nothing about models or files.
"""

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.errors import EngineError, InputError, MissingDependencyError, UnsupportedModelError
from .gguf_types import NEEDS_IMPORTANCE, GgufFormat

_INSTALL = (
    "Build it with: make gguf (in scantling's checkout), or: pip install 'scantling[gguf]', which compiles longer."
)
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
_FLOATS = ctypes.POINTER(ctypes.c_float)
_ROWS_AT_ONCE = 64
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _FLOATS, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """The start of ``struct ggml_type_traits``."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_weights", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
    )


def llama_cpp_folder() -> Path:
    """Find the folder of the package ``llama_cpp`` without running it; MissingDependencyError if there is none."""
    found = util.find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            f"GGUF types are rounded by llama.cpp's own library, which is not installed. {_INSTALL}"
        )
    return Path(found.submodule_search_locations[0])


def library_path(name: str) -> Path:
    """Find one of llama.cpp's libraries, such as ``ggml-base``; MissingDependencyError if it is not there."""
    folder = llama_cpp_folder() / "lib"
    path = folder / f"{'' if sys.platform == 'win32' else 'lib'}{name}{_SUFFIX}"
    if not path.is_file():
        raise MissingDependencyError(
            f"{folder} has no {path.name}: llama_cpp was installed without its library. {_INSTALL}"
        )
    return path


@cache
def _library() -> ctypes.CDLL:
    path = library_path("ggml-base")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise MissingDependencyError(f"cannot load {path}: {error}. {_INSTALL}") from error
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_get_type_traits.argtypes = (ctypes.c_int,)
    library.ggml_quantize_init.argtypes = (ctypes.c_int,)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    )
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    return library


@cache
def _traits(target: GgufFormat) -> _Traits:
    """Look up a type in the library; reject one that the library lacks or lays out differently."""
    found: _Traits = _library().ggml_get_type_traits(target.type_id).contents
    known = (found.type_name or b"").decode().upper()
    if known != target.name:
        raise MissingDependencyError(
            f"the installed llama.cpp library does not know the type {target.name} (number {target.type_id} is "
            f"{known or 'nothing'} there). Leave it out of --formats, or install a newer llama-cpp-python."
        )
    if (found.block_weights, found.block_bytes) != (target.block_weights, target.block_bytes):
        raise MissingDependencyError(
            f"the installed llama.cpp library has {found.block_bytes} bytes for {found.block_weights} weights of "
            f"{target.name}, the package gguf has {target.block_bytes} for {target.block_weights}. Update both."
        )
    return found


def validate_type(target: GgufFormat) -> None:
    """Refuse a type that the installed library lacks, before any work is done."""
    _traits(target)


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix in a block type: its bytes as a file holds them.

    Attributes:
        format: its type.
        blocks: uint8 [out, bytes of a row].
        importance: float32 [in], what it was rounded with; None if read from a file or rounded without.
    """

    format: GgufFormat
    blocks: Tensor
    importance: Tensor | None = None

    @property
    def in_features(self) -> int:
        """Columns of the matrix."""
        return self.blocks.shape[1] // self.format.block_bytes * self.format.block_weights

    def dequantize(self) -> Tensor:
        """Compute the values float32 [out, in] as the library reads the blocks."""
        values = torch.empty(self.blocks.shape[0], self.in_features)
        blocks = self.blocks.contiguous()
        to_float = _traits(self.format).to_float
        to_float(blocks.data_ptr(), ctypes.cast(values.data_ptr(), _FLOATS), values.numel())
        return values


def quantize_matrix(weight: Tensor, target: GgufFormat, importance: Tensor | None) -> PackedMatrix:
    """Round a matrix as llama-quantize does.

    Args:
        weight: float32 [out, in].
        target: the type.
        importance: float32 [in], the mean square of each input, with which the library weights squared errors; None for
            the library's own weights.

    Returns:
        The blocks.

    Raises:
        InputError: the type needs an importance and has none, or does not fit the width.
        UnsupportedModelError: a weight is not finite.
        EngineError: the library calls the blocks it made invalid.
        MissingDependencyError: the library is not installed or does not know the type.
    """
    out_features, in_features = weight.shape
    row_bytes = target.row_bytes(in_features)
    _require_roundable(weight, target, importance)
    library = _library()
    weight = weight.float().contiguous()
    if importance is not None:
        importance = importance.float().contiguous()
        assert importance.shape == (in_features,)
    blocks = torch.empty(out_features, row_bytes, dtype=torch.uint8)
    library.ggml_quantize_init(target.type_id)

    def round_rows(start: int) -> None:
        rows = min(_ROWS_AT_ONCE, out_features - start)
        source, destination = weight[start:].data_ptr(), blocks[start:].data_ptr()
        weights = None if importance is None else importance.data_ptr()
        library.ggml_quantize_chunk(target.type_id, source, destination, 0, rows, in_features, weights)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(round_rows, range(0, out_features, _ROWS_AT_ONCE)))
    record = PackedMatrix(target, blocks, importance)
    validate_blocks(record)
    return record


def _require_roundable(weight: Tensor, target: GgufFormat, importance: Tensor | None) -> None:
    _traits(target)
    if importance is None and target.name in NEEDS_IMPORTANCE:
        raise InputError(f"{target.name} is rounded only with an importance matrix. Choose another type.")
    if not bool(torch.isfinite(weight).all()):
        raise UnsupportedModelError(
            "the matrix has weights that are NaN or infinite. Download or convert the checkpoint again."
        )


def validate_blocks(record: PackedMatrix) -> None:
    """Refuse blocks that the library would not load."""
    blocks = record.blocks.contiguous()
    if not _library().ggml_validate_row_data(record.format.type_id, blocks.data_ptr(), blocks.numel()):
        raise EngineError(
            f"llama.cpp's library rejects the {record.format.name} blocks made here as invalid. Choose another type."
        )


def dequantize_blocks(blocks: np.ndarray, target: GgufFormat) -> Tensor:
    """Dequantize the blocks of a file, uint8 [rows, bytes of a row], to float32 [rows, weights of a row]."""
    return PackedMatrix(target, torch.from_numpy(np.ascontiguousarray(blocks))).dequantize()
