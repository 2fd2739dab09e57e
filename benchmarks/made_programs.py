"""Programs of realistic size, made from shapes and a seed: no model is needed to measure a solver."""

import math
import random
from dataclasses import dataclass

from scantling.solver.instance import DomainCosts, Instance, Row, Unit
from scantling.solver.rules import Distinct, Limit, Rule, Tie

GROUPS_OF_WEIGHTS = 64
QWEN_32B = {
    "q_proj": (5120, 5120),
    "k_proj": (1024, 5120),
    "v_proj": (1024, 5120),
    "o_proj": (5120, 5120),
    "gate_proj": (27648, 5120),
    "up_proj": (27648, 5120),
    "down_proj": (5120, 27648),
}
SMOLLM_135M = {
    "q_proj": (576, 576),
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "o_proj": (576, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
SENSITIVITY = {"q_proj": 2, "k_proj": 4, "v_proj": 30, "o_proj": 6, "gate_proj": 3, "up_proj": 4, "down_proj": 6}
FORMATS = {  # width, weights per group, efficiency of the kernel
    "int2-g64": (2, 64, 0.62),
    "int3-g64": (3, 64, 0.72),
    "int4-g64": (4, 64, 0.85),
    "int5-g64": (5, 64, 0.80),
    "int6-g64": (6, 64, 0.85),
    "int8-g64": (8, 64, 0.88),
    "int3-g128": (3, 128, 0.72),
    "int4-g128": (4, 128, 0.85),
}
BANDWIDTH = 2.039e12
WATTS_AT_FULL_BANDWIDTH, IDLE_WATTS, TOKENS_PER_SECOND = 237, 111, 26


@dataclass(frozen=True)
class LayerTable:
    """The tables of a made model."""

    units: tuple[Unit, ...]
    stored: tuple[tuple[int, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    weights: tuple[int, ...]
    formats: tuple[tuple[int, int, float], ...]


def make_layers(shapes: dict[str, tuple[int, int]], num_blocks: int, num_formats: int, seed: int) -> LayerTable:
    """Draw losses that fall by 3.6 a bit, with the spread over kinds and blocks that real profiles show."""
    draw = random.Random(seed)
    chosen = dict(list(FORMATS.items())[:num_formats])
    units, stored, losses, weights = [], [], [], []
    for block in range(num_blocks):
        depth = draw.lognormvariate(0, 0.5)
        for kind, (out_features, in_features) in shapes.items():
            num_weights = out_features * in_features
            scale = SENSITIVITY[kind] * depth * draw.lognormvariate(0, 0.4) * math.sqrt(num_weights) * 1e-8
            units.append(
                Unit(f"model.layers.{block}.{kind}", tuple(chosen), tuple(float(b) for b, _, _ in chosen.values()))
            )
            stored.append(
                tuple(
                    out_features
                    * (-(-in_features * bits // 8) + in_features // group * 2 + -(-in_features // group * bits // 8))
                    for bits, group, _ in chosen.values()
                )
            )
            losses.append(
                tuple(
                    scale * 3.6 ** (3 - bits) * (1.05 if group == 128 else 1.0) * draw.uniform(0.95, 1.05)
                    for bits, group, _ in chosen.values()
                )
            )
            weights.append(num_weights)
    return LayerTable(tuple(units), tuple(stored), tuple(losses), tuple(weights), tuple(chosen.values()))


def rows_of(layers: LayerTable) -> dict[str, Row]:
    """Stored bytes, seconds a token, watts at a demanded rate, bits times weights."""
    efficiencies = [efficiency for _, _, efficiency in layers.formats]
    seconds = tuple(
        tuple(math.ceil(b / (BANDWIDTH * e) * 1e12) for b, e in zip(row, efficiencies, strict=True))
        for row in layers.stored
    )
    watts_per_byte = WATTS_AT_FULL_BANDWIDTH * TOKENS_PER_SECOND / BANDWIDTH
    watts = tuple(tuple(math.ceil(b * watts_per_byte * 1e6) for b in row) for row in layers.stored)
    bit_weights = tuple(tuple(bits * w for bits, _, _ in layers.formats) for w in layers.weights)
    return {
        "memory": Row("memory", "bytes", layers.stored),
        "speed": Row("speed", "seconds", seconds, 0, 1e-12),
        "power": Row("power", "watts", watts, IDLE_WATTS * 10**6, 1e-6),
        "average_bits": Row("average_bits", "bits", bit_weights),
    }


def share_of_range(row: Row, share: float) -> int:
    """A bound that lies at this share of the way from the smallest plan to the largest."""
    low, high = (row.fixed + sum(pick(amounts) for amounts in row.amounts) for pick in (min, max))
    return low + round((high - low) * share)


def made_program(
    shapes: dict[str, tuple[int, int]],
    num_blocks: int,
    num_formats: int,
    shares: dict[str, float],
    seed: int,
    *,
    tied_and_distinct: bool = False,
) -> Instance:
    """Put a program together: limits at shares of their range, and where asked vLLM's ties and three formats in all."""
    layers = make_layers(shapes, num_blocks, num_formats, seed)
    rows = rows_of(layers)
    rules: list[Rule] = [Limit(name, name, at_most=share_of_range(rows[name], share)) for name, share in shares.items()]
    if tied_and_distinct:
        rules.append(Tie("q/k/v", tuple(tuple(range(7 * b, 7 * b + 3)) for b in range(num_blocks))))
        rules.append(Tie("gate/up", tuple((7 * b + 4, 7 * b + 5) for b in range(num_blocks))))
        rules.append(Distinct("three formats", tuple(range(len(layers.units))), 3))
    return Instance(
        layers.units, tuple(rows[name] for name in shares), (DomainCosts("made", layers.losses),), tuple(rules)
    )
