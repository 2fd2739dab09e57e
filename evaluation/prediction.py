"""What plans would need on a machine: bytes, speed, power and energy, each number marked exact or predicted.

Bytes of weights are exact. Everything that follows from the hardware's numbers is predicted by the laws of decode
(hardware/decode_laws.py), and is as good as those numbers; each is listed with its origin. Power is given at one
throughput that is the same for all, and at each entry's own full speed; the two are never mixed.

Knows nothing about terminals.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, TypeVar

from ..common.errors import MissingFigureError, OutOfRangeError
from ..common.records import Finite, Record
from ..common.units import BYTES, render_bytes
from ..hardware.decode_laws import (
    OperatingPoint,
    above_power_limit,
    figures_behind,
    operate,
    query_cost,
    seconds_per_step,
)
from ..hardware.resources import RESIDENT_BYTES, Rows
from ..hardware.specification import Hardware
from ..hardware.workload import Workload
from ..planning.plan import Plan
from ..sensitivity.profile import Profile, decided_layers, uniform_formats


class PointRecord(Record):
    """A machine at work at a steady rate; every number is predicted.

    Attributes:
        tokens_per_second: of each sequence.
        watts: drawn.
        joules_per_token: of one token of one sequence.
    """

    tokens_per_second: Finite
    watts: Finite
    joules_per_token: Finite


class QueryRecord(Record):
    """One query of one sequence at full speed; every number is predicted.

    Attributes:
        seconds_to_first_token: for the prompt.
        seconds: in total.
        joules: in total.
    """

    seconds_to_first_token: Finite
    seconds: Finite
    joules: Finite


class PredictedEntry(Record):
    """A plan, a uniform baseline, or the original.

    Attributes:
        name: its name in tables.
        stored_bytes: of all tensors of the checkpoint; exact.
        resident_bytes: with KV cache and activations at the workload's context; predicted.
        read_bytes_per_step: read for one token of every sequence; predicted.
        loss_increase_nats: predicted; None where nothing was priced.
        tokens_per_second: at full speed; predicted; None where the hardware lacks a number for it.
        full_speed: at 1 / t; None where the hardware lacks a number.
        same_rate: at the rate that is the same for all; None where that is out of reach, or a number is missing.
        query: None where no answer length is stated, or a number is missing.
        notes: what is missing, does not fit, or is out of reach.
    """

    name: str
    stored_bytes: int
    resident_bytes: int
    read_bytes_per_step: Finite
    loss_increase_nats: Finite | None
    tokens_per_second: Finite | None
    full_speed: PointRecord | None
    same_rate: PointRecord | None
    query: QueryRecord | None
    notes: tuple[str, ...]


class Parameter(Record):
    """A number of the hardware that predictions rest on.

    Attributes:
        name: as in hardware files.
        value: with its unit.
        origin: measured, datasheet, estimate or stated.
        source: where it comes from.
    """

    name: str
    value: str | float
    origin: str
    source: str


class Prediction(Record):
    """The result of ``predict``.

    Attributes:
        model_source: where the model was loaded from.
        hardware: its name.
        workload: how the model is used.
        same_rate_tokens_per_second: the throughput at which powers are compared; None where there is none.
        same_rate_origin: ``stated``, or ``full speed of NAME``.
        kv_cache_bytes: predicted from the model's config.
        activation_bytes: estimated from the layers' shapes.
        parameters: the hardware's numbers behind the predictions.
        estimates: names of those that are estimates.
        words: which numbers of an entry are exact and which predicted.
        entries: the plans first, the original last.
    """

    model_source: str
    hardware: str
    workload: Workload
    same_rate_tokens_per_second: Finite | None
    same_rate_origin: str
    kv_cache_bytes: int
    activation_bytes: int
    parameters: tuple[Parameter, ...]
    estimates: tuple[str, ...]
    words: dict[str, Literal["exact", "predicted"]]
    entries: tuple[PredictedEntry, ...]


@dataclass(frozen=True)
class Use:
    """A machine, and how the model is used on it."""

    hardware: Hardware
    workload: Workload


ORIGINAL: Final = "original"
_Value = TypeVar("_Value")
Entries = Mapping[str, Mapping[str, str] | None]
"""The format of every layer, by the entry's name; None for the original."""


def entries_of(profile: Profile, plans: Mapping[str, Plan], uniforms: Sequence[str] | None) -> Entries:
    """Put plans, uniform baselines and the original beside each other.

    Args:
        profile: of the model.
        plans: by name.
        uniforms: formats or widths; None for every format that all decided layers are offered.

    Returns:
        Formats by name.
    """
    decided, known = decided_layers(profile), profile.record.formats
    offered = [name for index, name in enumerate(known) if all(index in layer.formats for layer in decided)]
    found: dict[str, Mapping[str, str] | None] = {name: plan.formats() for name, plan in plans.items()}
    for target in offered if uniforms is None else uniforms:
        formats = uniform_formats(profile, target)
        name = formats[decided[0].name] if decided else target
        found[f"uniform {name}"] = formats
    return {**found, ORIGINAL: None}


