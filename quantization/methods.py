"""Rounding methods: a scaling of the inputs (none, or AWQ's) and a coder that turns matrices into codes.

Integer formats have two coders, round-to-nearest and GPTQ; the block types of GGUF have the two of the module
gguf_rounding. Whatever depends on the combination is derived from the two parts: the name, the settings that a profile
records, the formats, and whether the inputs' second moments are needed. ``awq`` is AWQ's scaling before
round-to-nearest, ``awq+gptq`` the same scaling before GPTQ.

Knows nothing about models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from ..common.errors import InputError
from .awq import AwqSettings
from .formats import CodedFormat, FloatFormat, Format, IntegerFormat, parse_format
from .ggml import validate_type
from .gguf_rounding import Ggml, GgmlGptq
from .gguf_types import GgufFormat
from .gptq import GptqSettings, gptq, without_dead_inputs
from .grid import CodedMatrix, Rounded, RoundedMatrix, cast
from .imatrix import ImportanceMatrix
from .round_to_nearest import round_to_nearest

_PROFILED = {"inputs": "original"}  # what a profile's costs are for; ``apply`` may round against other inputs
_NO_SETTINGS = {"method", *_PROFILED}

Settings = TypeVar("Settings", bound="Coder | AwqSettings")


class Coder(Protocol):
    """Chooses the codes of matrices that share their input; a frozen dataclass whose fields are its settings.

    Attributes:
        name: without that of a scaling.
        family: the kind of formats that it rounds to.
        needs_hessian: whether it looks at the inputs at all.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    family: ClassVar[type[CodedFormat]]
    needs_hessian: ClassVar[bool]

    def round(
        self, matrices: Sequence[Tensor], hessian: Tensor | None, formats: Sequence[Any]
    ) -> Sequence[Sequence[CodedMatrix]]:
        """Round every matrix to every format.

        Args:
            matrices: float32 [out_m, in] each.
            hessian: [in, in], mean of x xᵀ over calibration tokens; None where the method does not need it.
            formats: all of the coder's family.

        Returns:
            For each matrix, one record per format.
        """
        ...


