"""The reference case: a 32B-class model from 61 to 18 GB, 26 to about 70 tokens per second, 295 to 165 W.

The shapes of Qwen2.5-32B, from its configuration alone, give the bytes. Two speeds fix η and t0, two powers P0 and c:
four parameters from four numbers, so that speeds and powers are met by construction and test nothing. What is left to
check are the bytes, whether the parameters are plausible, and under which reading the powers fit at all.

Knows nothing about terminals.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from known_shapes import QWEN2_5_32B, Qwen2Shapes
from scantling.common.units import BYTES_PER_SECOND
from scantling.evaluation.prediction import ORIGINAL, Prediction, Use, predict
from scantling.hardware.decode_laws import ReadBytes
from scantling.hardware.resources import Rows
from scantling.hardware.specification import Hardware, load_hardware
from scantling.hardware.workload import Workload
from scantling.quantization.formats import parse_format
from scantling.sensitivity.profile import Profile
from scantling.sensitivity.profile_record import LayerRecord, ProfileRecord

FORMAT: Final = "int4-g128"
HARDWARE: Final = "a100-80gb-reference"
PUBLISHED_HARDWARE: Final = "a100-80gb"
ARTICLE_BYTES: Final = (61 * 2**30, 18 * 2**30)
ARTICLE_SPEEDS: Final = (26.0, 70.0)
ARTICLE_WATTS: Final = (295.0, 165.0)
_FORMATS: Final = (FORMAT, "float16")


@dataclass(frozen=True)
class FittedCase:
    """Parameters that meet the article's numbers exactly.

    Attributes:
        efficiency: η.
        overhead_seconds: t0.
        base_watts: P0, at equal throughput.
        traffic_watts: c, at equal throughput.
        base_watts_at_full_speeds: P0 if each power was drawn at its own full speed.
        traffic_watts_at_full_speeds: c likewise.
    """

    efficiency: float
    overhead_seconds: float
    base_watts: float
    traffic_watts: float
    base_watts_at_full_speeds: float
    traffic_watts_at_full_speeds: float


@dataclass(frozen=True)
class ReferenceCase:
    """The case.

    Attributes:
        stored_bytes: of the original and of the plan.
        read_bytes: for one token, likewise.
        prediction: by the hardware file that is fitted to the case, at the original's throughput.
        published: the same on the hardware file that is fitted to published speeds.
        fitted: what the article's numbers ask for exactly.
    """

    stored_bytes: tuple[int, int]
    read_bytes: tuple[int, int]
    prediction: Prediction
    published: Prediction
    fitted: FittedCase


def shapes_profile(shapes: Qwen2Shapes, name: str, format_names: tuple[str, ...] = _FORMATS) -> Profile:
    """Make a profile of shapes alone: bytes are exact, prices are not numbers.

    Args:
        shapes: the model.
        name: what to call it.
        format_names: offered to the matrices of the blocks; the ends stay in the last.

    Returns:
        The profile; it cannot be written or solved.
    """
    layers = []
    for shape in shapes.shapes():
        offered = tuple(range(len(format_names))) if shape.block is not None else (len(format_names) - 1,)
        sizes = (parse_format(format_names[k]).stored_bytes(shape.out_features, shape.in_features) for k in offered)
        layers.append(
            LayerRecord(
                name=shape.name,
                kind=shape.kind,
                block=shape.block,
                out_features=shape.out_features,
                in_features=shape.in_features,
                formats=offered,
                stored_bytes=tuple(sizes),
            )
        )
    record = ProfileRecord(
        scantling_version="",
        model_source=name,
        model_sha256="",
        text_source="",
        text_sha256="",
        sequence_length=0,
        seed=0,
        estimator="none: shapes alone",
        rounding={},
        calibration_perplexity=0.0,
        formats=format_names,
        layers=tuple(layers),
        other_bytes=2 * shapes.num_other_parameters,
        config={
            "num_hidden_layers": shapes.num_hidden_layers,
            "hidden_size": shapes.hidden_size,
            "num_attention_heads": shapes.num_attention_heads,
            "num_key_value_heads": shapes.num_key_value_heads,
        },
    )
    unpriced = np.full((len(layers), len(format_names), 1), np.nan)
    return Profile(record, unpriced, np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int64))


def reference_case() -> ReferenceCase:
    """Work the case out.

    Returns:
        The case.
    """
    profile = shapes_profile(QWEN2_5_32B, "shapes of Qwen2.5-32B")
    plan = {layer.name: FORMAT if layer.block is not None else "float16" for layer in profile.record.layers}
    entries = {f"uniform {FORMAT}": plan, ORIGINAL: None}
    hardware, rows = load_hardware(HARDWARE), Rows(profile)
    read = (rows.read_bytes(None), rows.read_bytes(plan))
    work = Workload(rate=f"{ARTICLE_SPEEDS[0]:g} tok/s")
    prediction = predict(profile, entries, Use(hardware, work))
    small, large = prediction.entries
    return ReferenceCase(
        stored_bytes=(large.stored_bytes, small.stored_bytes),
        read_bytes=(_total(read[0]), _total(read[1])),
        prediction=prediction,
        published=predict(profile, entries, Use(load_hardware(PUBLISHED_HARDWARE), Workload())),
        fitted=fitted_case(_total(read[0]), _total(read[1]), hardware),
    )


def _total(read: ReadBytes) -> int:
    return round(sum(read.values()))


def fitted_case(large_bytes: int, small_bytes: int, hardware: Hardware) -> FittedCase:
    """Solve the four equations.

    Args:
        large_bytes: read for one token of the original.
        small_bytes: of the plan.
        hardware: its bandwidth.

    Returns:
        The parameters.
    """
    bandwidth = float(hardware.number("bandwidth", BYTES_PER_SECOND, "the reference case"))
    read = np.array([large_bytes, small_bytes], dtype=np.float64)
    speeds, watts = np.array(ARTICLE_SPEEDS), np.array(ARTICLE_WATTS)
    pace, overhead = np.linalg.solve(np.stack([read, np.ones(2)], axis=1), 1 / speeds)

    def power_law(rates: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
        traffic, base = np.linalg.solve(np.stack([read * rates / bandwidth, np.ones(2)], axis=1), watts)
        return float(base), float(traffic)

    return FittedCase(
        float(1 / (pace * bandwidth)),
        float(overhead),
        *power_law(np.full(2, speeds[0])),
        *power_law(speeds),
    )
