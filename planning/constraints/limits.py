"""Limits on the whole plan, the workload, and how uncertainty enters the loss, as records with their units.

Knows nothing about profiles, nor how the records were written.
"""

from typing import Annotated, Any, ClassVar, Literal, TypedDict

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from ...common.records import Finite, Record
from ...common.units import (
    BITS,
    BYTES,
    BYTES_PER_TOKEN,
    JOULES,
    NATS,
    SECONDS,
    TOKENS_PER_SECOND,
    WATTS,
    parse_quantity,
)
from ...common.validation import Quantity, check, refusal


class Bound(Record):
    """A limit on a quantity: ``18 GiB``, or ``{at_most: 18 GiB, name: my card}``.

    Attributes:
        name: what messages call it.
        at_most: upper bound with its unit.
        at_least: lower bound with its unit.
    """

    measure: ClassVar[str] = BYTES
    usual: ClassVar[str] = "at_most"

    name: str | None = None
    at_most: Quantity | None = None
    at_least: Quantity | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_quantity(cls, value: object) -> object:
        return {cls.usual: value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _in_its_unit(self) -> "Bound":
        for bound in (self.at_most, self.at_least):
            if bound is not None:
                check(parse_quantity, bound, self.measure)
        if self.at_most is None and self.at_least is None:
            raise refusal("a limit needs at_most, at_least or both. Write for instance {at_most: …}.")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say in the JSON Schema that a quantity alone stands for a bound.

        Args:
            core_schema: of the record.
            handler: makes the record's own schema.

        Returns:
            Either of both.
        """
        record = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": ["string", "number"]}, record]}


class BytesPerTokenBound(Bound):
    """Bytes read per token."""

    measure: ClassVar[str] = BYTES_PER_TOKEN


class BitsBound(Bound):
    """Bits per weight."""

    measure: ClassVar[str] = BITS


class WattsBound(Bound):
    """Power."""

    measure: ClassVar[str] = WATTS


class JoulesBound(Bound):
    """Energy per token."""

    measure: ClassVar[str] = JOULES


class SecondsBound(Bound):
    """Seconds per token."""

    measure: ClassVar[str] = SECONDS


class SpeedBound(Bound):
    """Tokens per second; a quantity alone is the least."""

    measure: ClassVar[str] = TOKENS_PER_SECOND
    usual: ClassVar[str] = "at_least"


class LossBound(Bound):
    """Predicted loss increase, which can only be limited from above."""

    measure: ClassVar[str] = NATS

    @model_validator(mode="after")
    def _from_above(self) -> "LossBound":
        if self.at_least is not None:
            raise refusal("a loss can be limited from above only. Write at_most.")
        return self


class Limits(Record):
    """Limits on the whole plan.

    Attributes:
        memory: resident bytes: weights, what lies outside the program, and at a context KV cache and activations.
        stored_bytes: of all tensors in the checkpoint.
        read_bytes_per_token: read from memory for one token.
        average_bits: Σ bits · weights / Σ weights over the decided layers; scales and zero points not counted.
        power: at the workload's rate; at full speed without a rate.
        energy: per token, likewise.
        speed: tokens per second.
        seconds_per_token: the same from the other side.
        loss_increase: predicted, in nats per token.
    """

    memory: Bound | None = None
    stored_bytes: Bound | None = None
    read_bytes_per_token: BytesPerTokenBound | None = None
    average_bits: BitsBound | None = None
    power: WattsBound | None = None
    energy: JoulesBound | None = None
    speed: SpeedBound | None = None
    seconds_per_token: SecondsBound | None = None
    loss_increase: LossBound | None = None

    def bounds(self) -> dict[str, Bound]:
        """Give the bounds that were set, by key."""
        return {key: getattr(self, key) for key in Limits.model_fields if getattr(self, key) is not None}


class PlanLimits(TypedDict, total=False):
    """Bounds on the whole plan by key, for Python calls: upper bounds, of ``speed`` the lower one."""

    memory: str | float
    stored_bytes: str | float
    read_bytes_per_token: str | float
    average_bits: str | float
    power: str | float
    energy: str | float
    speed: str | float
    seconds_per_token: str | float
    loss_increase: str | float


class Robust(Record):
    """How uncertainty enters the predicted loss.

    Attributes:
        standard_errors: k in loss + k · standard error.
        domains: ``mean`` of the kinds of text, or the ``worst`` of them.
    """

    standard_errors: Annotated[Finite, Field(ge=0)] = 0.0
    domains: Literal["mean", "worst"] = "mean"
