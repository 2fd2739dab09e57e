"""What there is to know of a plan beside its certificate, found out; diagnosis.py has the records.

Knows nothing about how any of it is shown.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..common.errors import SolverTimeout
from ..sensitivity.calibration.expert_coverage import expert_of
from ..sensitivity.cross_fit import CrossFit, cross_fit
from ..sensitivity.estimators.names import WITHOUT_UNIT
from ..sensitivity.profile import Profile
from ..sensitivity.profile_record import LayerRecord, RegimeRecord
from .baselines import naive_counterpart
from .diagnosis import Diagnosis, NaiveCounterpart
from .engine_cost import engine_cost
from .explanation import InfeasibleError
from .lowering import costs_by_domain
from .plan import Plan
from .solve import Search, choose_formats

NUM_FOLDS: Final = 4
_MUCH_BETTER: Final = 1.25
_MOST: Final = 0.5


def diagnose_plan(
    plan: Plan, profile: Profile, search: Search, *, with_cross_fit: bool = True, with_engine_cost: bool = True
) -> Diagnosis:
    """Diagnose a plan.

    Args:
        plan: the plan.
        profile: that it was solved from.
        search: solves variants of its program.
        with_cross_fit: whether such plans are priced on sequences that their solve did not see.
        with_engine_cost: whether the inference engine's rules are priced.

    Returns:
        The diagnosis.
    """
    priced, left_out = _cross_fit(plan, profile, search) if with_cross_fit else (None, None)
    cost = None
    if with_engine_cost:
        cost = engine_cost(profile, plan.program, plan.formats(), search.solver, search.settings)
    return Diagnosis(
        naive=naive_of(plan, profile),
        cross_fit=priced,
        cross_fit_left_out=left_out,
        engine_cost=cost,
        rare_experts=rare_experts(profile),
        num_experts=num_experts(profile),
        warnings=profile_warnings(profile),
    )


def naive_of(plan: Plan, profile: Profile) -> NaiveCounterpart | None:
    """Find what one would deploy within the plan's bytes without a program; None where no uniform is as small."""
    naive = naive_counterpart(profile, plan.formats())
    if naive is None:
        return None
    saved, error = profile.difference(naive.formats, plan.formats())
    return NaiveCounterpart(
        name=naive.name,
        stored_bytes=profile.stored_bytes(naive.formats),
        loss_increase_nats=profile.predict(naive.formats)[0],
        saved_nats=saved,
        saved_standard_error_nats=error,
    )


def _cross_fit(plan: Plan, profile: Profile, search: Search) -> tuple[CrossFit | None, str | None]:
    """Solve the plan's program on parts of the sequences; says why not where they are too few or have no plan."""
    if profile.num_samples < 2 * NUM_FOLDS:
        return None, (
            f"{profile.num_samples} pricing sequences are too few to price a plan on sequences that its solve did not "
            f"see: profile with --pricing-sequences {2 * NUM_FOLDS} or more."
        )
    robust = plan.program.loss.standard_errors > 0

    def solved_from(part: Profile) -> Mapping[str, str]:
        instance = replace(plan.program, domains=costs_by_domain(part, with_deviations=robust))
        return choose_formats(instance, search.solver, search.settings)

    try:
        return cross_fit(profile, solved_from, NUM_FOLDS), None
    except (InfeasibleError, SolverTimeout) as error:
        return None, f"Not priced on sequences that the solve did not see, since a part of them has {error}"


def rare_experts(profile: Profile) -> dict[str, int]:
    """Count the calibration tokens of each expert whose price is not known, by its path, in the order of the model."""
    found: dict[str, int] = {}
    for layer in profile.record.layers:
        coverage = layer.coverage
        if coverage is not None and coverage.is_rare and layer.is_decided:
            counted = (
                coverage.num_rounding_tokens if coverage.num_pricing_tokens is None else coverage.num_pricing_tokens
            )
            found[_expert(layer)] = min(counted, found.get(_expert(layer), counted))
    return found


def num_experts(profile: Profile) -> int:
    """Count a model's experts; 0 for a dense one."""
    return len({_expert(layer) for layer in profile.record.layers if layer.coverage is not None})


def _expert(layer: LayerRecord) -> str:
    return layer.name.removesuffix(layer.kind) + (expert_of(layer.kind) or "")


def profile_warnings(profile: Profile) -> tuple[str, ...]:
    """Say why predictions from a profile may not hold, a sentence each."""
    warnings = [*unit_warnings(profile), *silent_layer_warnings(profile)]
    regime = profile.record.regime
    if regime is not None:
        layers = profile.record.layers
        words = next((layer.out_features for layer in layers if layer.kind in {"embedding", "head"}), None)
        warnings += regime_warnings(regime, words)
    return tuple(warnings)


def unit_warnings(profile: Profile) -> list[str]:
    """Say where a profile's prices are no losses: one sentence, or none."""
    if profile.record.estimator not in WITHOUT_UNIT:
        return []
    return [
        f"the estimator {profile.record.estimator} ranks formats and predicts no loss: what is printed as nats of this "
        "profile and its plans is a sum of relative errors. Measure its plans with scantling compare."
    ]


def silent_layer_warnings(profile: Profile) -> list[str]:
    """Say which layers cost nothing in any format, since nothing passes through them: one sentence, or none."""
    decided = [
        (index, layer)
        for index, layer in enumerate(profile.record.layers)
        if layer.is_decided and not (layer.coverage is not None and layer.coverage.is_rare)
    ]
    silent = [layer.name for index, layer in decided if not profile.prices[index, list(layer.formats)].any()]
    if not silent:
        return []
    return [
        f"{len(silent)} layers cost nothing in any format, because their inputs, or all gradients behind them, are zero"
        f" on the calibration text (first: {silent[0]}). The program will give them the smallest format: check that "
        "the text is like what the model will read."
    ]


def regime_warnings(regime: RegimeRecord, vocabulary: int | None) -> list[str]:
    """Say where a model was measured outside its normal regime.

    Args:
        regime: as measured.
        vocabulary: words that the model knows; None where that is not recorded.

    Returns:
        A sentence for each symptom; none where there is none.
    """
    found = []
    if vocabulary is not None and regime.perplexity > vocabulary:
        found.append(
            f"the model's perplexity on the calibration text is {regime.perplexity:,.0f}, worse than a guess among its "
            f"{vocabulary:,} words: weights, tokenizer and text do not belong together, and no prediction will hold."
        )
    if regime.perplexity_with_bos is not None and regime.perplexity > _MUCH_BETTER * regime.perplexity_with_bos:
        found.append(
            f"the model's perplexity on the calibration text is {regime.perplexity:.2f}, and "
            f"{regime.perplexity_with_bos:.2f} with its BOS token in front, which its tokenizer does not put there: it "
            "is measured outside its normal regime, and predictions will not hold. Set add_bos_token in the "
            "tokenizer's configuration."
        )
    if regime.first_token_share is not None and regime.first_token_share > _MOST:
        found.append(
            f"{regime.first_token_share:.0%} of the predicted loss increase comes through the first token of a "
            "sequence: look at how sequences begin, the model may be outside its normal regime."
        )
    return found
