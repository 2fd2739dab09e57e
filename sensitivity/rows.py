"""The rows of a profile: what every format of every layer adds to bytes, bits, seconds, joules and watts.

    stored_bytes           bytes in the checkpoint
    resident_bytes         the same, and the KV cache at the stated context; activations are not counted, since they
                           depend on the engine's own buffers (predicted)
    read_bytes_per_token   bytes read from memory for one token: a matrix that is head, or head and embedding at once,
                           in full; an input embedding of its own by one row; an expert by the share of tokens routed
                           to it; what lies outside the layers and the KV cache in full
    bit_weights            Σ bits · weights over the decided layers, scales and zero points not counted
    seconds_per_token      Σ b(f) / (η(f) B) + t0, in picoseconds
    joules_per_token       P0 / r + c b / B at a demanded rate r; P0 t + c b / B at full speed, r = 1/t; in nanojoules
    watts                  P0 + c b r / B at a demanded rate, in microwatts

Amounts that are not whole are rounded up, so that a plan within a limit by its row is within it.

Knows nothing about limits.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Final

from ..backends.formats import parse_format
from ..backends.kv_cache import kv_cache_bytes
from ..solver.constraints import Workload
from ..solver.device import Device
from ..solver.errors import ScantlingError
from ..solver.instance import Row
from ..solver.quantities import (
    BITS,
    BYTES,
    BYTES_PER_SECOND,
    BYTES_PER_TOKEN,
    JOULES,
    SECONDS,
    TOKENS_PER_SECOND,
    WATTS,
    parse_quantity,
)
from .profile import LayerRecord, Profile

STORED_BYTES: Final = "stored_bytes"
RESIDENT_BYTES: Final = "resident_bytes"
READ_BYTES: Final = "read_bytes_per_token"
BIT_WEIGHTS: Final = "bit_weights"
SECONDS_PER_TOKEN: Final = "seconds_per_token"  # noqa: S105
JOULES_PER_TOKEN: Final = "joules_per_token"  # noqa: S105
POWER: Final = "watts"
ROW_NAMES: Final = (
    STORED_BYTES, RESIDENT_BYTES, READ_BYTES, BIT_WEIGHTS, SECONDS_PER_TOKEN, JOULES_PER_TOKEN, POWER,
)  # fmt: skip
LARGEST_SUM: Final = 2**62
PICO, NANO, MICRO = Fraction(1, 10**12), Fraction(1, 10**9), Fraction(1, 10**6)

Amounts = tuple[tuple[int, ...], ...]


def refuse_overflow(row: Row) -> Row:
    """Refuse a row whose sums would not fit in 64 bits.

    Args:
        row: the row.

    Returns:
        The row.

    Raises:
        ScantlingError: they would not.
    """
    largest = abs(row.fixed) + sum(max(map(abs, amounts)) for amounts in row.amounts)
    if largest > LARGEST_SUM:
        raise ScantlingError(
            f"the row {row.name!r} may add up to {largest:.3g} steps of {row.step:g} {row.measure}; at most 4.6e18 are "
            "exact in 64 bits. State it in a larger unit or with fewer digits."
        )
    return row


@dataclass(frozen=True)
class Rows:
    """Makes rows when they are asked for, since some need numbers that only some users state.

    Attributes:
        profile: the layers and their formats.
        workload: context, batch, KV width and rate.
        device: bandwidth and power; None where none is stated.
    """

    profile: Profile
    workload: Workload = field(default_factory=Workload)
    device: Device | None = None

    def row(self, name: str) -> Row:
        """Make a row.

        Args:
            name: one of ROW_NAMES.

        Returns:
            The row; the error of one that cannot be made says what is missing.
        """
        makers: dict[str, Callable[[], Row]] = {
            STORED_BYTES: lambda: Row(STORED_BYTES, BYTES, self.stored, self.profile.record.other_bytes),
            RESIDENT_BYTES: lambda: Row(
                RESIDENT_BYTES, BYTES, self.stored, self.profile.record.other_bytes + sum(self.kv_cache_by_block)
            ),
            READ_BYTES: self._read_bytes,
            BIT_WEIGHTS: lambda: Row(BIT_WEIGHTS, BITS, self._bit_weights()),
            SECONDS_PER_TOKEN: self._seconds,
            JOULES_PER_TOKEN: self._joules,
            POWER: self._watts,
        }
        return refuse_overflow(makers[name]())

    def available(self) -> dict[str, Row]:
        """Make every row that can be made.

        Returns:
            Rows by name.
        """
        made: dict[str, Row] = {}
        for name in ROW_NAMES:
            try:
                made[name] = self.row(name)
            except ScantlingError:  # a limit on it repeats the error
                continue
        return made

    @cached_property
    def stored(self) -> Amounts:
        """Bytes of every format of every layer."""
        return tuple(layer.stored_bytes for layer in self.profile.record.layers)

    @cached_property
    def kv_cache_by_block(self) -> tuple[int, ...]:
        """Bytes of the KV cache, block by block; a single number where the user stated them in all."""
        workload, config = self.workload, self.profile.record.config
        if workload.kv_cache is not None:
            return (math.ceil(parse_quantity(workload.kv_cache, BYTES)),)
        if workload.context is None:
            return ()
        if config is None:
            raise ScantlingError(
                "the profile does not record the model's config, which the KV cache at a stated context depends on. "
                "Profile the model again, state kv_cache in the workload yourself, or leave the context out."
            )
        return kv_cache_bytes(config, workload.context, workload.batch or 1, workload.kv_bits or 16)

    @cached_property
    def read(self) -> tuple[tuple[Fraction, ...], ...]:
        """Bytes of every format of every layer that are read for one token."""
        kinds = {layer.kind for layer in self.profile.record.layers}
        shares = [self._read_share(layer, tied="head" not in kinds) for layer in self.profile.record.layers]
        return tuple(
            tuple(share * amount for amount in amounts) for share, amounts in zip(shares, self.stored, strict=True)
        )

    def _read_share(self, layer: LayerRecord, *, tied: bool) -> Fraction:
        if layer.kind == "embedding" and not tied:
            return Fraction(1, layer.out_features)
        if layer.read_share is not None:
            return Fraction(layer.read_share)
        config = self.profile.record.config or {}
        total = next(
            (n for n in (config.get(k) for k in ("num_experts", "num_local_experts", "n_routed_experts")) if n), None
        )
        routed = config.get("num_experts_per_tok")
        if ".experts." in f".{layer.kind}." and isinstance(total, int) and isinstance(routed, int) and routed <= total:
            return Fraction(routed, total)  # as if all experts were chosen equally often
        return Fraction(1)

    @cached_property
    def fixed_read(self) -> int:
        """Bytes read for one token whatever the formats: norms and biases, and the KV cache."""
        return self.profile.record.other_bytes + sum(self.kv_cache_by_block)

    def _read_bytes(self) -> Row:
        amounts = tuple(tuple(math.ceil(amount) for amount in amounts) for amounts in self.read)
        return Row(READ_BYTES, BYTES_PER_TOKEN, amounts, self.fixed_read)

    def _bit_weights(self) -> Amounts:
        names = self.profile.record.formats
        bits = [Fraction(parse_format(name).bits) for name in names]
        return tuple(
            tuple(math.ceil(bits[target] * layer.num_weights) for target in layer.formats)
            if len(layer.formats) > 1
            else (0,)
            for layer in self.profile.record.layers
        )

    def on(self, what_for: str) -> Device:
        """Give the device.

        Args:
            what_for: the limit that needs it.

        Returns:
            The device.

        Raises:
            ScantlingError: none is stated, or the workload is one that its laws do not hold for.
        """
        if self.device is None:
            raise ScantlingError(f"{what_for} needs a device. State one, such as --device a100-80gb.")
        if (self.workload.batch or 1) != 1:
            raise ScantlingError(
                f"{what_for} is predicted for one sequence at a time; the workload has a batch of "
                f"{self.workload.batch}. State batch 1."
            )
        return self.device

    def rate(self) -> Fraction | None:
        """Give the demanded tokens per second.

        Returns:
            The rate; None for full speed.

        Raises:
            ScantlingError: it is zero.
        """
        if self.workload.rate is None:
            return None
        rate = parse_quantity(self.workload.rate, TOKENS_PER_SECOND)
        if rate <= 0:
            raise ScantlingError(
                f"the workload's rate is {self.workload.rate}. State a positive one, such as 26 tok/s."
            )
        return rate

    def seconds(self, what_for: str) -> tuple[tuple[tuple[Fraction, ...], ...], Fraction]:
        """Give the seconds of reading every format of every layer, and what is added once.

        Args:
            what_for: the limit that needs them.

        Returns:
            Seconds, and t0 with the reading of what lies outside the layers.
        """
        device, record = self.on(what_for), self.profile.record
        bandwidth = device.number("bandwidth", BYTES_PER_SECOND, what_for)
        used = sorted({target for layer in record.layers for target in layer.formats})
        pace = {f: 1 / (bandwidth * device.efficiency_of(record.formats[f], what_for)) for f in used}
        by_format = tuple(
            tuple(amount * pace[target] for amount, target in zip(amounts, layer.formats, strict=True))
            for amounts, layer in zip(self.read, record.layers, strict=True)
        )
        outside = self.fixed_read / (bandwidth * device.efficiency_of("float16", what_for))
        return by_format, outside + device.number("overhead", SECONDS, what_for)

    def traffic_joules(self, what_for: str) -> tuple[tuple[tuple[Fraction, ...], ...], Fraction]:
        """Give c · bytes / B of every format of every layer, and of what is read besides.

        Args:
            what_for: the limit that needs them.

        Returns:
            Joules.
        """
        device = self.on(what_for)
        bandwidth = device.number("bandwidth", BYTES_PER_SECOND, what_for)
        per_byte = device.number("traffic_power", WATTS, what_for) / bandwidth
        return tuple(tuple(a * per_byte for a in amounts) for amounts in self.read), self.fixed_read * per_byte

    def _seconds(self) -> Row:
        amounts, fixed = self.seconds("a limit on speed")
        return stepped(SECONDS_PER_TOKEN, SECONDS, amounts, fixed, PICO)

    def _joules(self) -> Row:
        device = self.on("a limit on energy")
        base = device.number("base_power", WATTS, "a limit on energy")
        traffic, fixed = self.traffic_joules("a limit on energy")
        rate = self.rate()
        if rate is not None:
            return stepped(JOULES_PER_TOKEN, JOULES, traffic, fixed + base / rate, NANO)
        seconds, fixed_seconds = self.seconds("a limit on energy")
        amounts = combined(seconds, base, traffic)
        return stepped(JOULES_PER_TOKEN, JOULES, amounts, base * fixed_seconds + fixed, NANO)

    def _watts(self) -> Row:
        rate = self.rate()
        if rate is None:
            raise ScantlingError(
                "power as a row needs a rate, since at full speed it is no sum. State the workload's rate, such as "
                "26 tok/s; a limit on power alone may do without."
            )
        base = self.on("a limit on power").number("base_power", WATTS, "a limit on power")
        traffic, fixed = self.traffic_joules("a limit on power")
        amounts = tuple(tuple(amount * rate for amount in amounts) for amounts in traffic)
        return stepped(POWER, WATTS, amounts, base + fixed * rate, MICRO)

    def full_speed_power(self, name: str, at_most_watts: Fraction) -> Row:
        """State a limit on power at full speed as a row that must not be positive.

        With r = 1/t, P0 + c b / (B t) ≤ Pmax multiplies out to (P0 − Pmax) t + c b / B ≤ 0.

        Args:
            name: of the row.
            at_most_watts: Pmax.

        Returns:
            The row, in nanojoules per token.
        """
        base = self.on("a limit on power").number("base_power", WATTS, "a limit on power")
        seconds, fixed_seconds = self.seconds("a limit on power")
        traffic, fixed = self.traffic_joules("a limit on power")
        spare = base - at_most_watts
        return refuse_overflow(
            stepped(name, JOULES, combined(seconds, spare, traffic), spare * fixed_seconds + fixed, NANO)
        )


def combined(
    first: Sequence[Sequence[Fraction]], factor: Fraction, second: Sequence[Sequence[Fraction]]
) -> tuple[tuple[Fraction, ...], ...]:
    """Add two tables, the first times a factor.

    Args:
        first: a table.
        factor: of the first.
        second: a table of the same shape.

    Returns:
        factor · first + second.
    """
    return tuple(
        tuple(factor * a + b for a, b in zip(left, right, strict=True))
        for left, right in zip(first, second, strict=True)
    )


def stepped(name: str, measure: str, amounts: Sequence[Sequence[Fraction]], fixed: Fraction, step: Fraction) -> Row:
    """Put exact amounts into whole steps, rounded up.

    Args:
        name: of the row.
        measure: that amounts are in.
        amounts: of every format of every layer.
        fixed: whatever the formats.
        step: one step.

    Returns:
        The row.
    """
    whole: Any = tuple(tuple(math.ceil(amount / step) for amount in unit) for unit in amounts)
    return Row(name, measure, whole, math.ceil(fixed / step), float(step))
