"""The seam of rounding methods: what a method needs, and how to call one by name.

Knows nothing about models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..common.errors import ScantlingError
from .awq import AwqSettings
from .formats import CodedFormat, FloatFormat, Format, IntegerFormat, parse_format
from .ggml import validate_type
from .gguf_rounding import Ggml, GgmlGptq, with_imatrix
from .gguf_types import GgufFormat
from .gptq import GptqSettings, gptq, without_dead_inputs
from .grid import CodedMatrix, Rounded, RoundedMatrix, cast
from .imatrix import ImportanceMatrix
from .round_to_nearest import round_to_nearest

_PROFILED = {"inputs": "original"}  # what a profile's prices are for; ``apply`` may round against others


class RoundingMethod(Protocol):
    """Rounds matrices that share their input."""

    @property
    def family(self) -> type[CodedFormat]:
        """The kind of formats that it rounds to."""
        ...

    def round_coded(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[CodedFormat]
    ) -> Sequence[Sequence[CodedMatrix]]:
        """Round every matrix in every format that is not plain floating point.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens.
            formats: the formats, all of the method's family.

        Returns:
            For each matrix, one record per format.
        """
        ...

    @property
    def input_scaling(self) -> AwqSettings | None:
        """How the inputs are scaled before anything is rounded; None for not at all."""
        ...

    @property
    def given_importance(self) -> ImportanceMatrix | None:
        """An importance matrix of the user's own; None where the calibration's inputs decide."""
        ...

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings for the record.

        Returns:
            Plain values.
        """
        ...


class _OfIntegers:
    """What methods that round to integers have in common."""

    @property
    def family(self) -> type[IntegerFormat]:
        """Integers."""
        return IntegerFormat

    @property
    def given_importance(self) -> None:
        """None: the calibration's inputs decide."""


class _AsTheyAre(_OfIntegers):
    """Those among them that leave the inputs alone."""

    @property
    def input_scaling(self) -> None:
        """The inputs stay as they are."""


