"""How long a product of a matrix with one input takes in llama.cpp's CPU kernels, type by type.

Decoding one token multiplies every matrix by one input vector and reads each once, so matrices enough to overflow the
caches are multiplied one after the other, in one graph of the library ``ggml-cpu``. The best of some runs is what the
kernel can do; the others were disturbed.

Knows nothing about devices or models.
"""

import ctypes
import time
from dataclasses import dataclass
from functools import cache

import torch

from ..solver.errors import ScantlingError
from .formats import FloatFormat, Format, IntegerFormat
from .ggml import library_path, quantize_matrix
from .gguf_types import FLOAT_TYPES, GgufFormat

_ROWS_ROUNDED = 64  # repeated down the matrix: kernels take equally long for any values, quantizers do not
_OVERHEAD_BYTES = 1 << 20
_F32 = 0


class _InitParams(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True)
class ProductSettings:
    """What is multiplied.

    Attributes:
        out_features: rows of every matrix.
        in_features: columns.
        total_bytes: of all matrices together, at least; several times the last cache.
        num_threads: of the product.
        num_runs: of which the best counts.
    """

    out_features: int = 4096
    in_features: int = 4096
    total_bytes: int = 256 << 20
    num_threads: int = 1
    num_runs: int = 5


@cache
def _library() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Load what builds graphs and what computes them."""
    base = ctypes.CDLL(str(library_path("ggml-base")), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(library_path("ggml-cpu")))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    base.ggml_init.restype = base.ggml_new_tensor_1d.restype = base.ggml_new_tensor_2d.restype = pointer
    base.ggml_mul_mat.restype = base.ggml_new_graph.restype = base.ggml_get_data.restype = pointer
    base.ggml_init.argtypes = (_InitParams,)
    base.ggml_free.argtypes = base.ggml_new_graph.argtypes = base.ggml_get_data.argtypes = (pointer,)
    base.ggml_new_tensor_1d.argtypes = (pointer, ctypes.c_int, count)
    base.ggml_new_tensor_2d.argtypes = (pointer, ctypes.c_int, count, count)
    base.ggml_mul_mat.argtypes = (pointer, pointer, pointer)
    base.ggml_build_forward_expand.argtypes = (pointer, pointer)
    cpu.ggml_graph_compute_with_ctx.argtypes = (pointer, pointer, ctypes.c_int)
    cpu.ggml_cpu_init()
    return base, cpu


def seconds_per_product(target: Format, settings: ProductSettings) -> float:
    """Measure the product of one matrix with one input.

    Args:
        target: the matrix's type, or 16 bits.
        settings: shapes and threads.

    Returns:
        Seconds.

    Raises:
        ScantlingError: an integer format, for which llama.cpp has no kernel, or a width that the type does not fit.
    """
    if isinstance(target, IntegerFormat):
        raise ScantlingError(f"llama.cpp has no kernel for {target.name}. Name a type of GGUF, such as Q4_K.")
    rows = _some_rows(target, settings.in_features)
    matrix_bytes = target.stored_bytes(settings.out_features, settings.in_features)
    num_matrices = -(-settings.total_bytes // matrix_bytes)
    type_id = int(FLOAT_TYPES[target.name]) if isinstance(target, FloatFormat) else target.type_id
    base, cpu = _library()
    needed = num_matrices * (matrix_bytes + settings.out_features * 4 + 4096) + settings.in_features * 64
    context = base.ggml_init(_InitParams(needed + 16 * _OVERHEAD_BYTES, None, False))
    if not context:
        raise ScantlingError(f"llama.cpp's library could not take {needed:,} bytes. Measure fewer or smaller matrices.")
    try:
        entering = base.ggml_new_tensor_1d(context, _F32, settings.in_features)
        values = torch.ones(settings.in_features)
        ctypes.memmove(base.ggml_get_data(entering), values.data_ptr(), values.nbytes)
        graph = base.ggml_new_graph(context)
        content = rows.repeat(-(-settings.out_features // len(rows)), 1)[: settings.out_features].contiguous()
        for _ in range(num_matrices):
            matrix = base.ggml_new_tensor_2d(context, type_id, settings.in_features, settings.out_features)
            ctypes.memmove(base.ggml_get_data(matrix), content.data_ptr(), matrix_bytes)
            base.ggml_build_forward_expand(graph, base.ggml_mul_mat(context, matrix, entering))
        best = min(_run(cpu, (context, graph), settings.num_threads) for _ in range(settings.num_runs + 1))
    finally:
        base.ggml_free(context)
    return best / num_matrices


def _run(cpu: ctypes.CDLL, what: tuple[int, int], num_threads: int) -> float:
    start = time.perf_counter()
    cpu.ggml_graph_compute_with_ctx(*what, num_threads)
    return time.perf_counter() - start


def _some_rows(target: GgufFormat | FloatFormat, in_features: int) -> torch.Tensor:
    """Make some rows of a matrix, as bytes."""
    weight = torch.randn(_ROWS_ROUNDED, in_features, generator=torch.Generator().manual_seed(0))
    if isinstance(target, FloatFormat):
        return weight.to(torch.float16 if target.name == "float16" else torch.bfloat16).view(torch.uint8)
    return quantize_matrix(weight, target, torch.ones(in_features)).blocks
