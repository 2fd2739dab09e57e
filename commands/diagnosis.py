"""What a command finds out about a plan before it prints it.

Knows nothing about printing.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..common.errors import ScantlingError

if TYPE_CHECKING:
    from ..planning.diagnosis import Diagnosis, NaiveCounterpart
    from ..planning.engine_cost import EngineCost
    from ..planning.plan import Plan
    from ..sensitivity.cross_fit import CrossFit
    from ..sensitivity.profile import Profile

_NUM_FOLDS = 4
Choose = Callable[["Profile"], Mapping[str, str]]


def diagnose(
    plan: "Plan", profile: "Profile", *, choose: Choose | None = None, engine_cost: "EngineCost | None" = None
) -> "Diagnosis":
    """Diagnose a plan; ``choose`` solves its program for a part of the profile, None leaves out the cross-fit."""
    from ..planning.diagnosis import Diagnosis
    from ..reporting.terminal.diagnostics import num_experts, rare_experts, silent_layer_warnings, unit_warnings

    priced, left_out = (None, None) if choose is None else _cross_fit(profile, choose)
    return Diagnosis(
        naive=naive_counterpart(profile, plan),
        cross_fit=priced,
        cross_fit_left_out=left_out,
        engine_cost=engine_cost,
        rare_experts=rare_experts(profile),
        num_experts=num_experts(profile),
        warnings=(*unit_warnings(profile), *silent_layer_warnings(profile)),
    )


def _cross_fit(profile: "Profile", choose: Choose) -> "tuple[CrossFit | None, str | None]":
    from ..sensitivity.cross_fit import cross_fit

    num_sequences = profile.samples.shape[2]
    if num_sequences < 2 * _NUM_FOLDS:
        return None, (
            f"{num_sequences} pricing sequences are too few to price a plan on sequences that its solve did not see: "
            f"profile with --pricing-sequences {2 * _NUM_FOLDS} or more."
        )
    try:
        return cross_fit(profile, choose, _NUM_FOLDS), None
    except ScantlingError as error:
        return None, f"Not priced on sequences that the solve did not see, since a part of them has {error}"


def naive_counterpart(profile: "Profile", plan: "Plan") -> "NaiveCounterpart | None":
    """Find what one would deploy within the plan's bytes without a program; None where no uniform is as small."""
    from ..planning.baselines import SAME_BYTES, baselines
    from ..planning.diagnosis import NaiveCounterpart

    try:
        naive = baselines(profile, plan.formats(), [SAME_BYTES])[0]
    except ScantlingError:  # the plan is smaller than any uniform
        return None
    saved, error = predicted_difference(profile, naive.formats, plan.formats())
    return NaiveCounterpart(
        name=naive.name,
        stored_bytes=profile.stored_bytes(naive.formats),
        loss_increase_nats=profile.predict(naive.formats)[0],
        saved_nats=saved,
        saved_standard_error_nats=error,
    )


def predicted_difference(
    profile: "Profile", first: dict[str, str], second: dict[str, str]
) -> tuple[float, float | None]:
    """Predict by how much one set of formats loses more than another, sample by sample.

    Args:
        profile: the prices.
        first: the format of every layer.
        second: likewise.

    Returns:
        The mean over the samples and its standard error; None with a single sample.
    """
    index = profile.format_index
    differing = [name for name in first if first[name] != second[name]]
    totals = sum(
        (
            profile.samples[profile.layer_index[name], index[first[name]]]
            - profile.samples[profile.layer_index[name], index[second[name]]]
            for name in differing
        ),
        start=0 * profile.samples[0, profile.record.layers[0].formats[0]],
    )
    error = float(totals.std(ddof=1)) / math.sqrt(len(totals)) if len(totals) > 1 else None
    return float(totals.mean()), error
