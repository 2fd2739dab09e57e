"""Limits on the whole plan, the workload, and how uncertainty enters the loss, as records with their units.

Knows nothing about profiles, nor how the records were written.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from .quantities import (
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
from .record_file import Finite, Record
from .validation import Quantity, check, refusal


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
        power: at the workload's rate; at full speed where none is stated.
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

    def stated(self) -> dict[str, Bound]:
        """Give the limits that are there.

        Returns:
            Bounds by key.
        """
        return {key: getattr(self, key) for key in Limits.model_fields if getattr(self, key) is not None}


class Workload(Record):
    """How the model is used.

    Attributes:
        context: tokens that the KV cache holds for each sequence; where it is not stated, prompt and answer together;
            None for no KV cache.
        prompt: tokens of a query's prompt.
        answer: tokens of its answer.
        prompt_chunk: tokens of a prompt that are computed at once; the whole prompt where it is not stated.
        batch: sequences at once.
        kv_bits: width of a cached number.
        kv_cache: its bytes in all, where you know better than the model's config tells.
        activations: bytes of activations and of the engine's own buffers, where you know better than our estimate.
        rate: demanded tokens per second of every sequence; the plan must reach it.
    """

    context: Annotated[int, Field(ge=1, le=10**9)] | None = None
    prompt: Annotated[int, Field(ge=1, le=10**9)] | None = None
    answer: Annotated[int, Field(ge=1, le=10**9)] | None = None
    prompt_chunk: Annotated[int, Field(ge=1, le=10**9)] | None = None
    batch: Annotated[int, Field(ge=1, le=10**6)] | None = None
    kv_bits: Annotated[Finite, Field(gt=0, le=32)] | None = None
    kv_cache: Quantity | None = None
    activations: Quantity | None = None
    rate: Quantity | None = None

    @model_validator(mode="after")
    def _in_their_units(self) -> "Workload":
        if self.kv_cache is not None:
            check(parse_quantity, self.kv_cache, BYTES)
            if self.context is not None or self.kv_bits is not None:
                raise refusal("kv_cache states the bytes that context and kv_bits would give. Keep one of the two.")
        if self.activations is not None:
            check(parse_quantity, self.activations, BYTES)
        if self.rate is not None:
            check(parse_quantity, self.rate, TOKENS_PER_SECOND)
        if self.tokens_held is None and self.kv_bits is not None:
            raise refusal("kv_bits has no effect without a context. State context, such as 8192.")
        return self

    @model_validator(mode="after")
    def _as_one_query(self) -> "Workload":
        query = (self.prompt or 0) + (self.answer or 0)
        if self.context is not None and query > self.context:
            raise refusal(
                f"a context of {self.context} does not hold a query of {query} tokens, prompt and answer. "
                "State a larger context, or leave it out."
            )
        if self.prompt is None and self.prompt_chunk is not None:
            raise refusal("prompt_chunk has no effect without a prompt. State prompt, such as 2048.")
        return self

    @property
    def tokens_held(self) -> int | None:
        """Tokens in the KV cache of each sequence; None for no cache."""
        return self.context or ((self.prompt or 0) + (self.answer or 0)) or None

    @property
    def tokens_at_once(self) -> int:
        """Tokens that are computed in one pass: of a prompt where there is one, of a step otherwise."""
        prompt = self.prompt or 1
        return (self.batch or 1) * min(prompt, self.prompt_chunk or prompt)


class Robust(Record):
    """How uncertainty enters the predicted loss.

    Attributes:
        standard_errors: k in loss + k · standard error.
        load_cases: ``mean`` of the kinds of text, or the ``worst`` of them.
    """

    standard_errors: Annotated[Finite, Field(ge=0)] = 0.0
    load_cases: Literal["mean", "worst"] = "mean"
