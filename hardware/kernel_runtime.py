"""llama.cpp's CPU kernels as a runtime whose token is one product with each of many matrices of a type.

The decode of a model in a type that nobody has quantized yet can so be predicted: the efficiency of each type's kernel
is measured without a model. The time of everything else in a model is missing; that overhead is fitted to the decode of
a file.

Knows nothing about clocks and watts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Final

import torch

from ..common.errors import InputError
from ..quantization.formats import Format, parse_format
from ..quantization.gguf_types import GGUF_FORMATS
from .ggml_kernels import MatrixShape, Products
from .runtimes import DEFAULT_SHARES, DecodeRun, Step

ALL: Final = "all"
DEFAULT_BYTES: Final = 256 << 20
DEFAULT_SHAPE: Final = MatrixShape(4096, 4096)


def kernel_formats(names: str) -> tuple[Format, ...]:
    """Parse the formats whose kernels are to be measured.

    Args:
        names: formats separated by commas, or ``all``.

    Returns:
        The formats.

    Raises:
        InputError: llama.cpp has no kernel for a format.
    """
    chosen = ("float16", *GGUF_FORMATS) if names == ALL else tuple(name.strip() for name in names.split(","))
    formats = tuple(parse_format(name) for name in chosen)
    for known in formats:
        if known.name not in GGUF_FORMATS and known.name not in ("float16", "bfloat16"):
            raise InputError(f"llama.cpp has no kernel for {known.name}. Name GGUF types, such as Q4_K, or: all.")
    return formats


@dataclass(frozen=True)
class KernelRuntime:
    """The kernels of some formats.

    Attributes:
        formats: GGUF types, or 16 bits.
        total_bytes: of the matrices of the largest run; several times the last-level cache.
        shape: of each matrix.
        shares: of the matrices in each run, all of them in the last.
        counted: what a run has many of.
    """

    formats: Sequence[Format]
    total_bytes: int = DEFAULT_BYTES
    shape: MatrixShape = DEFAULT_SHAPE
    shares: Sequence[float] = DEFAULT_SHARES
    counted: str = "matrices"

    @property
    def name(self) -> str:
        """Name and version."""
        return f"kernels of llama-cpp-python {metadata.version('llama-cpp-python')}, {torch.get_num_threads()} threads"

    def runs(self) -> Iterator[DecodeRun]:
        """Fill the matrices of one run after the other; yields one per format and share."""
        for target in self.formats:
            for share in self.shares:
                num_bytes = round(share * self.total_bytes)
                with Products(target, num_bytes, self.shape, torch.get_num_threads()) as products:
                    begin = partial(_product, products)
                    yield DecodeRun(target.name, products.num_matrices, share == 1, products.read_bytes, begin)


def _product(products: Products) -> Step:
    return products.compute