def predict(profile: Profile, entries: Entries, use: Use) -> Prediction:
    """Predict what entries need on a machine.

    Args:
        profile: the layers; its prices are used where it has them.
        entries: in the order of the table.
        use: machine and workload.

    Returns:
        The prediction.
    """
    rows = Rows(profile, use.workload, use.hardware)
    read = {name: rows.read_bytes(formats) for name, formats in entries.items()}
    rate, origin = _same_rate(rows, read, use.hardware)
    predicted = tuple(_entry(rows, name, formats, read[name], rate) for name, formats in entries.items())
    used = list(dict.fromkeys(format_name for sizes in read.values() for format_name in sizes))
    figures = figures_behind(use.hardware, used)
    return Prediction(
        model_source=profile.record.model_source,
        hardware=use.hardware.name,
        workload=use.workload,
        same_rate_tokens_per_second=None if rate is None else float(rate),
        same_rate_origin=origin,
        kv_cache_bytes=sum(rows.kv_cache_by_block),
        activation_bytes=rows.activations,
        parameters=tuple(
            Parameter(name=name, value=figure.value, origin=figure.origin, source=figure.source)
            for name, figure in figures.items()
        ),
        estimates=tuple(name for name, figure in figures.items() if figure.origin == "estimate"),
        words={
            name: "exact" if name == "stored_bytes" else "predicted"
            for name in PredictedEntry.model_fields
            if name not in {"name", "notes"}
        },
        entries=predicted,
    )


def _same_rate(
    rows: Rows, read: Mapping[str, Mapping[str, Fraction]], hardware: Hardware
) -> tuple[Fraction | None, str]:
    """Give the throughput at which powers are compared: the stated one, else the slowest entry's full speed."""
    stated = rows.rate()
    if stated is not None:
        return stated, "stated"
    try:
        speeds = {name: operate(sizes, hardware).tokens_per_second for name, sizes in read.items()}
    except MissingFigureError:  # named in every entry's notes
        return None, "none: the hardware lacks a number"
    slowest = min(speeds, key=speeds.__getitem__)
    return Fraction(speeds[slowest]) * (1 - Fraction(1, 10**9)), f"full speed of {slowest}"


def _entry(
    rows: Rows,
    name: str,
    formats: Mapping[str, str] | None,
    read: Mapping[str, Fraction],
    same_rate: Fraction | None,
) -> PredictedEntry:
    record, hardware = rows.profile.record, rows.require_hardware("a prediction")
    original_bytes = 2 * sum(layer.num_weights for layer in record.layers) + record.other_bytes
    stored = original_bytes if formats is None else rows.profile.stored_bytes(dict(formats))
    resident = stored + rows.row(RESIDENT_BYTES).fixed - record.other_bytes
    speed, no_speed = _attempt(lambda: float(1 / seconds_per_step(read, hardware)))
    full, no_full = _attempt(lambda: operate(read, hardware, None, rows.batch))
    rated, no_rated = (
        (None, "") if same_rate is None else _attempt(lambda: operate(read, hardware, same_rate, rows.batch))
    )
    query, no_query = _attempt(lambda: _query(rows, formats))
    limits = [above_power_limit(point.watts, hardware) for point in (full, rated) if point is not None]
    notes = [_memory_note(resident, hardware), no_speed, no_full, no_rated, no_query, *limits]
    return PredictedEntry(
        name=name,
        stored_bytes=stored,
        resident_bytes=resident,
        read_bytes_per_step=float(sum(read.values())),
        loss_increase_nats=_loss(rows.profile, formats),
        tokens_per_second=speed,
        full_speed=None if full is None else _recorded(full),
        same_rate=None if rated is None else _recorded(rated),
        query=query,
        notes=tuple(dict.fromkeys(note for note in notes if note)),
    )


def _memory_note(resident: int, hardware: Hardware) -> str:
    """Say that a plan does not fit into the hardware's memory; empty where it does."""
    if hardware.memory is None or resident <= hardware.number("memory", BYTES, "a prediction"):
        return ""
    return f"does not fit: {render_bytes(resident)}, where {hardware.name} has {hardware.memory.value}"


def _attempt(compute: Callable[[], _Value]) -> tuple[_Value | None, str]:
    """Compute a number, or say why it cannot be predicted."""
    try:
        return compute(), ""
    except (MissingFigureError, OutOfRangeError) as error:
        return None, str(error)


def _recorded(point: OperatingPoint) -> PointRecord:
    return PointRecord(
        tokens_per_second=point.tokens_per_second, watts=point.watts, joules_per_token=point.joules_per_token
    )


def _loss(profile: Profile, formats: Mapping[str, str] | None) -> float | None:
    if formats is None:
        return 0.0
    loss = profile.predict(dict(formats))[0]
    return loss if math.isfinite(loss) else None  # a profile of shapes has no prices


def _query(rows: Rows, formats: Mapping[str, str] | None) -> QueryRecord | None:
    """Predict one query of one sequence, its answer decoded at the mean length of the cache."""
    work = rows.workload
    if work.answer is None:
        return None
    prompt = work.prompt or 1
    mean = None if work.kv_cache is not None else prompt + work.answer // 2
    alone = {"context": mean, "prompt": None, "answer": None, "prompt_chunk": None, "batch": None}
    single = Rows(rows.profile, work.model_copy(update=alone), rows.hardware)
    multiplied = sum(
        layer.num_weights * share for layer, share in zip(rows.profile.record.layers, single.read_shares, strict=True)
    )
    read = single.read_bytes(formats)
    cost = query_cost(read, single.require_hardware("a query"), prompt, work.answer, math.ceil(multiplied))
    return QueryRecord(seconds_to_first_token=cost.prompt_seconds, seconds=cost.seconds, joules=cost.joules)
