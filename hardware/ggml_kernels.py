"""Matrix-vector products in llama.cpp's CPU kernels, type by type, to be timed.

Decoding one token multiplies every matrix by one input vector and reads each once, so enough matrices to overflow the
caches are multiplied one after the other, in one graph of the library ``ggml-cpu``.

Knows nothing about clocks, machines and models.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Self

import torch

from ..common.errors import EngineError, InputError
from ..quantization.formats import FloatFormat, Format, IntegerFormat
from ..quantization.ggml import library_path, quantize_matrix
from ..quantization.gguf_types import FLOAT_TYPES, GgufFormat

_ROWS_ROUNDED = 64  # repeated down the matrix: kernels take equally long for any values, quantizers do not
_OVERHEAD_BYTES = 1 << 20  # of the graph and of what describes its tensors
_F32 = 0


class _InitParams(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@cache
def _library() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Load the library that builds graphs and the one that computes them."""
    base = ctypes.CDLL(str(library_path("ggml-base")), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(library_path("ggml-cpu")))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    base.ggml_init.restype = base.ggml_new_tensor_1d.restype = base.ggml_new_tensor_2d.restype = pointer
    base.ggml_mul_mat.restype = base.ggml_new_graph.restype = base.ggml_get_data.restype = pointer
    base.ggml_init.argtypes = (_InitParams,)
    base.ggml_free.argtypes = base.ggml_new_graph.argtypes = base.ggml_get_data.argtypes = (pointer,)
    base.ggml_reset.argtypes = (pointer,)
    base.ggml_new_tensor_1d.argtypes = (pointer, ctypes.c_int, count)
    base.ggml_new_tensor_2d.argtypes = (pointer, ctypes.c_int, count, count)
    base.ggml_mul_mat.argtypes = (pointer, pointer, pointer)
    base.ggml_build_forward_expand.argtypes = (pointer, pointer)
    cpu.ggml_graph_compute_with_ctx.argtypes = (pointer, pointer, ctypes.c_int)
    cpu.ggml_cpu_init()
    return base, cpu


def _memory(size_bytes: int) -> int:
    base, _ = _library()
    found: int | None = base.ggml_init(_InitParams(size_bytes, None, False))
    if found is None:
        raise EngineError(f"llama.cpp's library could not allocate {size_bytes:,} bytes. Close other programs.")
    return found


@dataclass(frozen=True)
class MatrixShape:
    """The shape of all matrices of a graph: rows and columns."""

    out_features: int
    in_features: int


class Products:
    """Matrices of one type, and the products of all of them with one input.

    Attributes:
        num_matrices: the number of matrices.
        read_bytes: of all of them.
    """

    def __init__(self, target: Format, total_bytes: int, shape: MatrixShape, num_threads: int) -> None:
        """Fill the matrices and build the graph.

        Args:
            target: the matrices' type, or 16 bits.
            total_bytes: of all matrices together, at least; several times the last-level cache.
            shape: of each.
            num_threads: of the products.

        Raises:
            InputError: llama.cpp has no kernel for the format.
            EngineError: there is not enough memory.
        """
        if isinstance(target, IntegerFormat):
            raise InputError(f"llama.cpp has no kernel for {target.name}. Name a GGUF type, such as Q4_K.")
        rows = _some_rows(target, shape.in_features)
        matrix_bytes = target.stored_bytes(shape.out_features, shape.in_features)
        self.num_matrices = -(-total_bytes // matrix_bytes)
        self.read_bytes = self.num_matrices * matrix_bytes
        self._num_threads = num_threads
        needed = self.num_matrices * (matrix_bytes + shape.out_features * 4 + 4096) + shape.in_features * 64
        self._context = _memory(needed + _OVERHEAD_BYTES)
        self._scratch = _memory(shape.in_features * 64 * num_threads + _OVERHEAD_BYTES)
        content = rows.repeat(-(-shape.out_features // len(rows)), 1)[: shape.out_features].contiguous()
        type_id = int(FLOAT_TYPES[target.name]) if isinstance(target, FloatFormat) else target.type_id
        self._graph = self._build(content, shape, type_id)

    def _build(self, content: torch.Tensor, shape: MatrixShape, type_id: int) -> int:
        base, _ = _library()
        entering = base.ggml_new_tensor_1d(self._context, _F32, shape.in_features)
        values = torch.ones(shape.in_features)
        ctypes.memmove(base.ggml_get_data(entering), values.data_ptr(), values.nbytes)
        graph: int = base.ggml_new_graph(self._context)
        for _ in range(self.num_matrices):
            matrix = base.ggml_new_tensor_2d(self._context, type_id, shape.in_features, shape.out_features)
            ctypes.memmove(base.ggml_get_data(matrix), content.data_ptr(), content.nbytes)
            base.ggml_build_forward_expand(graph, base.ggml_mul_mat(self._context, matrix, entering))
        return graph

    def compute(self) -> None:
        """Multiply every matrix once."""
        base, cpu = _library()
        base.ggml_reset(self._scratch)  # every call takes its working memory from it
        if cpu.ggml_graph_compute_with_ctx(self._scratch, self._graph, self._num_threads):
            raise EngineError("llama.cpp's library could not compute the products.")

    def __enter__(self) -> Self:
        """Return the products; their memory is freed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the memory."""
        base, _ = _library()
        base.ggml_free(self._context)
        base.ggml_free(self._scratch)


def _some_rows(target: GgufFormat | FloatFormat, in_features: int) -> torch.Tensor:
    """Make some rows of a matrix, as bytes."""
    weight = torch.randn(_ROWS_ROUNDED, in_features, generator=torch.Generator().manual_seed(0))
    if isinstance(target, FloatFormat):
        return weight.to(torch.float16 if target.name == "float16" else torch.bfloat16).view(torch.uint8)
    return quantize_matrix(weight, target, torch.ones(in_features)).blocks
