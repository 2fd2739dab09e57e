"""The seam of rounding methods: what a method needs, and how to call one by name.

Knows nothing about models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from torch import Tensor

from ..solver.errors import ScantlingError
from .formats import FloatFormat, Format, IntegerFormat
from .gptq import GptqSettings, gptq
from .grid import Rounded, RoundedMatrix, cast
from .round_to_nearest import round_to_nearest


class RoundingMethod(Protocol):
    """Rounds matrices that share their input."""

    def round_integers(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[IntegerFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix in every integer format.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens.
            formats: the formats.

        Returns:
            For each matrix, one record per format.
        """
        ...

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings for the record.

        Returns:
            Plain values.
        """
        ...


@dataclass(frozen=True)
class RoundToNearest:
    """``rtn``: round-to-nearest with a clip search; the inputs play no part."""

    def round_integers(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[IntegerFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix in every integer format.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: not used.
            formats: the formats.

        Returns:
            For each matrix, one record per format.
        """
        del hessian
        return [[round_to_nearest(matrix, target) for target in formats] for matrix in matrices]

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name.

        Returns:
            Plain values.
        """
        return {"method": "rtn"}


@dataclass(frozen=True)
class Gptq:
    """``gptq``: see the module gptq.

    Attributes:
        settings: damping and order.
    """

    settings: GptqSettings = field(default_factory=GptqSettings)

    def round_integers(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[IntegerFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix in every integer format, in one pass.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens.
            formats: the formats.

        Returns:
            For each matrix, one record per format.
        """
        return gptq(matrices, hessian, formats, self.settings)

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings.

        Returns:
            Plain values.
        """
        return {"method": "gptq", **asdict(self.settings)}


def rounding_method(description: Mapping[str, str | float | bool]) -> RoundingMethod:
    """Make a method from its name and settings; settings not given take their defaults.

    Args:
        description: as ``describe`` gives it, at least ``method``.

    Returns:
        The method.

    Raises:
        ScantlingError: no such method.
    """
    settings = {key: value for key, value in description.items() if key != "method"}
    match description.get("method"):
        case "rtn":
            return RoundToNearest()
        case "gptq":
            return Gptq(GptqSettings(**settings))  # type: ignore[arg-type]
        case other:
            raise ScantlingError(f"{other!r} is not a rounding method. Known: gptq, rtn.")


def round_matrices(
    method: RoundingMethod, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[Format]
) -> list[dict[Format, Rounded]]:
    """Round matrices that share their input in formats of any family.

    Args:
        method: for the integer formats.
        matrices: float32 [out_m, in] each.
        hessian: [in, in].
        formats: the formats.

    Returns:
        For each matrix, the record of every format.
    """
    integers = [target for target in formats if isinstance(target, IntegerFormat)]
    rounded: list[dict[Format, Rounded]] = [{} for _ in matrices]
    if integers:
        for of_matrix, records in zip(rounded, method.round_integers(matrices, hessian, integers), strict=True):
            of_matrix.update(zip(integers, records, strict=True))
    for of_matrix, matrix in zip(rounded, matrices, strict=True):
        of_matrix.update({target: cast(matrix, target) for target in formats if isinstance(target, FloatFormat)})
    return rounded
