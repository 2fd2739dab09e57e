"""The rows of a profile: what every format of every layer adds to bytes, bits, seconds, joules and watts.

    stored_bytes           bytes in the checkpoint
    resident_bytes         the same, and at a stated context the KV cache and the activations (an estimate, since they
                           depend on the engine's own buffers)
    read_bytes_per_token   bytes read from memory for one token: a matrix that is head, or head and embedding at once,
                           in full; an input embedding of its own by one row; an expert by the share of tokens routed
                           to it; what lies outside the layers and the KV cache in full. A step of n sequences reads n
                           caches and n rows, an expert by n times its share, all of it at most, and gives n tokens
    bit_weights            Σ bits · weights over the decided layers, scales and zero points not counted
    seconds_per_token      Σ b(f) / (η(f) B) + t0 with the bytes b of one step, in picoseconds: the pace of a sequence
    joules_per_token       P0 / r + c b / B at a demanded rate r; P0 t + c b / B at full speed, r = 1/t; over n
                           sequences; in nanojoules
    watts                  P0 + c b r / B at a demanded rate, in microwatts

Amounts that are not whole are rounded up, so that a plan within a limit by its row is within it.

Knows nothing about limits.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Final

from ..common.errors import MissingFigureError, ScantlingError
from ..common.units import (
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
from ..models.kv_cache import kv_cache_bytes
from ..quantization.formats import parse_format
from ..sensitivity.profile import LayerRecord, Profile
from ..solver.instance import Row
from .activations import activation_bytes
from .specification import Hardware
from .workload import Workload

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
ROW_OF: Final = {
    "memory": RESIDENT_BYTES,
    "bytes": STORED_BYTES,
    "average_bits": BIT_WEIGHTS,
    "energy": JOULES_PER_TOKEN,
    "power": POWER,
    "read_bytes": READ_BYTES,
    **{name: name for name in ROW_NAMES},
}  # what users call rows
LARGEST_SUM: Final = 2**62
UNQUANTIZED: Final = "float16"
PICO, NANO, MICRO = Fraction(1, 10**12), Fraction(1, 10**9), Fraction(1, 10**6)

Amounts = tuple[tuple[int, ...], ...]


def validate_range(row: Row) -> Row:
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


def _sizes(layer: LayerRecord) -> Iterator[tuple[int, int]]:
    return zip(layer.formats, layer.stored_bytes, strict=True)


@dataclass(frozen=True)
class Rows:
    """Makes rows when they are asked for, since some need numbers that only some users state.

    Attributes:
        profile: the layers and their formats.
        workload: context, batch, KV width and rate.
        hardware: bandwidth and power; None where none is stated.
        made: the rows made so far.
    """

    profile: Profile
    workload: Workload = field(default_factory=Workload)
    hardware: Hardware | None = None
    made: dict[str, Row] = field(default_factory=dict, repr=False, compare=False)

    def row(self, name: str) -> Row:
        """Make a row, or give the one that was made.

        Args:
            name: one of ROW_NAMES.

        Returns:
            The row; the error of one that cannot be made says what is missing.
        """
        makers: dict[str, Callable[[], Row]] = {
            STORED_BYTES: lambda: Row(STORED_BYTES, BYTES, self.stored, self.profile.record.other_bytes),
            RESIDENT_BYTES: lambda: Row(
                RESIDENT_BYTES,
                BYTES,
                self.stored,
                self.profile.record.other_bytes + sum(self.kv_cache_by_block) + self.activations,
            ),
            READ_BYTES: lambda: self.of_traffic(
                READ_BYTES, BYTES_PER_TOKEN, lambda _: Fraction(1, self.batch), Fraction(0), Fraction(1)
            ),
            BIT_WEIGHTS: lambda: Row(BIT_WEIGHTS, BITS, self._bit_weights()),
            SECONDS_PER_TOKEN: self._seconds,
            JOULES_PER_TOKEN: self._joules,
            POWER: self._watts,
        }
        if name not in self.made:
            self.made[name] = validate_range(makers[name]())
        return self.made[name]

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
        if workload.tokens_held is None:
            return ()
        if config is None:
            raise MissingFigureError(
                "the profile does not record the model's config, which the KV cache at a stated context depends on. "
                "Profile the model again, state kv_cache in the workload yourself, or leave the context out."
            )
        return kv_cache_bytes(config, workload.tokens_held, self.batch, workload.kv_bits or 16)

    @cached_property
    def activations(self) -> int:
        """Bytes of activations: as stated, else estimated where a KV cache is counted."""
        if self.workload.activations is not None:
            return math.ceil(parse_quantity(self.workload.activations, BYTES))
        if not self.kv_cache_by_block:
            return 0
        routed = (self.profile.record.config or {}).get("num_experts_per_tok")
        experts = routed if isinstance(routed, int) else 1
        return activation_bytes(self.profile.record, self.workload.tokens_at_once, self.batch, experts)

    @property
    def batch(self) -> int:
        """Sequences at once."""
        return self.workload.batch or 1

    @cached_property
    def read_shares(self) -> tuple[Fraction, ...]:
        """The share of every layer's bytes that is read for one step; at most n times that of one of n sequences."""
        kinds = {layer.kind for layer in self.profile.record.layers}
        shares = (self._read_share(layer, tied="head" not in kinds) for layer in self.profile.record.layers)
        return tuple(min(Fraction(1), self.batch * share) for share in shares)

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

    def read_bytes(self, formats: Mapping[str, str] | None) -> dict[str, Fraction]:
        """Count what one step reads, by the format that it is in.

        Args:
            formats: the format of every layer; None for the original, all of it in 16 bits.

        Returns:
            Bytes by format, what lies outside the layers and the KV caches as ``float16``.

        Raises:
            ScantlingError: a layer has no such format.
        """
        found: dict[str, Fraction] = defaultdict(Fraction)
        for layer, share in zip(self.profile.record.layers, self.read_shares, strict=True):
            offered = {self.profile.record.formats[target]: size for target, size in _sizes(layer)}
            name = UNQUANTIZED if formats is None else formats.get(layer.name, "")
            size = 2 * layer.num_weights if formats is None else offered.get(name)
            if size is None:
                raise ScantlingError(
                    f"the profile has no format {name!r} for {layer.name}. It has: {', '.join(offered)}."
                )
            found[name] += share * size
        found[UNQUANTIZED] += self.fixed_read
        return dict(found)

    @cached_property
    def fixed_read(self) -> int:
        """Bytes read for one step whatever the formats: norms and biases, and the KV caches."""
        return self.profile.record.other_bytes + sum(self.kv_cache_by_block)

    def _bit_weights(self) -> Amounts:
        names = self.profile.record.formats
        bits = [Fraction(parse_format(name).bits) for name in names]
        return tuple(
            tuple(math.ceil(bits[target] * layer.num_weights) for target in layer.formats)
            if len(layer.formats) > 1
            else (0,)
            for layer in self.profile.record.layers
        )

    def on(self, what_for: str) -> Hardware:
        """Give the machine.

        Args:
            what_for: the limit that needs it.

        Returns:
            The machine.

        Raises:
            MissingFigureError: none is stated.
        """
        if self.hardware is None:
            raise MissingFigureError(f"{what_for} needs hardware. State it, such as --hardware a100-80gb.")
        return self.hardware

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

    def of_traffic(
        self, name: str, measure: str, per_byte: Callable[[str], Fraction], constant: Fraction, step: Fraction
    ) -> Row:
        """Make a row of amounts in proportion to the bytes read: a(u, f) = k(f) · b(u, f).

        What lies outside the layers is read in 16 bits.

        Args:
            name: of the row.
            measure: that amounts are in.
            per_byte: k by the format's name.
            constant: added once.
            step: one step.

        Returns:
            The row, every amount rounded up.
        """
        record = self.profile.record
        used = sorted({target for layer in record.layers for target in layer.formats})
        pace = {target: per_byte(record.formats[target]) / step for target in used}
        ratios: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        amounts = []
        for layer, share in zip(record.layers, self.read_shares, strict=True):
            key = (share.numerator, share.denominator)
            if key not in ratios:
                ratios[key] = {target: (share * k).as_integer_ratio() for target, k in pace.items()}
            by_target = [ratios[key][target] for target in layer.formats]
            amounts.append(
                tuple(
                    -(-stored * over // under)
                    for stored, (over, under) in zip(layer.stored_bytes, by_target, strict=True)
                )
            )
        fixed = self.fixed_read * per_byte(UNQUANTIZED) + constant
        return Row(name, measure, tuple(amounts), math.ceil(fixed / step), float(step))

    def pace(self, what_for: str) -> Callable[[str], Fraction]:
        """Give the seconds for one byte, 1 / (η(f) B), by format.

        Args:
            what_for: the limit that needs them.

        Returns:
            A function of the format's name.
        """
        hardware = self.on(what_for)
        bandwidth = hardware.number("bandwidth", BYTES_PER_SECOND, what_for)
        return lambda name: 1 / (bandwidth * hardware.efficiency_of(name, what_for))

    def traffic_joules(self, what_for: str) -> Fraction:
        """Give the joules that reading one byte takes beside the base power, c / B.

        Args:
            what_for: the limit that needs them.

        Returns:
            Joules per byte.
        """
        hardware = self.on(what_for)
        bandwidth = hardware.number("bandwidth", BYTES_PER_SECOND, what_for)
        return hardware.number("traffic_power", WATTS, what_for) / bandwidth

    def _seconds(self) -> Row:
        what_for = "a limit on speed"
        pace = self.pace(what_for)
        overhead = self.on(what_for).number("overhead", SECONDS, what_for)
        return self.of_traffic(SECONDS_PER_TOKEN, SECONDS, pace, overhead, PICO)

    def _joules(self) -> Row:
        what_for, rate = "a limit on energy", self.rate()
        base = self.on(what_for).number("base_power", WATTS, what_for)
        if rate is not None:
            joules = self.traffic_joules(what_for)
            shared = joules / self.batch
            return self.of_traffic(JOULES_PER_TOKEN, JOULES, lambda _: shared, base / rate / self.batch, NANO)
        return self._with_time(JOULES_PER_TOKEN, what_for, base)

    def _with_time(self, name: str, what_for: str, watts: Fraction) -> Row:
        """State (watts · t + c b / B) / n."""
        pace, joules = self.pace(what_for), self.traffic_joules(what_for)
        overhead = self.on(what_for).number("overhead", SECONDS, what_for)
        return self.of_traffic(
            name,
            JOULES,
            lambda format_name: (watts * pace(format_name) + joules) / self.batch,
            watts * overhead / self.batch,
            NANO,
        )

    def _watts(self) -> Row:
        what_for, rate = "a limit on power", self.rate()
        if rate is None:
            raise ScantlingError(
                "power as a row needs a rate, since at full speed it is no sum. State the workload's rate, such as "
                "26 tok/s; a limit on power, and solve with power as the objective, do without."
            )
        base = self.on(what_for).number("base_power", WATTS, what_for)
        per_byte = self.traffic_joules(what_for) * rate
        return self.of_traffic(POWER, WATTS, lambda _: per_byte, base, MICRO)

    def full_speed_power(self, name: str, at_most_watts: Fraction) -> Row:
        """State a limit on power at full speed as a row that must not be positive.

        With r = 1/t, P0 + c b / (B t) ≤ Pmax multiplies out to (P0 − Pmax) t + c b / B ≤ 0.

        Args:
            name: of the row.
            at_most_watts: Pmax.

        Returns:
            The row, in nanojoules per token; with n sequences each amount is divided by n.
        """
        what_for = "a limit on power"
        base = self.on(what_for).number("base_power", WATTS, what_for)
        return validate_range(self._with_time(name, what_for, base - at_most_watts))
