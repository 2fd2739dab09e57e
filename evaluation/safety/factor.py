"""The factor of safety of a plan: how many times its degradation fits into what the model bears.

    factor = D_yield / (γ · D_plan)                        the least over the domains

D is the KL divergence from the original in nats per token. D_yield is where, on the way down a ladder of plans of the
same model, perplexity has risen by a stated offset; D_ultimate where the model has collapsed. γ ≥ 1 is what D_plan is
multiplied by for not having been measured: 1 for a measured plan, and for a predicted one a bound on measured /
predicted, taken from the rungs of the ladder that are loaded most like it.

The lower end of the factor's interval decides, not its estimate: documents are drawn anew, and yield and plan are found
again in every draw, so that a text that is hard for both does not count twice.

    margin = lower end / required factor − 1               passes where it is not negative

Knows nothing about command lines, nor how anything was measured.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ...common.errors import ScantlingError
from ..bootstrap import Interval
from ..cache import Formats
from ..quality import Quality
from .degradation_curve import Crossing, Floats
from .measured_sweep import MeasuredDomain, MeasuredSweep
from .record import DomainFactor, MeasuredPlan, PlanSafety, PredictionMargin


def judge_measured(
    sweep: MeasuredSweep, name: str, formats: Formats, measured: Mapping[str, Quality], required_factor: float
) -> PlanSafety:
    """Give the factors of a plan that was measured on the ladder's text.

    Args:
        sweep: that was measured.
        name: of the plan.
        formats: of every layer.
        measured: its quality by domain.
        required_factor: what the lower end is held against.

    Returns:
        The factors.

    Raises:
        ScantlingError: the plan does not differ from the original.
    """
    prediction_margin, factors = margin_of_measured(), []
    for one in sweep.domains:
        kl = np.array(measured[one.domain.name].kl_nats)
        if kl.min() <= 0:
            raise ScantlingError(
                f"{name} does not differ from the original by anything that can be measured (KL {kl.mean():.1e} nats "
                "per token), so it has no factor of safety."
            )
        factors.append(_factor(one, float(kl.mean()), one.resampling.means(kl), prediction_margin))
    return _least(sweep.plan_quality(name, formats, measured), prediction_margin, factors, required_factor)


def judge_predicted(sweep: MeasuredSweep, name: str, formats: Formats, required_factor: float) -> PlanSafety:
    """Give the factors of a plan that was only predicted.

    Args:
        sweep: that was measured.
        name: of the plan.
        formats: of every layer.
        required_factor: what the lower end is held against.

    Returns:
        The factors; γ is the largest of the domains.

    Raises:
        ScantlingError: nothing is predicted for the plan.
    """
    factors, prediction_margins = [], []
    for one in sweep.domains:
        predicted, _ = sweep.predicted(formats, one.domain.name)
        if predicted <= 0:
            raise ScantlingError(f"{name} is predicted to lose nothing, so it has no factor of safety.")
        prediction_margin = margin_of_predicted(
            predicted, sweep.predicted_and_measured(one), sweep.thresholds.bootstrap.confidence
        )
        factors.append(_factor(one, predicted, np.array(predicted), prediction_margin))
        prediction_margins.append(prediction_margin)
    largest = max(prediction_margins, key=lambda prediction_margin: prediction_margin.value)
    return _least(sweep.plan_quality(name, formats, {}), largest, factors, required_factor)


def _factor(
    one: MeasuredDomain, kl_nats: float, kl_replicates: Floats, prediction_margin: PredictionMargin
) -> DomainFactor:
    def against(crossing: Crossing) -> Interval:
        return one.resampling.interval(
            crossing.kl_nats / (prediction_margin.value * kl_nats),
            crossing.replicates / (prediction_margin.value * kl_replicates),
        )

    return DomainFactor(
        domain=one.domain.name,
        kl_nats=kl_nats,
        at_yield=against(one.at_yield),
        at_ultimate=against(one.at_ultimate),
        at_least_at_yield=not one.at_yield.reached,
        at_least_at_ultimate=not one.at_ultimate.reached,
    )


def _least(
    plan: MeasuredPlan, prediction_margin: PredictionMargin, factors: Sequence[DomainFactor], required_factor: float
) -> PlanSafety:
    governing = min(factors, key=lambda factor: factor.at_yield.lower)
    lower = governing.at_yield.lower
    return PlanSafety(
        plan=plan,
        prediction_margin=prediction_margin,
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


_NEIGHBOURS = 8.0  # rungs loaded up to so many times more or less tell how far a prediction may be off

_FEWEST_NEIGHBOURS = 3


def margin_of_measured() -> PredictionMargin:
    """Give γ of a plan that was measured on the text of the ladder.

    Returns:
        1: documents are drawn anew for plan and ladder together, so that the interval has the sampling error.
    """
    return PredictionMargin(
        value=1.0,
        mean_ratio=1.0,
        basis="measured",
        origin="the plan was measured on the ladder's own text; the sampling of that text is in the interval",
    )


def margin_of_predicted(
    predicted_nats: float, sweep_points: Sequence[tuple[float, float]], confidence: float
) -> PredictionMargin:
    """Bound measured / predicted for a further plan of about this load.

    With r the ratio of a rung, n the number of rungs predicted within eight times of the plan, and m and s mean and
    standard deviation of log r, the next ratio is below

        exp(m + t · s · √(1 + 1/n))

    at the one-sided confidence of an interval's end, t the quantile of Student's distribution with n − 1 degrees of
    freedom. The rungs are solved plans like it: what the optimiser gains from errors of the prices is in their ratios.

    Args:
        predicted_nats: of the plan.
        sweep_points: predicted and measured, of every rung.
        confidence: of a two-sided interval.

    Returns:
        γ, at least 1.

    Raises:
        ScantlingError: too few rungs are loaded like the plan.
    """
    logs = [
        math.log(measured / predicted)
        for predicted, measured in sweep_points
        if predicted_nats / _NEIGHBOURS <= predicted <= predicted_nats * _NEIGHBOURS and measured > 0
    ]
    if len(logs) < _FEWEST_NEIGHBOURS:
        raise ScantlingError(
            f"only {len(logs)} rungs of the ladder are predicted within {_NEIGHBOURS:g} times of {predicted_nats:.4g} "
            "nats: too few to say how far that prediction may be off. Measure the plan, or ask for a finer ladder with "
            "--points."
        )
    mean, deviation = float(np.mean(logs)), float(np.std(logs, ddof=1))
    student = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1))
    bound = math.exp(mean + student * deviation * math.sqrt(1 + 1 / len(logs)))
    return PredictionMargin(
        value=max(bound, 1.0),
        mean_ratio=math.exp(mean),
        basis="predicted",
        origin=f"bound on measured / predicted, from the {len(logs)} rungs predicted within {_NEIGHBOURS:g} times of "
        f"the plan, where it is {math.exp(mean):.2f} on average",
    )
