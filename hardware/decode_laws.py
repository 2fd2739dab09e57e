"""What a machine takes for a token: the laws of decode speed and power, from the bytes that a token reads.

One step gives each of n sequences (the batch) one token. With b(f) bytes read in formats f per step,

    t    = Σ b(f) / (η(f) · B) + t0              seconds per step: the pace of every sequence
    P(r) = P0 + c · Σ b(f) · r / B               watts at r steps per second, r ≤ 1 / t
    E(r) = P(r) / (r · n)                        joules per token

At full speed r = 1 / t. The laws were fitted to single sequences; for a batch they hold as long as reading, not
computing, takes the time.

A prompt of p tokens is read in one pass. If the compute of the machine is known (C operations per second, k watts more
at that), a pass over W multiplied weights with 2 · W · p operations takes max(t, 2 W p / C) seconds, and
P0 · seconds + c · b / B + k · 2 W p / C joules.

Knows nothing about models, nor about integer programs: their rows state the same laws (hardware/resources.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ..common.errors import InputError, OutOfRangeError
from ..common.units import BYTES_PER_SECOND, OPERATIONS_PER_SECOND, SECONDS, WATTS, render_quantity
from .specification import Hardware, SourcedNumber

ReadBytes = Mapping[str, int | Fraction]
"""Bytes read for one step, by the format that they are in."""


@dataclass(frozen=True)
class OperatingPoint:
    """A machine at work at a steady rate.

    Attributes:
        tokens_per_second: of every sequence.
        watts: P(r).
        joules_per_token: E(r), of one token of one sequence.
    """

    tokens_per_second: float
    watts: float
    joules_per_token: float


@dataclass(frozen=True)
class QueryCost:
    """What one query of one sequence takes at full speed: its prompt, then its answer token by token.

    Attributes:
        prompt_seconds: until the first token; 0 without a prompt.
        answer_seconds: from there to the last.
        prompt_joules: for the prompt.
        answer_joules: for the answer.
    """

    prompt_seconds: float
    answer_seconds: float
    prompt_joules: float
    answer_joules: float

    @property
    def seconds(self) -> float:
        """Of the whole query."""
        return self.prompt_seconds + self.answer_seconds

    @property
    def joules(self) -> float:
        """Of the whole query."""
        return self.prompt_joules + self.answer_joules


def seconds_per_step(read_bytes: ReadBytes, hardware: Hardware, purpose: str = "a speed") -> Fraction:
    """Return t.

    Args:
        read_bytes: per step, by format.
        hardware: bandwidth, efficiency, overhead.
        purpose: what needs the numbers, for messages about missing ones.

    Returns:
        Seconds per step.

    >>> card = Hardware(name="card", bandwidth="100 GB/s", efficiency=0.5, overhead="2 ms")
    >>> float(seconds_per_step({"float16": 10**9}, card))
    0.022
    """
    bandwidth = hardware.number("bandwidth", BYTES_PER_SECOND, purpose)
    overhead = hardware.number("overhead", SECONDS, purpose)
    reading = [Fraction(size) / hardware.efficiency_of(name, purpose) for name, size in read_bytes.items() if size]
    return sum(reading, start=Fraction(0)) / bandwidth + overhead


def watts_at(
    read_bytes: ReadBytes, hardware: Hardware, steps_per_second: Fraction, purpose: str = "a power"
) -> Fraction:
    """Return P(r) in watts, whether or not the machine can reach the rate of r steps per second."""
    base = hardware.number("base_power", WATTS, purpose)
    return base + _traffic_joules(read_bytes, hardware, purpose) * steps_per_second


def operate(
    read_bytes: ReadBytes, hardware: Hardware, rate: float | Fraction | None = None, batch: int = 1
) -> OperatingPoint:
    """Return speed, power and energy at a required rate, or at full speed.

    Args:
        read_bytes: per step, by format.
        hardware: the machine.
        rate: tokens per second required of every sequence; None for full speed.
        batch: sequences at once.

    Returns:
        The operating point.

    Raises:
        OutOfRangeError: the rate is beyond full speed.
        MissingFigureError: the machine lacks a number.

    >>> card = Hardware(name="card", bandwidth="100 GB/s", efficiency=1, overhead="0 s",
    ...                 base_power="20 W", traffic_power="80 W")
    >>> operate({"float16": 10**9}, card)
    OperatingPoint(tokens_per_second=100.0, watts=100.0, joules_per_token=1.0)
    >>> operate({"float16": 10**9}, card, rate=50)
    OperatingPoint(tokens_per_second=50.0, watts=60.0, joules_per_token=1.2)
    """
    fastest = 1 / seconds_per_step(read_bytes, hardware)
    steps = fastest if rate is None else Fraction(rate)
    if not 0 < steps <= fastest:
        raise OutOfRangeError(
            f"a rate of {float(steps):.4g} tok/s is out of reach: {hardware.name} is predicted to give "
            f"{float(fastest):.4g} tok/s at most. Lower the rate, or make the plan smaller."
        )
    watts = watts_at(read_bytes, hardware, steps)
    return OperatingPoint(float(steps), float(watts), float(watts / (steps * batch)))


def query_cost(
    read_bytes: ReadBytes, hardware: Hardware, prompt_tokens: int, answer_tokens: int, multiplied_weights: int
) -> QueryCost:
    """Return what a query of a single sequence takes at full speed.

    The first token of the answer comes with the prompt's pass, so the answer takes one step less than it has tokens.

    Args:
        read_bytes: per step, by format, with the KV cache at the mean length of the answer.
        hardware: the machine; a prompt of more than one token needs ``compute`` and ``compute_power``.
        prompt_tokens: at least 1: a text begins somewhere.
        answer_tokens: at least 1.
        multiplied_weights: W, weights that every token is multiplied by.

    Returns:
        Seconds and joules.

    Raises:
        InputError: a length below 1.
        MissingFigureError: the machine lacks a number.
    """
    if prompt_tokens < 1 or answer_tokens < 1:
        raise InputError(f"prompt and answer must each have at least 1 token, got {prompt_tokens} and {answer_tokens}.")
    step, purpose = seconds_per_step(read_bytes, hardware), "a query"
    base = hardware.number("base_power", WATTS, purpose)
    reading = _traffic_joules(read_bytes, hardware, purpose)
    computing, computing_joules = Fraction(0), Fraction(0)
    if prompt_tokens > 1:
        operations = 2 * multiplied_weights * prompt_tokens
        computing = operations / hardware.number("compute", OPERATIONS_PER_SECOND, purpose)
        computing_joules = hardware.number("compute_power", WATTS, purpose) * computing
    first = max(step, computing)
    return QueryCost(
        prompt_seconds=float(first),
        answer_seconds=float(step * (answer_tokens - 1)),
        prompt_joules=float(base * first + reading + computing_joules),
        answer_joules=float((base * step + reading) * (answer_tokens - 1)),
    )


def _traffic_joules(read_bytes: ReadBytes, hardware: Hardware, purpose: str) -> Fraction:
    """Return c · Σ b / B."""
    bandwidth = hardware.number("bandwidth", BYTES_PER_SECOND, purpose)
    total = sum((Fraction(size) for size in read_bytes.values()), start=Fraction(0))
    return hardware.number("traffic_power", WATTS, purpose) * total / bandwidth


def above_power_limit(watts: float, hardware: Hardware) -> str:
    """Warn if a predicted power is more than the machine ever draws: it would then be slower, and the law not hold.

    Args:
        watts: predicted.
        hardware: its power limit, if known.

    Returns:
        The warning; empty if all is well or no limit is known.
    """
    if hardware.power_limit is None:
        return ""
    limit = hardware.number("power_limit", WATTS, "a power")
    if watts <= limit:
        return ""
    return (
        f"{render_quantity(watts, WATTS)} is above the power limit of {hardware.name}, {render_quantity(limit, WATTS)}"
        ": it would run slower than predicted."
    )


def figures_behind(hardware: Hardware, format_names: list[str]) -> dict[str, SourcedNumber]:
    """Return the numbers of a machine that predictions for these formats rest on, by name."""
    keys = ("bandwidth", "overhead", "base_power", "traffic_power", "compute", "compute_power")
    found = {key: figure for key in keys if (figure := getattr(hardware, key)) is not None}
    for name in format_names:
        entry = hardware.entry_for(name)
        if entry is not None:
            found[f"efficiency of {entry.formats}"] = entry.share
    return found
