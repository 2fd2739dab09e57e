"""The factor of safety of a plan: how many times its degradation fits into what the model bears.

    factor = D_yield / (γ · D_plan)                        minimum over the domains

D is the KL divergence from the original in nats per token. D_yield is where, along a budget sweep of the same model,
perplexity has risen by a stated offset; D_ultimate where the model has collapsed. The prediction margin γ ≥ 1 allows
for a D_plan that was not measured: 1 for a measured plan, and for a predicted one an upper bound on measured /
predicted, taken from the sweep points with a similar prediction.

The lower bound of the factor's interval decides, not its estimate: documents are resampled, and yield and plan are
found again in every resample, so that a text that is hard for both does not count twice.

    margin = lower bound / required factor − 1             passes where it is at least 0

Knows nothing about command lines, nor how anything was measured.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ...common.errors import InputError
from ..bootstrap import Interval
from ..cache import Formats
from ..quality import Quality
from .degradation_curve import Crossing, Floats
from .measured_sweep import MeasuredDomain, MeasuredSweep
from .record import DomainFactor, MeasuredPlan, PlanSafety, PredictionMargin

_NEIGHBOURS = 8.0  # sweep points predicted within this ratio of a plan show how far its prediction may be off
_FEWEST_NEIGHBOURS = 3


def safety_of_measured(
    sweep: MeasuredSweep, name: str, formats: Formats, measured: Mapping[str, Quality], required_factor: float
) -> PlanSafety:
    """Give the factors of a plan that was measured on the sweep's text.

    Args:
        sweep: measured.
        name: of the plan.
        formats: of every layer.
        measured: the plan's quality by domain.
        required_factor: what the lower bound must reach.

    Returns:
        The factors.

    Raises:
        InputError: the plan does not differ from the original.
    """
    margin, factors = margin_of_measured(), []
    for one in sweep.domains:
        kl = np.array(measured[one.domain.name].kl_nats)
        if kl.min() <= 0:
            raise InputError(
                f"{name} does not differ measurably from the original (KL {kl.mean():.1e} nats per token), so it has "
                "no factor of safety."
            )
        factors.append(_factor(one, float(kl.mean()), one.resampling.means(kl), margin))
    return _minimum(sweep.plan_quality(name, formats, measured), margin, factors, required_factor)


def safety_of_predicted(sweep: MeasuredSweep, name: str, formats: Formats, required_factor: float) -> PlanSafety:
    """Give the factors of a plan that was only predicted.

    Args:
        sweep: measured.
        name: of the plan.
        formats: of every layer.
        required_factor: what the lower bound must reach.

    Returns:
        The factors; the prediction margin is the largest of the domains.

    Raises:
        InputError: no loss is predicted for the plan.
    """
    factors, margins = [], []
    for one in sweep.domains:
        predicted, _ = sweep.predicted(formats, one.domain.name)
        if predicted <= 0:
            raise InputError(f"{name} is predicted to lose nothing, so it has no factor of safety.")
        margin = margin_of_predicted(
            predicted, sweep.predicted_and_measured(one), sweep.thresholds.bootstrap.confidence
        )
        factors.append(_factor(one, predicted, np.array(predicted), margin))
        margins.append(margin)
    largest = max(margins, key=lambda margin: margin.value)
    return _minimum(sweep.plan_quality(name, formats, {}), largest, factors, required_factor)


def _factor(one: MeasuredDomain, kl_nats: float, kl_replicates: Floats, margin: PredictionMargin) -> DomainFactor:
    def against(crossing: Crossing) -> Interval:
        return one.resampling.interval(
            crossing.kl_nats / (margin.value * kl_nats),
            crossing.replicates / (margin.value * kl_replicates),
        )

    return DomainFactor(
        domain=one.domain.name,
        kl_nats=kl_nats,
        at_yield=against(one.at_yield),
        at_ultimate=against(one.at_ultimate),
        at_least_at_yield=not one.at_yield.reached,
        at_least_at_ultimate=not one.at_ultimate.reached,
    )


def _minimum(
    plan: MeasuredPlan, margin: PredictionMargin, factors: Sequence[DomainFactor], required_factor: float
) -> PlanSafety:
    governing = min(factors, key=lambda factor: factor.at_yield.lower)
    lower = governing.at_yield.lower
    return PlanSafety(
        plan=plan,
        prediction_margin=margin,
        domains=tuple(factors),
        factor=min(factor.at_yield.estimate for factor in factors),
        factor_lower=lower,
        ultimate_factor=min(factor.at_ultimate.estimate for factor in factors),
        ultimate_factor_lower=min(factor.at_ultimate.lower for factor in factors),
        governing_domain=governing.domain,
        required_factor=required_factor,
        margin=lower / required_factor - 1,
        passes=lower >= required_factor,
    )


def margin_of_measured() -> PredictionMargin:
    """Give 1: documents are resampled for plan and sweep together, so the interval holds the sampling error."""
    return PredictionMargin(
        value=1.0,
        mean_ratio=1.0,
        basis="measured",
        origin="the plan was measured on the sweep's own text; the sampling of that text is in the interval",
    )


def margin_of_predicted(
    predicted_nats: float, sweep_points: Sequence[tuple[float, float]], confidence: float
) -> PredictionMargin:
    """Bound measured / predicted for a further plan with about this prediction.

    With r the ratio of a sweep point, n the number of points predicted within eight times of the plan, and m and s mean
    and standard deviation of log r, the next ratio is below

        exp(m + t · s · √(1 + 1/n))

    at the one-sided confidence of an interval's end, t the quantile of Student's distribution with n − 1 degrees of
    freedom. The points are solved plans too: what the optimiser gains from errors of the prices is in their ratios.

    Args:
        predicted_nats: of the plan.
        sweep_points: predicted and measured nats of every sweep point.
        confidence: of a two-sided interval.

    Returns:
        The prediction margin γ, at least 1.

    Raises:
        InputError: too few points have a similar prediction.
    """
    logs = [
        math.log(measured / predicted)
        for predicted, measured in sweep_points
        if predicted_nats / _NEIGHBOURS <= predicted <= predicted_nats * _NEIGHBOURS and measured > 0
    ]
    if len(logs) < _FEWEST_NEIGHBOURS:
        raise InputError(
            f"only {len(logs)} points of the budget sweep are predicted within {_NEIGHBOURS:g} times of "
            f"{predicted_nats:.4g} nats: too few to bound the error of that prediction. Measure the plan, or give more "
            "--points."
        )
    mean, deviation = float(np.mean(logs)), float(np.std(logs, ddof=1))
    student = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1))
    bound = math.exp(mean + student * deviation * math.sqrt(1 + 1 / len(logs)))
    return PredictionMargin(
        value=max(bound, 1.0),
        mean_ratio=math.exp(mean),
        basis="predicted",
        origin=f"upper bound on measured / predicted, from the {len(logs)} sweep points predicted within "
        f"{_NEIGHBOURS:g} times of the plan, where it is {math.exp(mean):.2f} on average",
    )
