"""The sweep of plans from 8 bits down to 2, uniform and solved, that the validity of predictions is measured on.

Knows nothing about terminals.
"""

from collections.abc import Callable, Sequence

from ..common.errors import InputError, OutOfRangeError
from ..common.progress import Progress
from ..models.loading import LoadedModel
from ..planning.baselines import Baseline, baselines
from ..planning.explanation import InfeasibleError
from ..planning.plan import Plan
from ..quantization.methods import rounding_method
from ..sensitivity.estimators.names import WITHOUT_UNIT
from ..sensitivity.joint import joint_samples
from ..sensitivity.profile import Profile, decided_layers
from .compare import EvaluationSettings, measured_beside
from .prediction_validity import PredictionValidity, prediction_validity, sweep_point

SWEEP_BITS = (2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)


def measure_prediction_validity(
    loaded: LoadedModel,
    profile: Profile,
    solve: Callable[[float], Plan],
    settings: EvaluationSettings,
    progress: Progress,
) -> PredictionValidity:
    """Measure plans of falling budgets, and compare them with their predictions.

    Args:
        loaded: the original model.
        profile: of this model.
        solve: gives the plan for a budget of average bits.
        settings: what is measured on.
        progress: shows how far the work is.

    Returns:
        How far predictions hold.

    Raises:
        InputError: the estimator does not predict a loss.
    """
    if profile.record.estimator in WITHOUT_UNIT:
        raise InputError("the estimator output-error ranks formats and predicts no loss, so there is nothing to check.")
    assignments = [*_solved(solve), *baselines(profile, {}, _offered_everywhere(profile))]
    joint = _joint_prices(loaded, profile, assignments, progress)
    rows = measured_beside(loaded, profile, assignments, settings, progress).rows
    comparable = [row for row in rows if row.predicted_kl_nats > 0 and row.measured_kl_nats > 0]
    return prediction_validity([sweep_point(row, joint.get(row.name)) for row in comparable])


def _solved(solve: Callable[[float], Plan]) -> list[Baseline]:
    """Solve for every budget that the profile's formats can meet."""
    found = []
    for bits in SWEEP_BITS:
        try:
            plan = solve(bits)
        except (OutOfRangeError, InfeasibleError):  # above every plan, or below
            continue
        found.append(Baseline(f"solved at {bits:g} bits", plan.formats(), is_plan=True))
    return found


def _offered_everywhere(profile: Profile) -> list[str]:
    """List the quantized formats that every decided layer is offered."""
    decided = decided_layers(profile)
    return [
        name
        for position, name in enumerate(profile.record.formats)
        if all(position in layer.formats for layer in decided) and not name.endswith("float16")
    ]


def _joint_prices(
    loaded: LoadedModel, profile: Profile, assignments: Sequence[Baseline], progress: Progress
) -> dict[str, float]:
    """Price plans as wholes; empty where the rounding scales inputs, which a loaded model takes only once."""
    if rounding_method(profile.record.rounding).input_scaling is not None:
        return {}
    found = joint_samples(loaded, profile, {one.name: one.formats for one in assignments}, progress)
    return {name: samples.price() for name, samples in found.items()}