@dataclass(frozen=True)
class RoundToNearest(_AsTheyAre):
    """``rtn``: round-to-nearest with a clip search; the inputs play no part."""

    def round_coded(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[CodedFormat]
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
        return [[round_to_nearest(matrix, target) for target in integers(formats)] for matrix in matrices]

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name.

        Returns:
            Plain values.
        """
        return {"method": "rtn", **_PROFILED}


@dataclass(frozen=True)
class Gptq(_AsTheyAre):
    """``gptq``: see the module gptq.

    Attributes:
        settings: damping and order.
    """

    settings: GptqSettings = field(default_factory=GptqSettings)

    def round_coded(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[CodedFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix in every integer format, in one pass.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens.
            formats: the formats.

        Returns:
            For each matrix, one record per format.
        """
        return gptq(matrices, hessian, integers(formats), self.settings)

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings.

        Returns:
            Plain values.
        """
        return {"method": "gptq", **_PROFILED, **asdict(self.settings)}


@dataclass(frozen=True)
class Awq(_OfIntegers):
    """``awq``: inputs scaled, see the module awq; then round-to-nearest, its clip search weighted by mean x².

    Attributes:
        input_scaling: the search of the scales.
    """

    input_scaling: AwqSettings = field(default_factory=AwqSettings)

    def round_coded(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[CodedFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix, its inputs scaled already, in every integer format.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens.
            formats: the formats.

        Returns:
            For each matrix, one record per format.
        """
        importance = without_dead_inputs(hessian).diagonal().float()
        return [[round_to_nearest(matrix, target, importance) for target in integers(formats)] for matrix in matrices]

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings.

        Returns:
            Plain values.
        """
        return {"method": "awq", **_PROFILED, **asdict(self.input_scaling)}


@dataclass(frozen=True)
class AwqGptq(_OfIntegers):
    """``awq+gptq``: inputs scaled, see the module awq; then GPTQ.

    Attributes:
        input_scaling: the search of the scales.
        settings: damping and order of GPTQ.
    """

    input_scaling: AwqSettings = field(default_factory=AwqSettings)
    settings: GptqSettings = field(default_factory=GptqSettings)

    def round_coded(
        self, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[CodedFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix, its inputs scaled already, in every integer format, in one pass.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens.
            formats: the formats.

        Returns:
            For each matrix, one record per format.
        """
        return gptq(matrices, hessian, integers(formats), self.settings)

    def describe(self) -> dict[str, str | float | bool]:
        """Give the method's name and settings.

        Returns:
            Plain values.
        """
        return {"method": "awq+gptq", **_PROFILED, **asdict(self.input_scaling), **asdict(self.settings)}


def rounding_method(description: Mapping[str, str | float | bool]) -> RoundingMethod:
    """Make a method from its name and settings; settings not given take their defaults.

    Args:
        description: as ``describe`` gives it, at least ``method``.

    Returns:
        The method.

    Raises:
        ScantlingError: no such method.
    """
    settings = {key: value for key, value in description.items() if key not in {"method", "inputs"}}
    match description.get("method"):
        case "rtn":
            return RoundToNearest()
        case "gptq":
            return Gptq(GptqSettings(**settings))  # type: ignore[arg-type]
        case "awq":
            return Awq(_awq_settings(settings))
        case "awq+gptq":
            of_gptq = {key: value for key, value in settings.items() if key not in AwqSettings.__dataclass_fields__}
            return AwqGptq(_awq_settings(settings), GptqSettings(**of_gptq))  # type: ignore[arg-type]
        case "ggml":
            return Ggml(**settings)  # type: ignore[arg-type]
        case "ggml+gptq":
            return GgmlGptq(GptqSettings(**settings))  # type: ignore[arg-type]
        case other:
            raise ScantlingError(
                f"{other!r} is not a rounding method. Known: awq, awq+gptq, ggml, ggml+gptq, gptq, rtn."
            )


def rounding_named(name: str | None, formats: Sequence[str] | None, imatrix: Path | None) -> RoundingMethod:
    """Make the method that a user wants.

    Args:
        name: of the method; None for ``gptq``; where types of GGUF are among the formats for ``ggml+gptq``, or ``ggml``
            with an importance matrix.
        formats: the names of the formats; None for the usual integers.
        imatrix: an importance matrix of the user's own.

    Returns:
        The method.

    Raises:
        ScantlingError: no such method or format, or an importance matrix for a method that uses none.
    """
    parsed = [parse_format(target) for target in formats or ()]
    of_gguf = "ggml+gptq" if imatrix is None else "ggml"
    usual = of_gguf if any(isinstance(target, GgufFormat) for target in parsed) else "gptq"
    method = rounding_method({"method": name or usual})
    for target in parsed:
        if isinstance(target, GgufFormat):
            validate_type(target)
    if imatrix is None:
        return method
    if not isinstance(method, Ggml):
        raise ScantlingError(
            f"--imatrix is for the rounding ggml, which weighs errors by it; this is {name or usual}. Leave one of "
            "the two out."
        )
    return with_imatrix(imatrix)


def validate_families(method: RoundingMethod, formats: Sequence[Format]) -> None:
    """Refuse formats that a method cannot round to, before any work is done.

    Args:
        method: the method.
        formats: the formats.

    Raises:
        ScantlingError: there is one.
    """
    for target in formats:
        if not isinstance(target, FloatFormat | method.family):
            name = method.describe()["method"]
            raise ScantlingError(
                f"the rounding {name!r} cannot make {target.name}: types of GGUF are rounded by ggml or ggml+gptq, "
                "integers by the others, and a profile holds one of the two kinds. Leave --rounding out, or profile "
                "the kinds apart."
            )


def integers(formats: Sequence[CodedFormat]) -> list[IntegerFormat]:
    """Pick the integer formats.

    Args:
        formats: coded formats.

    Returns:
        Those among them.
    """
    return [target for target in formats if isinstance(target, IntegerFormat)]


def _awq_settings(settings: Mapping[str, str | float | bool]) -> AwqSettings:
    """Pick AWQ's settings; a file gives whole numbers back as decimal ones."""
    return AwqSettings(**{name: int(settings[name]) for name in AwqSettings.__dataclass_fields__ if name in settings})


def round_matrices(
    method: RoundingMethod, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[Format]
) -> list[dict[Format, Rounded]]:
    """Round matrices that share their input in formats of any family.

    Args:
        method: for all formats but plain floating point.
        matrices: float32 [out_m, in] each.
        hessian: [in, in].
        formats: the formats.

    Returns:
        For each matrix, the record of every format.
    """
    validate_families(method, formats)
    coded = [target for target in formats if not isinstance(target, FloatFormat)]
    rounded: list[dict[Format, Rounded]] = [{} for _ in matrices]
    if coded:
        for of_matrix, records in zip(rounded, method.round_coded(matrices, hessian, coded), strict=True):
            of_matrix.update(zip(coded, records, strict=True))
    for of_matrix, matrix in zip(rounded, matrices, strict=True):
        of_matrix.update({target: cast(matrix, target) for target in formats if isinstance(target, FloatFormat)})
    return rounded
