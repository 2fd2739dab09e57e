"""The coders of GGUF types.

``ggml``: llama.cpp's quantizers, weighted by an importance matrix, bit for bit what llama-quantize writes.
``ggml+gptq``: the scales of those quantizers, with codes chosen by GPTQ (module gguf_gptq).

The importance of input i is its mean square E[x_i²] over the calibration tokens: the diagonal of the Hessian that GPTQ
uses, from the same pass. llama.cpp's own tool collects the same means. A file of them may take their place; the coder
then records its path and its hash.

Knows nothing about models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor

from ..common.errors import FileFormatError
from ..common.files import file_sha256
from .formats import CodedFormat
from .ggml import PackedMatrix, quantize_matrix
from .gguf_gptq import gptq_blocks
from .gguf_types import GgufFormat
from .gptq import GptqSettings
from .imatrix import ImportanceMatrix, read_imatrix


@dataclass(frozen=True)
class Ggml:
    """llama.cpp's quantizers.

    Attributes:
        imatrix: path of an importance matrix; None for the calibration's own.
        imatrix_sha256: of that file.
    """

    name: ClassVar[str] = "ggml"
    family: ClassVar[type[CodedFormat]] = GgufFormat
    needs_hessian: ClassVar[bool] = True

    imatrix: str | None = None
    imatrix_sha256: str | None = None

    @classmethod
    def with_imatrix(cls, path: Path) -> Self:
        """Weight errors by the user's own importance matrix, which is read to see that it can be."""
        read_imatrix(path)
        return cls(str(path.absolute()), file_sha256(path))

    @cached_property
    def given_importance(self) -> ImportanceMatrix | None:
        """The user's importance matrix, checked against its hash; None where there is none."""
        if self.imatrix is None:
            return None
        path = Path(self.imatrix)
        given = read_imatrix(path)
        if file_sha256(path) != self.imatrix_sha256:
            raise FileFormatError(
                f"the importance matrix {path} is not the one that the profile was made with. Restore that file, or "
                "profile again with --imatrix."
            )
        return given

    def round(
        self, matrices: Sequence[Tensor], hessian: Tensor | None, formats: Sequence[GgufFormat]
    ) -> list[list[PackedMatrix]]:
        """Round every matrix to every type, see ``Coder.round``; only the Hessian's diagonal is used."""
        assert hessian is not None
        importance = hessian.diagonal().float().contiguous()
        return [[quantize_matrix(matrix, target, importance) for target in formats] for matrix in matrices]


@dataclass(frozen=True)
class GgmlGptq(GptqSettings):
    """GPTQ on the scales of llama.cpp's quantizers, see the module gguf_gptq."""

    name: ClassVar[str] = "ggml+gptq"
    family: ClassVar[type[CodedFormat]] = GgufFormat
    needs_hessian: ClassVar[bool] = True

    def round(
        self, matrices: Sequence[Tensor], hessian: Tensor | None, formats: Sequence[GgufFormat]
    ) -> list[list[PackedMatrix]]:
        """Round every matrix to every type, see ``Coder.round``."""
        assert hessian is not None
        return gptq_blocks(matrices, hessian, formats, self)
