"""γ: what a plan's KL divergence is multiplied by before it is held against what the model bears.

As in structures (ECSS-E-ST-32-10), what was only computed carries a larger factor than what was tested.

Knows nothing about plans.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from ..solver.errors import ScantlingError
from .safety_file import Gamma

_NEIGHBOURS = 8.0  # rungs loaded up to so many times more or less tell how far a prediction may be off
_FEWEST_NEIGHBOURS = 3


def gamma_of_measured() -> Gamma:
    """Give γ of a plan that was measured on the text of the ladder.

    Returns:
        1: documents are drawn anew for plan and ladder together, so that the interval has the sampling error.
    """
    return Gamma(
        value=1.0,
        mean_ratio=1.0,
        basis="measured",
        origin="the plan was measured on the ladder's own text; the sampling of that text is in the interval",
    )


def gamma_of_predicted(predicted_nats: float, rungs: Sequence[tuple[float, float]], confidence: float) -> Gamma:
    """Bound measured / predicted for a further plan of about this load.

    With r the ratio of a rung, n the number of rungs predicted within eight times of the plan, and m and s mean and
    standard deviation of log r, the next ratio is below

        exp(m + t · s · √(1 + 1/n))

    at the one-sided confidence of an interval's end, t the quantile of Student's distribution with n − 1 degrees of
    freedom. The rungs are solved plans like it: what the optimiser gains from errors of the prices is in their ratios.

    Args:
        predicted_nats: of the plan.
        rungs: predicted and measured, of every rung.
        confidence: of a two-sided interval.

    Returns:
        γ, at least 1.

    Raises:
        ScantlingError: too few rungs are loaded like the plan.
    """
    logs = [
        math.log(measured / predicted)
        for predicted, measured in rungs
        if predicted_nats / _NEIGHBOURS <= predicted <= predicted_nats * _NEIGHBOURS and measured > 0
    ]
    if len(logs) < _FEWEST_NEIGHBOURS:
        raise ScantlingError(
            f"only {len(logs)} rungs of the ladder are predicted within {_NEIGHBOURS:g} times of {predicted_nats:.4g} "
            "nats: too few to say how far that prediction may be off. Measure the plan, or ask for a finer ladder with "
            "--rungs."
        )
    mean, deviation = float(np.mean(logs)), float(np.std(logs, ddof=1))
    student = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1))
    bound = math.exp(mean + student * deviation * math.sqrt(1 + 1 / len(logs)))
    return Gamma(
        value=max(bound, 1.0),
        mean_ratio=math.exp(mean),
        basis="predicted",
        origin=f"bound on measured / predicted, from the {len(logs)} rungs predicted within {_NEIGHBOURS:g} times of "
        f"the plan, where it is {math.exp(mean):.2f} on average",
    )
