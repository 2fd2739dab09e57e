"""Hardware: memory, bandwidth, and the laws of decode speed and power.

With b bytes read per token, in formats of efficiency η, bandwidth B, and r tokens per second,

    t    = Σ b(f) / (η(f) · B) + t0      seconds per token, batch 1
    P(r) = P0 + c · b · r / B            watts

Every number says where it comes from. Nothing is filled in: a limit that needs a number which is not there is an
error.

Knows nothing about models.
"""

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema

from ..common.errors import MissingFigureError, ScantlingError
from ..common.files import whole_file
from ..common.patterns import Pattern, compiled
from ..common.records import Record
from ..common.units import BYTES, BYTES_PER_SECOND, OPERATIONS_PER_SECOND, SECONDS, WATTS, exact_number, parse_quantity
from ..common.validation import Quantity, check, describe, refusal, validated
from ..common.yaml_source import SourceValue, parse_yaml, read_yaml

FIGURES: Final = (
    "memory", "bandwidth", "overhead", "base_power", "traffic_power", "power_limit", "compute", "compute_power",
)  # fmt: skip


class Figure(Record):
    """A number and where it comes from; a bare quantity stands for ``{value: …, origin: stated}``.

    Attributes:
        value: with its unit.
        origin: measured (also fitted to measurements of this machine, where more points than parameters test the fit),
            taken from a datasheet, estimated (also fitted to what others published), or stated by the user without
            more.
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
    def _with_its_source(self) -> "Figure":
        if self.origin != "stated" and not self.source:
            raise refusal(f"a number of origin {self.origin!r} needs its source. Add source: …")
        return self


def _of(measure: str) -> AfterValidator:
    def checked(figure: Figure) -> Figure:
        check(parse_quantity, figure.value, measure)
        return figure

    return AfterValidator(checked)


def _share(figure: Figure) -> Figure:
    check(exact_number, figure.value)
    if not 0 < exact_number(figure.value) <= 2:
        raise refusal(f"an efficiency of {figure.value} is no share of the bandwidth. Write for instance 0.87.")
    return figure


def _pattern(text: str) -> str:
    check(Pattern, text)
    return text


def _one_for_all(value: object) -> object:
    if isinstance(value, str | int | float | dict) and not isinstance(value, bool):
        return ({"formats": "*", "share": value},)
    return tuple(value) if isinstance(value, list) else value


class Efficiency(Record):
    """The share of the bandwidth that reading some formats reaches.

    Attributes:
        formats: a pattern of their names; the first entry that fits counts.
        share: η.
    """

    formats: Annotated[str, AfterValidator(_pattern)]
    share: Annotated[Figure, AfterValidator(_share)]


class Hardware(Record):
    """One machine.

    Attributes:
        name: what messages call it.
        note: what a user should know.
        memory: bytes.
        bandwidth: bytes per second.
        efficiency: η by format; a number alone is for all formats.
        overhead: t0, seconds per token.
        base_power: P0, watts at no traffic.
        traffic_power: c, watts more at full bandwidth.
        power_limit: watts that it never exceeds.
        compute: operations per second that it reaches on a prompt, a multiplication and an addition counted as two.
        compute_power: watts more at that.
    """

    name: str
    note: str = ""
    memory: Annotated[Figure, _of(BYTES)] | None = None
    bandwidth: Annotated[Figure, _of(BYTES_PER_SECOND)] | None = None
    efficiency: Annotated[
        tuple[Efficiency, ...], BeforeValidator(_one_for_all, json_schema_input_type=tuple[Efficiency, ...] | Figure)
    ] = ()
    overhead: Annotated[Figure, _of(SECONDS)] | None = None
    base_power: Annotated[Figure, _of(WATTS)] | None = None
    traffic_power: Annotated[Figure, _of(WATTS)] | None = None
    power_limit: Annotated[Figure, _of(WATTS)] | None = None
    compute: Annotated[Figure, _of(OPERATIONS_PER_SECOND)] | None = None
    compute_power: Annotated[Figure, _of(WATTS)] | None = None

    def number(self, key: str, measure: str, what_for: str) -> Fraction:
        """Give a number that something depends on.

        Args:
            key: of this record.
            measure: that it is in.
            what_for: the limit that needs it.

        Returns:
            The number.

        Raises:
            MissingFigureError: the machine does not have it.
        """
        figure: Figure | None = getattr(self, key)
        if figure is None:
            raise MissingFigureError(
                f"{what_for} needs the hardware's {key}, which {self.name} lacks. "
                "State it in a hardware file of your own."
            )
        number = parse_quantity(figure.value, measure)
        if number <= 0 and key in {"bandwidth", "compute"}:
            raise MissingFigureError(f"the {key} of {self.name} is {figure.value}. State what it is.")
        return number

    def efficiency_of(self, format_name: str, what_for: str) -> Fraction:
        """Give η of a format.

        Args:
            format_name: the format.
            what_for: the limit that needs it.

        Returns:
            The share of the first entry that fits.

        Raises:
            MissingFigureError: none fits.
        """
        entry = self.entry_for(format_name)
        if entry is None:
            raise MissingFigureError(
                f"{what_for} needs the hardware's efficiency for the format {format_name}, which {self.name} lacks. "
                "State it in a hardware file of your own; the pattern * stands for all formats."
            )
        return exact_number(entry.share.value)

    def entry_for(self, format_name: str) -> Efficiency | None:
        """Find the efficiency that counts for a format.

        Args:
            format_name: the format.

        Returns:
            The first entry that fits; None where none does.
        """
        return next((entry for entry in self.efficiency if compiled(entry.formats).matches(format_name)), None)


def hardware_names() -> list[str]:
    """List the machines that come with the package.

    Returns:
        Their names.
    """
    return sorted(entry.name.removesuffix(".yaml") for entry in (Path(__file__).with_name("known")).iterdir())


def load_hardware(name: str, beside: Path | None = None) -> Hardware:
    """Give a machine by name or file.

    Args:
        name: one of ``hardware_names()``, or the path of a YAML file.
        beside: the folder that a relative path is looked for in first.

    Returns:
        The machine.

    Raises:
        ScantlingError: there is none, or the file is no machine.
    """
    if name in hardware_names():
        text = (Path(__file__).with_name("known") / f"{name}.yaml").read_text(encoding="utf-8")
        return _validated(parse_yaml(text, Path(f"{name}.yaml")))
    for path in (*([beside / name] if beside else []), Path(name)):
        if path.is_file():
            return _validated(read_yaml(path))
    raise ScantlingError(
        f"{name!r} is neither known hardware nor a file. Known: {', '.join(hardware_names())}; "
        "or give the path of a hardware file."
    )


def write_hardware(hardware: Hardware, path: Path) -> None:
    """Write a hardware file, whole or not at all.

    Args:
        hardware: the machine.
        path: the file, replaced where it exists.
    """
    with whole_file(path) as partial:
        text = yaml.safe_dump(hardware.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
        partial.write_text(text, encoding="utf-8")


def _validated(read: SourceValue) -> Hardware:
    try:
        return validated(Hardware, read.value)
    except ValidationError as error:
        raise ScantlingError(describe(error, read, Hardware)) from error