@dataclass(frozen=True)
class RoundToNearest:
    """Round-to-nearest with a clip search, its errors weighted by mean x² where the Hessian is given."""

    name: ClassVar[str] = "rtn"
    family: ClassVar[type[CodedFormat]] = IntegerFormat
    needs_hessian: ClassVar[bool] = False

    def round(
        self, matrices: Sequence[Tensor], hessian: Tensor | None, formats: Sequence[IntegerFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix to every format, see ``Coder.round``."""
        importance = None if hessian is None else without_dead_inputs(hessian).diagonal().float()
        return [[round_to_nearest(matrix, target, importance) for target in formats] for matrix in matrices]


@dataclass(frozen=True)
class Gptq(GptqSettings):
    """GPTQ, see the module gptq."""

    name: ClassVar[str] = "gptq"
    family: ClassVar[type[CodedFormat]] = IntegerFormat
    needs_hessian: ClassVar[bool] = True

    def round(
        self, matrices: Sequence[Tensor], hessian: Tensor | None, formats: Sequence[IntegerFormat]
    ) -> list[list[RoundedMatrix]]:
        """Round every matrix to every format in one pass, see ``Coder.round``."""
        assert hessian is not None
        return gptq(matrices, hessian, formats, self)


@dataclass(frozen=True)
class RoundingMethod:
    """How matrices that share their input are rounded.

    Attributes:
        coder: chooses the codes.
        input_scaling: AWQ's search for the scales of the inputs, which comes first; None to leave inputs alone.
    """

    coder: Coder = field(default_factory=Gptq)
    input_scaling: AwqSettings | None = None

    def __post_init__(self) -> None:
        """AWQ searches its scales with integer grids."""
        if self.input_scaling is not None and self.family is not IntegerFormat:
            raise InputError(f"AWQ scales inputs for integer formats only, not for {self.coder.name}.")

    @property
    def name(self) -> str:
        """Such as ``gptq`` or ``awq+gptq``."""
        if self.input_scaling is None:
            return self.coder.name
        return "awq" if isinstance(self.coder, RoundToNearest) else f"awq+{self.coder.name}"

    @property
    def family(self) -> type[CodedFormat]:
        """The kind of formats that it rounds to."""
        return self.coder.family

    @property
    def needs_hessian(self) -> bool:
        """Whether the codes depend on the inputs."""
        return self.input_scaling is not None or self.coder.needs_hessian

    @property
    def given_importance(self) -> ImportanceMatrix | None:
        """The user's own importance matrix; None where the calibration's inputs decide."""
        return self.coder.given_importance if isinstance(self.coder, Ggml) else None

    @property
    def settings(self) -> dict[str, Any]:
        """Those of both parts; what is None is left out."""
        parts: list[Coder | AwqSettings] = (
            [self.coder] if self.input_scaling is None else [self.input_scaling, self.coder]
        )
        return {name: value for part in parts for name, value in asdict(part).items() if value is not None}

    def describe(self) -> dict[str, str | float | bool]:
        """Give the name and settings that a profile records; ``rounding_method`` reads them back."""
        return {"method": self.name, **_PROFILED, **self.settings}

    def with_settings(self, settings: Mapping[str, str | float | bool]) -> "RoundingMethod":
        """Replace settings of either part; an unknown one raises InputError."""
        scaling = self.input_scaling
        known = {*self.coder.__dataclass_fields__, *(() if scaling is None else scaling.__dataclass_fields__)}
        if unknown := settings.keys() - known:
            raise InputError(
                f"the rounding {self.name!r} has no setting {min(unknown)!r}. It has: "
                f"{', '.join(sorted(known)) or 'none'}."
            )
        return RoundingMethod(
            _replaced(self.coder, settings), None if scaling is None else _replaced(scaling, settings)
        )


def _replaced(part: Settings, settings: Mapping[str, str | float | bool]) -> Settings:
    """Replace a part's own settings; where it holds an integer, 10.0 from a file becomes 10 again."""
    values = {name: value for name, value in settings.items() if name in part.__dataclass_fields__}
    return replace(
        part, **{name: int(value) if type(getattr(part, name)) is int else value for name, value in values.items()}
    )


_METHODS = {
    method.name: method
    for method in (
        RoundingMethod(RoundToNearest()),
        RoundingMethod(Gptq()),
        RoundingMethod(RoundToNearest(), AwqSettings()),
        RoundingMethod(Gptq(), AwqSettings()),
        RoundingMethod(Ggml()),
        RoundingMethod(GgmlGptq()),
    )
}


def rounding_method(description: Mapping[str, str | float | bool]) -> RoundingMethod:
    """Make a method from its name and settings; settings not given take their defaults.

    Args:
        description: as ``RoundingMethod.describe`` gives it; ``method`` is required.

    Returns:
        The method.

    Raises:
        InputError: no such method, or no such setting.

    >>> rounding_method({"method": "awq", "num_steps": 5}).describe()
    {'method': 'awq', 'inputs': 'original', 'num_steps': 5, 'widest_bits': 4}
    """
    name = description.get("method")
    if name not in _METHODS:
        raise InputError(f"{name!r} is not a rounding method. Known: {', '.join(sorted(_METHODS))}.")
    settings = {key: value for key, value in description.items() if key not in _NO_SETTINGS}
    return _METHODS[str(name)].with_settings(settings)


def rounding_named(name: str | None, formats: Sequence[str] | None, imatrix: Path | None) -> RoundingMethod:
    """Make the method that the command line names.

    Args:
        name: of the method; None for ``gptq``, or with GGUF types among the formats for ``ggml+gptq``, or for ``ggml``
            with an importance matrix.
        formats: names of the formats; None for the default integers.
        imatrix: the user's own importance matrix.

    Returns:
        The method.

    Raises:
        InputError: no such method or format, or an importance matrix for a method that does not use one.
        FileFormatError: the importance matrix cannot be read.
        MissingDependencyError: llama.cpp's library is not installed, or does not know a type.
    """
    parsed = [parse_format(target) for target in formats or ()]
    gguf_types = [target for target in parsed if isinstance(target, GgufFormat)]
    gguf_default = "ggml+gptq" if imatrix is None else "ggml"
    method = rounding_method({"method": name or (gguf_default if gguf_types else "gptq")})
    for target in gguf_types:
        validate_type(target)
    if imatrix is None:
        return method
    if not isinstance(method.coder, Ggml):
        raise InputError(
            "--imatrix is for the rounding ggml, which weights errors by it; the rounding here is "
            f"{method.name}. Leave out one of the two."
        )
    return RoundingMethod(Ggml.with_imatrix(imatrix))


def validate_families(method: RoundingMethod, formats: Sequence[Format]) -> None:
    """Refuse formats that a method cannot round to, before any work is done.

    Raises:
        InputError: there is one.
    """
    for target in formats:
        if not isinstance(target, FloatFormat | method.family):
            raise InputError(
                f"the rounding {method.name!r} cannot make {target.name}: GGUF types are rounded by ggml or ggml+gptq, "
                "integer formats by the other methods, and a profile holds one of the two kinds. Leave out --rounding, "
                "or make a profile for each kind."
            )


def round_matrices(
    method: RoundingMethod, matrices: Sequence[Tensor], hessian: Tensor, formats: Sequence[Format]
) -> list[dict[Format, Rounded]]:
    """Round matrices that share their input, already scaled, to formats of any kind.

    Args:
        method: for all formats but 16-bit floating point.
        matrices: float32 [out_m, in] each.
        hessian: [in, in], mean of x xᵀ over calibration tokens.
        formats: the formats.

    Returns:
        For each matrix, the record of every format.

    Raises:
        InputError: a format that the method does not make, or whose groups or blocks do not divide the width.
        CalibrationError: the Hessian is not finite, or not positive definite.
        UnsupportedModelError: weights that are not finite, or beyond float16.
        EngineError: llama.cpp's library rejects the blocks that were made.
    """
    validate_families(method, formats)
    coded = [target for target in formats if not isinstance(target, FloatFormat)]
    rounded: list[dict[Format, Rounded]] = [{} for _ in matrices]
    if coded:
        by_matrix = method.coder.round(matrices, hessian if method.needs_hessian else None, coded)
        for by_format, records in zip(rounded, by_matrix, strict=True):
            by_format.update(zip(coded, records, strict=True))
    for by_format, matrix in zip(rounded, matrices, strict=True):
        by_format.update({target: cast(matrix, target) for target in formats if isinstance(target, FloatFormat)})
    return rounded
