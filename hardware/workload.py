"""How a model is used: context, batch, cache, rate.

Knows nothing about models or machines.
"""

from typing import Annotated

from pydantic import Field, model_validator

from ..common.records import Finite, Record
from ..common.units import BYTES, TOKENS_PER_SECOND, parse_quantity
from ..common.validation import Quantity, check, refusal


class Workload(Record):
    """How the model is used.

    Attributes:
        context: tokens that the KV cache holds for each sequence; by default prompt and answer together,
            and no KV cache without either.
        prompt: tokens of a query's prompt.
        answer: tokens of its answer.
        prompt_chunk: tokens of a prompt that are computed at once; the whole prompt by default.
        batch: sequences at once.
        kv_bits: width of a cached number.
        kv_cache: its bytes in all, if you know better than the model's config tells.
        activations: bytes of activations and of the engine's own buffers, if you know better than our estimate.
        rate: required tokens per second of every sequence; the plan must reach it.
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
                raise refusal("kv_cache gives the bytes that follow from context and kv_bits. Keep one of the two.")
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
        """Tokens computed in one pass: of a prompt if there is one, else of a step."""
        prompt = self.prompt or 1
        return (self.batch or 1) * min(prompt, self.prompt_chunk or prompt)
