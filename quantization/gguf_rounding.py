"""The rounding methods for types of GGUF.

``ggml``: llama.cpp's quantizers, weighted by an importance matrix, bit for bit what llama-quantize writes.
``ggml+gptq``: the scales of those quantizers, and codes that make up for each other's errors (module gguf_gptq).

The importance of input i is the mean of its square, E[x_i²], over the calibration tokens: the diagonal of the mean of
x xᵀ that GPTQ uses too, from the same pass. llama.cpp's own tool collects the same means. A file of them that the user
has may take their place; then the method carries its path and its hash.

Knows nothing about models.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ..common.errors import ScantlingError
from ..common.files import file_sha256
from .formats import CodedFormat
from .ggml import PackedMatrix, quantize_matrix
from .gguf_gptq import gptq_blocks
from .gguf_types import GgufFormat
from .gptq import GptqSettings
from .imatrix import ImportanceMatrix, read_imatrix


class _OfGguf:
    """What both have in common."""

    @property
    def family(self) -> type[GgufFormat]:
        """Types of GGUF."""
        return GgufFormat

    @property
    def input_scaling(self) -> None:
        """The inputs stay as they are."""


@dataclass(frozen=True)
class Ggml(_OfGguf):
    """``ggml``: see the module.

    Attributes:
        imatrix: path of an importance matrix; empty for the calibration's own.
        imatrix_sha256: of that file.
    """

    imatrix: str = ""
    imatrix_sha256: str = ""

    @cached_property
    def given_importance(self) -> ImportanceMatrix | None:
        """The user's importance matrix, read and held against its hash; None where there is none."""
        if not self.imatrix:
            return None
        path = Path(self.imatrix)
        given = read_imatrix(path)
        if file_sha256(path) != self.imatrix_sha256:
            raise ScantlingError(
                f"the importance matrix {path} is not the one that the profile was made with. Put that one back, or "
                "profile again with --imatrix."
            )
        return given

    def round_coded(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[CodedFormat]
    ) -> list[list[PackedMatrix]]:
        """Round every matrix in every type.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens; only its diagonal is used.
            formats: the types.

        Returns:
            For each matrix, one record per type.
        """
        importance = hessian.diagonal().float().contiguous()
        return [[quantize_matrix(matrix, target, importance) for target in _types(formats)] for matrix in matrices]

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings.

        Returns:
            Plain values.
        """
        given = {"imatrix": self.imatrix, "imatrix_sha256": self.imatrix_sha256} if self.imatrix else {}
        return {"method": "ggml", "inputs": "original", **given}


@dataclass(frozen=True)
class GgmlGptq(_OfGguf):
    """``ggml+gptq``: see the module gguf_gptq.

    Attributes:
        settings: damping and order.
    """

    settings: GptqSettings = field(default_factory=GptqSettings)

    @property
    def given_importance(self) -> None:
        """None: the calibration's inputs decide."""

    def round_coded(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[CodedFormat]
    ) -> list[list[PackedMatrix]]:
        """Round every matrix in every type.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens.
            formats: the types.

        Returns:
            For each matrix, one record per type.
        """
        return gptq_blocks(matrices, hessian, _types(formats), self.settings)

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings.

        Returns:
            Plain values.
        """
        return {"method": "ggml+gptq", "inputs": "original", **asdict(self.settings)}


def _types(formats: Sequence[CodedFormat]) -> list[GgufFormat]:
    return [target for target in formats if isinstance(target, GgufFormat)]


def with_imatrix(path: Path) -> Ggml:
    """Make the method that uses an importance matrix of the user's own.

    Args:
        path: the file.

    Returns:
        The method.
    """
    read_imatrix(path)
    return Ggml(str(path.absolute()), file_sha256(path))
