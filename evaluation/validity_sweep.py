"""The ladder of plans from 8 bits down to 2, uniform and solved, that a map of truth is measured on.

Knows nothing about terminals.
"""

from collections.abc import Callable, Sequence

from ..common.errors import ScantlingError
from ..common.progress import Progress
from ..models.loading import LoadedModel
from ..planning.baselines import Baseline, baselines
from ..planning.plan import Plan
from ..quantization.methods import rounding_method
from ..sensitivity.estimators.names import WITHOUT_UNIT
from ..sensitivity.joint import joint_samples
from ..sensitivity.profile import Profile, decided_layers
from .compare import EvaluationSettings, measured_beside
from .prediction_validity import PredictionValidity, judge, sweep_point

SWEEP_BITS = (2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)


def measure_prediction_validity(
    loaded: LoadedModel,
    profile: Profile,
    solve: Callable[[float], Plan],
    settings: EvaluationSettings,
    progress: Progress,
) -> PredictionValidity:
    """Measure the ladder.

    Args:
        loaded: the original model.
        profile: of this model.
        solve: gives the plan for a number of average bits.
        settings: what is measured on.
        progress: shows how far the work is.

    Returns:
        The map.

    Raises:
        ScantlingError: the estimator does not predict a loss.
    """
    if profile.record.estimator in WITHOUT_UNIT:
        raise ScantlingError(
            "the estimator output-error ranks formats and predicts no loss, so there is nothing to check."
        )
    decided = decided_layers(profile)
    everywhere = [
        name
        for position, name in enumerate(profile.record.formats)
        if all(position in layer.formats for layer in decided) and not name.endswith("float16")
    ]
    plans: dict[str, Plan] = {}
    for bits in SWEEP_BITS:
        try:
            plans[f"solved at {bits:g} bits"] = solve(bits)
        except ScantlingError:  # outside the range of this profile's formats
            continue
    solved = [Baseline(name, plan.formats(), is_plan=True) for name, plan in plans.items()]
    everyone = [*solved, *baselines(profile, {}, everywhere)]
    as_wholes = _joint_prices(loaded, profile, everyone, progress)
    rows = measured_beside(loaded, profile, everyone, settings, progress).rows
    shown = [row for row in rows if row.predicted_kl_nats > 0 and row.measured_kl_nats > 0]
    return judge([sweep_point(row, as_wholes.get(row.name)) for row in shown])


def _joint_prices(
    loaded: LoadedModel, profile: Profile, everyone: Sequence[Baseline], progress: Progress
) -> dict[str, float]:
    """Price plans as wholes; none where the rounding scales inputs, which is done to a loaded model only once."""
    if rounding_method(profile.record.rounding).input_scaling is not None:
        return {}
    found = joint_samples(loaded, profile, {one.name: one.formats for one in everyone}, progress)
    return {name: samples.price() for name, samples in found.items()}
