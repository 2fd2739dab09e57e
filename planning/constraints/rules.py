"""Limits and rules as records: the keys of the constraint file, and what flags and Python calls become.

Rules about choices (allowed formats, same, order, distinct formats) speak of the layers that the program decides; a
layer with a single format is never narrowed. Rules about sums count every layer that their patterns match.

Knows nothing about profiles, nor how the records were written.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from ...common.patterns import Pattern
from ...common.records import Finite, Record
from ...common.units import BYTES, exact_number, parse_quantity
from ...common.validation import Quantity, check, refusal
from ...hardware.specification import Hardware
from ...hardware.workload import Workload
from .limits import Limits, Robust

Per = Literal["all", "block", "kind", "parent"]


def _one_or_many(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _well_formed(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for text in patterns:
        check(Pattern, text)
    return patterns


_ONE_OR_MANY: Final = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
Names = Annotated[
    tuple[str, ...], BeforeValidator(_one_or_many), Field(min_length=1, max_length=1000), WithJsonSchema(_ONE_OR_MANY)
]
Patterns = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many),
    Field(min_length=1, max_length=1000),
    AfterValidator(_well_formed),
    WithJsonSchema({**_ONE_OR_MANY, "description": "Shell patterns over names; see the module patterns."}),
]
Bits = Annotated[Finite, Field(gt=0, le=64)]


class AllowRule(Record):
    """Some layers may take only some formats.

    Attributes:
        name: what messages call it.
        layers: which.
        min_bits: the least width in bits.
        max_bits: the largest width in bits.
        formats: patterns of the formats allowed.
        format: the one format (a pin).
    """

    name: str | None = None
    layers: Patterns
    min_bits: Bits | None = None
    max_bits: Bits | None = None
    formats: Patterns | None = None
    format: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "AllowRule":
        if self.format is not None and (self.formats or self.min_bits is not None or self.max_bits is not None):
            raise refusal("format pins a layer; formats, min_bits and max_bits beside it have no effect. Keep one.")
        if self.min_bits is not None and self.max_bits is not None and self.min_bits > self.max_bits:
            raise refusal(f"min_bits {self.min_bits:g} is above max_bits {self.max_bits:g}. Exchange them.")
        return self


class TieRule(Record):
    """Some layers take the same format.

    Attributes:
        name: what messages call it.
        layers: which.
        same: true.
        per: ``all`` of them alike, or those of each ``block``, ``kind`` or ``parent`` module.
    """

    name: str | None = None
    layers: Patterns
    same: Literal[True]
    per: Per = "all"


class OrderRule(Record):
    """Some layers are at least as fine (have at least as many bits) as others. Cycles are legal: they mean equal bits.

    Attributes:
        name: what messages call it.
        layers: the finer ones.
        at_least_as_fine_as: the coarser ones.
        per: every finer with every coarser one (``all``), or within each ``block`` or ``parent``.
    """

    name: str | None = None
    layers: Patterns
    at_least_as_fine_as: Patterns
    per: Literal["all", "block", "parent"] = "all"


class DistinctRule(Record):
    """Not too many different formats.

    Attributes:
        name: what messages call it.
        distinct_formats: at most so many.
        layers: among these; None for all that are decided.
        per: among ``all`` of them, or in each ``block`` or ``kind``.
    """

    name: str | None = None
    distinct_formats: Annotated[int, Field(ge=1)]
    layers: Patterns | None = None
    per: Literal["all", "block", "kind"] = "all"


class SumRule(Record):
    """A limit on a row's sum over some layers.

    Attributes:
        name: what messages call it.
        sum: the row.
        layers: which layers are summed; None for the whole plan.
        at_most: upper bound with its unit.
        at_least: lower bound with its unit.
    """

    name: str | None = None
    sum: str
    layers: Patterns | None = None
    at_most: Quantity | None = None
    at_least: Quantity | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "SumRule":
        if self.at_most is None and self.at_least is None:
            raise refusal("a sum without at_most and at_least has no effect. Give one.")
        return self


class Term(Record):
    """One term of a linear row.

    Attributes:
        layers: which layers add to the row.
        formats: in which formats; None for all.
        bits: in formats of this width; None for all.
        add: how much each adds; terms that meet add up.
    """

    layers: Patterns
    formats: Patterns | None = None
    bits: Bits | None = None
    add: Quantity

    @model_validator(mode="after")
    def _by_number(self) -> "Term":
        check(exact_number, self.add)
        return self


class LinearRule(Record):
    """A row of one's own by number.

    Attributes:
        name: of the row.
        linear: its terms.
        at_most: upper bound, a number.
        at_least: lower bound, a number.
    """

    name: str | None = None
    linear: Annotated[tuple[Term, ...], Field(min_length=1)]
    at_most: Quantity | None = None
    at_least: Quantity | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "LinearRule":
        for bound in (self.at_most, self.at_least):
            if bound is not None:
                check(exact_number, bound)
        if self.at_most is None and self.at_least is None and self.name is None:
            raise refusal("a row without bounds has no effect. Give at_most or at_least, or name it to minimise it.")
        return self


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_BLOCKS_SCHEMA: Final = WithJsonSchema({"type": ["string", "integer"], "pattern": r"^[0-9]{1,6}(\.\.[0-9]{1,6})?$"})


class Part(Record):
    """One device that holds some blocks.

    Attributes:
        name: such as ``cuda:0``.
        blocks: such as ``0..15``, or ``3``.
        at_most: resident bytes there.
    """

    name: str | None = None
    blocks: Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^[0-9]{1,6}(\.\.[0-9]{1,6})?$"), _BLOCKS_SCHEMA]
    at_most: Quantity

    @property
    def block_range(self) -> range:
        """The blocks as numbers."""
        low, _, high = self.blocks.partition("..")
        return range(int(low), int(high or low) + 1)

    @model_validator(mode="after")
    def _in_bytes(self) -> "Part":
        check(parse_quantity, self.at_most, BYTES)
        if not self.block_range:
            raise refusal(f"the blocks {self.blocks} are none. Write the smaller number first.")
        return self


class DevicesRule(Record):
    """Resident bytes on each of several devices that the blocks are dealt out to.

    Attributes:
        name: what messages call it.
        devices: each block on exactly one of them; the embedding is on the first, the head on the last.
    """

    name: str | None = None
    devices: Annotated[tuple[Part, ...], Field(min_length=1, max_length=1000)]


_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "TieRule": ("same",),
    "OrderRule": ("at_least_as_fine_as",),
    "DistinctRule": ("distinct_formats",),
    "SumRule": ("sum",),
    "LinearRule": ("linear",),
    "DevicesRule": ("devices",),
    "AllowRule": ("format", "formats", "min_bits", "max_bits"),
}


def _kind_of(rule: object) -> str | None:
    keys = rule if isinstance(rule, Mapping) else getattr(rule, "model_fields_set", ())
    return next((kind for kind, words in _KINDS.items() if any(word in keys for word in words)), None)


RuleRecord = Annotated[
    Annotated[AllowRule, Tag("AllowRule")]
    | Annotated[TieRule, Tag("TieRule")]
    | Annotated[OrderRule, Tag("OrderRule")]
    | Annotated[DistinctRule, Tag("DistinctRule")]
    | Annotated[SumRule, Tag("SumRule")]
    | Annotated[LinearRule, Tag("LinearRule")]
    | Annotated[DevicesRule, Tag("DevicesRule")],
    Discriminator(
        _kind_of,
        custom_error_type="scantling",
        custom_error_message="the rule has no effect: it has none of the keys "
        + ", ".join(word for words in _KINDS.values() for word in words)
        + ". Add one.",
    ),
]


def _name_or_hardware(value: object) -> str:
    return "NameOfHardware" if isinstance(value, str) else "Hardware"


HardwareChoice = Annotated[
    Annotated[str, Tag("NameOfHardware")] | Annotated[Hardware, Tag("Hardware")], Discriminator(_name_or_hardware)
]


class Safety(Record):
    """How safe the plan must be; see docs/safety.md.

    Attributes:
        factor: the lower bound of the factor of safety at yield is at least this.
    """

    factor: Annotated[Finite, Field(gt=0, le=1000)]


class Constraints(Record):
    """The whole constraint file.

    Attributes:
        engine: name of an engine profile.
        hardware: name of a machine, a path of a hardware file, or the machine itself.
        workload: how the model is used.
        limits: on the whole plan.
        rules: on some layers.
        minimize: ``loss_increase`` (by default), a row, or several, one after the other.
        robust: how uncertainty enters the predicted loss.
        safety: how safe the plan must be, predicted and then measured.
    """

    engine: str | None = None
    hardware: HardwareChoice | None = None
    workload: Workload | None = None
    limits: Limits = Limits()
    rules: Annotated[tuple[RuleRecord, ...], Field(max_length=10_000)] = ()
    minimize: Names | None = None
    robust: Robust | None = None
    safety: Safety | None = None
