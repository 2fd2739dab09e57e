"""How far predictions hold, over a sweep of plans that were measured too.

The elastic range is where the second-order expansion holds. Going from light compression to heavy, it ends before the
first plan whose measured loss increase differs from the predicted one by more than a quarter, and by more than twice
the standard error of their ratio. Within it the mean of log(measured / predicted) is a correction, and its spread the
correction's error.

Knows nothing about how plans are measured or shown.
"""

import math
from collections.abc import Sequence

from ..common.records import Record
from .comparison import ComparisonEntry

_TOLERANCE = 0.25
_NUM_ERRORS = 2.0


class SweepPoint(Record):
    """One plan of the sweep.

    Attributes:
        name: ``uniform`` and its format, or ``solved`` and its average bits.
        average_bits: over the layers that the program decides.
        predicted_kl_nats: per token.
        measured_kl_nats: per token.
        ratio: measured / predicted.
        ratio_standard_error: from the standard errors of both; None for a single sequence.
        holds: whether the prediction holds.
        joint_kl_nats: predicted for the plan as a whole (sensitivity/joint.py), per token; None where unknown.
    """

    name: str
    average_bits: float
    predicted_kl_nats: float
    measured_kl_nats: float
    ratio: float
    ratio_standard_error: float | None
    holds: bool
    joint_kl_nats: float | None = None


class PredictionValidity(Record):
    """How far predictions hold for a model.

    Attributes:
        sweep_points: from the lightest compression to the heaviest, by predicted loss increase.
        elastic_limit_nats: the largest predicted loss increase below which all predictions hold; None where none does.
        correction: factor that corrects predictions within the elastic range; None where there is no range.
        correction_error: its spread from plan to plan, one standard deviation, relative.
    """

    sweep_points: tuple[SweepPoint, ...]
    elastic_limit_nats: float | None
    correction: float | None
    correction_error: float | None


def sweep_point(row: ComparisonEntry, joint_kl_nats: float | None = None) -> SweepPoint:
    """Check the prediction of one row of a comparison; the joint prediction is only recorded."""
    point = check_prediction(
        row.name,
        row.average_bits,
        (row.predicted_kl_nats, row.predicted_kl_standard_error_nats),
        (row.measured_kl_nats, row.measured_kl_standard_error_nats),
    )
    return point.model_copy(update={"joint_kl_nats": joint_kl_nats})


def check_prediction(
    name: str, average_bits: float, predicted: tuple[float, float | None], measured: tuple[float, float | None]
) -> SweepPoint:
    """Check one prediction.

    Args:
        name: of the plan.
        average_bits: of the plan.
        predicted: KL divergence per token and its standard error, None where unknown.
        measured: likewise.

    Returns:
        The point of the sweep.
    """
    ratio = measured[0] / predicted[0]
    error = None
    if predicted[1] is not None and measured[1] is not None:
        error = ratio * math.hypot(predicted[1] / predicted[0], measured[1] / measured[0])
    off = abs(ratio - 1)
    return SweepPoint(
        name=name,
        average_bits=average_bits,
        predicted_kl_nats=predicted[0],
        measured_kl_nats=measured[0],
        ratio=ratio,
        ratio_standard_error=error,
        holds=off <= _TOLERANCE or (error is not None and off <= _NUM_ERRORS * error),
    )


def prediction_validity(sweep_points: Sequence[SweepPoint]) -> PredictionValidity:
    """Find the elastic range and the correction from sweep points in any order."""
    ordered = sorted(sweep_points, key=lambda one: one.predicted_kl_nats)
    first_off = next((position for position, one in enumerate(ordered) if not one.holds), len(ordered))
    elastic = ordered[:first_off]
    logs = [math.log(one.ratio) for one in elastic]
    mean = math.fsum(logs) / len(logs) if logs else 0.0
    spread = math.sqrt(math.fsum((log - mean) ** 2 for log in logs) / (len(logs) - 1)) if len(logs) > 1 else None
    return PredictionValidity(
        sweep_points=tuple(ordered),
        elastic_limit_nats=elastic[-1].predicted_kl_nats if elastic else None,
        correction=math.exp(mean) if elastic else None,
        correction_error=spread,
    )
