"""Hardware: memory, bandwidth, and the laws of decode speed and power.

With b bytes read per token, in formats of efficiency η, bandwidth B, and r tokens per second,

    t    = Σ b(f) / (η(f) · B) + t0      seconds per token, batch 1
    P(r) = P0 + c · b · r / B            watts

Every number says where it comes from. Nothing is filled in: a limit that needs a missing number is an error.

Knows nothing about models.
"""

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema

from ..common.errors import FileFormatError, InputError, MissingFigureError
from ..common.files import whole_file
from ..common.patterns import Pattern, compiled
from ..common.records import Record
from ..common.units import BYTES, BYTES_PER_SECOND, OPERATIONS_PER_SECOND, SECONDS, WATTS, exact_number, parse_quantity
from ..common.validation import Quantity, check, describe, refusal, validated
from ..common.yaml_source import SourceValue, parse_yaml, read_yaml

FIGURES: Final = (
    "memory", "bandwidth", "overhead", "base_power", "traffic_power", "power_limit", "compute", "compute_power",
)  # fmt: skip


class SourcedNumber(Record):
    """A number and where it comes from; a bare quantity stands for ``{value: …, origin: stated}``.

    Attributes:
        value: with its unit.
        origin: measured (also fitted to measurements of this machine, if more points than parameters test the fit),
            taken from a datasheet, estimated (also fitted to published results), or just stated by the user.
        source: where to look it up.
    """

    value: Quantity
    origin: Literal["measured", "datasheet", "estimate", "stated"] = "stated"
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_quantity(cls, value: object) -> object:
        return {"value": value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say in the JSON Schema that a quantity alone stands for a figure.

        Args:
            core_schema: of the record.
            handler: makes the record's own schema.

        Returns:
            Either of both.
        """
        record = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": ["string", "number"]}, record]}

    @model_validator(mode="after")
    def _with_its_source(self) -> "SourcedNumber":
        if self.origin != "stated" and not self.source:
            raise refusal(f"a number of origin {self.origin!r} needs its source. Add source: …")
        return self


def _of(measure: str) -> AfterValidator:
    def checked(figure: SourcedNumber) -> SourcedNumber:
        check(parse_quantity, figure.value, measure)
        return figure

    return AfterValidator(checked)


def _share(figure: SourcedNumber) -> SourcedNumber:
    check(exact_number, figure.value)
    if not 0 < exact_number(figure.value) <= 2:
        raise refusal(f"an efficiency of {figure.value} is not a share of the bandwidth. Write for instance 0.87.")
    return figure


def _pattern(text: str) -> str:
    check(Pattern, text)
    return text


def _one_for_all(value: object) -> object:
    if isinstance(value, str | int | float | dict) and not isinstance(value, bool):
        return ({"formats": "*", "share": value},)
    return tuple(value) if isinstance(value, list) else value


class FormatEfficiency(Record):
    """The share of the bandwidth that reading some formats reaches.

    Attributes:
        formats: a pattern of their names; the first entry that matches counts.
        share: η.
    """

    formats: Annotated[str, AfterValidator(_pattern)]
    share: Annotated[SourcedNumber, AfterValidator(_share)]


class Hardware(Record):
    """One machine.

    Attributes:
        name: its name in messages.
        note: what a user should know.
        memory: bytes.
        bandwidth: bytes per second.
        efficiency: η by format; a number alone is for all formats.
        overhead: t0, seconds per token.
        base_power: P0, watts at no traffic.
        traffic_power: c, watts more at full bandwidth.
        power_limit: watts that it never exceeds.
        compute: operations per second that it reaches on a prompt; a multiplication and an addition count as two.
        compute_power: watts more at that.
    """

    name: str
    note: str = ""
    memory: Annotated[SourcedNumber, _of(BYTES)] | None = None
    bandwidth: Annotated[SourcedNumber, _of(BYTES_PER_SECOND)] | None = None
    efficiency: Annotated[
        tuple[FormatEfficiency, ...],
        BeforeValidator(_one_for_all, json_schema_input_type=tuple[FormatEfficiency, ...] | SourcedNumber),
    ] = ()
    overhead: Annotated[SourcedNumber, _of(SECONDS)] | None = None
    base_power: Annotated[SourcedNumber, _of(WATTS)] | None = None
    traffic_power: Annotated[SourcedNumber, _of(WATTS)] | None = None
    power_limit: Annotated[SourcedNumber, _of(WATTS)] | None = None
    compute: Annotated[SourcedNumber, _of(OPERATIONS_PER_SECOND)] | None = None
    compute_power: Annotated[SourcedNumber, _of(WATTS)] | None = None

    def number(self, key: str, measure: str, purpose: str) -> Fraction:
        """Return a number that something depends on.

        Args:
            key: the field of this record.
            measure: its unit.
            purpose: what needs it, for messages.

        Returns:
            The number.

        Raises:
            MissingFigureError: the machine lacks it.
        """
        figure: SourcedNumber | None = getattr(self, key)
        if figure is None:
            raise MissingFigureError(
                f"{purpose} needs the hardware's {key}, which {self.name} lacks. Add it to a hardware file of your own."
            )
        number = parse_quantity(figure.value, measure)
        if number <= 0 and key in {"bandwidth", "compute"}:
            raise MissingFigureError(f"the {key} of {self.name} must be positive, got {figure.value}.")
        return number

    def efficiency_of(self, format_name: str, purpose: str) -> Fraction:
        """Return η of a format.

        Args:
            format_name: the format.
            purpose: what needs it, for messages.

        Returns:
            The share of the first entry that matches.

        Raises:
            MissingFigureError: no entry matches.
        """
        entry = self.entry_for(format_name)
        if entry is None:
            raise MissingFigureError(
                f"{purpose} needs the hardware's efficiency for the format {format_name}, which {self.name} lacks. "
                "Add it to a hardware file of your own; the pattern * stands for all formats."
            )
        return exact_number(entry.share.value)

    def entry_for(self, format_name: str) -> FormatEfficiency | None:
        """Return the first efficiency entry that matches a format; None if none does."""
        return next((entry for entry in self.efficiency if compiled(entry.formats).matches(format_name)), None)


def hardware_names() -> list[str]:
    """List the machines that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in (Path(__file__).with_name("known")).iterdir())


def load_hardware(name: str, beside: Path | None = None) -> Hardware:
    """Load a machine by name or file.

    Args:
        name: one of ``hardware_names()``, or the path of a YAML file.
        beside: the folder in which a relative path is tried first.

    Returns:
        The machine.

    Raises:
        InputError: there is no such machine or file.
        FileFormatError: the file does not describe a machine.
    """
    if name in hardware_names():
        text = (Path(__file__).with_name("known") / f"{name}.yaml").read_text(encoding="utf-8")
        return _validated(parse_yaml(text, Path(f"{name}.yaml")))
    for path in (*([beside / name] if beside else []), Path(name)):
        if path.is_file():
            return _validated(read_yaml(path))
    raise InputError(
        f"{name!r} is neither known hardware nor a file. Known: {', '.join(hardware_names())}; "
        "or give the path of a hardware file."
    )


def write_hardware(hardware: Hardware, path: Path) -> None:
    """Write a hardware file, whole or not at all; an existing file is replaced."""
    with whole_file(path) as partial:
        text = yaml.safe_dump(hardware.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
        partial.write_text(text, encoding="utf-8")


def _validated(read: SourceValue) -> Hardware:
    try:
        return validated(Hardware, read.value)
    except ValidationError as error:
        raise FileFormatError(describe(error, read, Hardware)) from error
