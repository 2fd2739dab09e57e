"""How far predictions can be trusted, in words.

Knows nothing about how anything was measured.
"""

import math
from collections.abc import Mapping, Sequence

from rich.console import Console

from ...common.units import render_bytes
from ...evaluation.prediction_validity import PredictionValidity
from ...planning.engine_cost import EngineCost, Saved
from ...planning.plan import Plan
from ...sensitivity.calibration.expert_coverage import FEWEST_TOKENS, expert_of
from ...sensitivity.cross_fit import CrossFit
from ...sensitivity.estimators.names import WITHOUT_UNIT
from ...sensitivity.profile import LayerRecord, Profile, RegimeRecord
from .lines import print_warnings
from .tables import fitting_table, name_column, number_columns

_MARKED = 1.05
_MUCH_BETTER = 1.25
_MOST = 0.5
_MOST_NAMED = 5


def cross_fit_sentence(predicted_nats: float, priced: CrossFit) -> str:
    """Put a cross-fit of a plan whose predicted loss increase is ``predicted_nats`` into a sentence or two."""
    sentence = (
        f"Such plans, solved from {priced.num_folds - 1} of {priced.num_folds} parts of the sequences, cost "
        f"{priced.unseen_nats:.4f}±{priced.unseen_standard_error_nats:.4f} nats on the part that their solve did not "
        f"see and {priced.seen_nats:.4f} on those that it did: {priced.optimism:.2f} ×."
    )
    if priced.optimism > _MARKED:
        sentence += (
            f" So expect about {predicted_nats * priced.optimism:.4f} nats of this plan; more --pricing-sequences "
            "bring the two together."
        )
    return sentence


def cross_fit_expectation(plan: Plan, priced: CrossFit) -> str | None:
    """What a plan should cost on text that its solve did not see; None where that is what it is predicted to cost."""
    if priced.optimism <= _MARKED:
        return None
    return f"expect about {plan.loss_increase_nats * priced.optimism:.4f} nats, {priced.optimism:.2f} × the prediction"


def engine_cost_sentence(cost: EngineCost, plan_nats: float) -> str:
    """Put the cost of an engine's rules into a sentence; ``plan_nats`` is of the plan that keeps them."""
    said = []
    if cost.without_ties is not None:
        said.append(f"its ties cost {_describe_saving(cost.without_ties, plan_nats)}")
    if cost.without_rules is not None:
        together = "together with the formats that it does not load, " if cost.without_ties is not None else ""
        what = "they cost" if together else "the formats that it does not load cost"
        said.append(f"{together}{what} {_describe_saving(cost.without_rules, plan_nats)}")
    return f"For the engine {cost.engine}, predicted, at the same limits: {'; '.join(said)}."


def _describe_saving(saved: Saved, plan_nats: float) -> str:
    bound = "" if saved.is_proven else "at least "  # a better plan without the rules may exist
    if saved.nats == 0.0 and saved.is_proven:
        return "nothing"
    share = f" ({saved.nats / plan_nats:.0%})" if plan_nats > 0 else ""
    error = "" if math.isnan(saved.standard_error_nats) else f"±{saved.standard_error_nats:.2g}"
    return f"{bound}{saved.nats:.4g}{error} nats per token{share}"


def print_prediction_validity(found: PredictionValidity, console: Console) -> None:
    """Print how far predictions hold, plan by plan."""
    headings = ("bits", "predicted", "measured", "measured /\npredicted", "holds", "as a\nwhole", "ratio to\nwhole")
    rows = []
    for one in found.sweep_points:
        error = "" if one.ratio_standard_error is None else f"±{one.ratio_standard_error:.2f}"
        rows.append((
            one.name,
            f"{one.average_bits:.2f}",
            f"{one.predicted_kl_nats:.5f}",
            f"{one.measured_kl_nats:.5f}",
            f"{one.ratio:.2f}{error}",
            "yes" if one.holds else "no",
            "" if one.joint_kl_nats is None else f"{one.joint_kl_nats:.5f}",
            "" if not one.joint_kl_nats else f"{one.measured_kl_nats / one.joint_kl_nats:.2f}",
        ))
    columns = (name_column("KL, nats\nper token"), *number_columns(*headings))
    console.print(fitting_table(columns, rows, console.width))
    console.print(
        "Predicted: the sum of the layers' prices, which the program minimises. As a whole: with what the errors of "
        "the layers have in common, as solve --joint predicts."
    )
    if found.elastic_limit_nats is None or found.correction is None:
        console.print("The elastic range is empty: not even the lightest prediction holds.")
        return
    error = "" if found.correction_error is None else f" ± {found.correction_error:.0%} from plan to plan"
    console.print(
        f"The elastic range ends at a predicted loss increase of {found.elastic_limit_nats:.4f} nats. Within it "
        f"measured is {found.correction:.3f} × predicted{error}; predictions are printed without this correction."
    )


def print_regime(profile: Profile, console: Console) -> None:
    """Warn where predictions from a profile may not hold."""
    warnings = [*unit_warnings(profile), *silent_layer_warnings(profile)]
    regime = profile.record.regime
    if regime is not None:
        vocabulary = next(one.out_features for one in profile.record.layers if one.kind in {"embedding", "head"})
        warnings += regime_warnings(regime, vocabulary)
    print_warnings(warnings, console)


def unit_warnings(profile: Profile) -> list[str]:
    """Warn where a profile's prices are not losses."""
    if profile.record.estimator not in WITHOUT_UNIT:
        return []
    return [
        f"the estimator {profile.record.estimator} ranks formats and predicts no loss: what is printed as nats of this "
        "profile and its plans is a sum of relative errors. Measure its plans with scantling compare."
    ]


def silent_layer_warnings(profile: Profile) -> list[str]:
    """Warn of layers whose every format costs nothing, since calibration sends nothing through them."""
    decided = [
        (index, layer)
        for index, layer in enumerate(profile.record.layers)
        if len(layer.formats) > 1 and not (layer.coverage is not None and layer.coverage.is_rare)
    ]
    silent = [layer.name for index, layer in decided if not profile.prices[index, list(layer.formats)].any()]
    if not silent:
        return []
    return [
        f"{len(silent)} layers cost nothing in any format, because their inputs, or all gradients behind them, are zero"
        f" on the calibration text (first: {silent[0]}). The program will give them the smallest format: check that "
        "the text is like what the model will read."
    ]


def regime_warnings(regime: RegimeRecord, vocabulary: int) -> list[str]:
    """Warn where the model was measured outside its normal regime; ``vocabulary`` counts the words that it knows."""
    found = []
    if regime.perplexity > vocabulary:
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


def rare_experts_sentence(rare: Mapping[str, int], num_experts: int) -> str:
    """Name the experts whose prices are not known, and say how they are priced."""
    named = ", ".join(f"{expert} ({tokens})" for expert, tokens in list(rare.items())[:_MOST_NAMED])
    more = f" and {len(rare) - _MOST_NAMED} more" if len(rare) > _MOST_NAMED else ""
    return (
        f"{len(rare)} of {num_experts} experts were reached by fewer than {FEWEST_TOKENS} calibration tokens (in "
        f"brackets), so the cost of their formats is not known: {named}{more}. Each is priced as its most expensive "
        "measured sibling, in the predicted loss too; without one it keeps the finest format. More, or more varied, "
        "text reaches more experts."
    )


def print_rarely_covered(profile: Profile, console: Console) -> None:
    """Warn of experts whose prices are not known."""
    experts = rare_experts(profile)
    if experts:
        print_warnings([rare_experts_sentence(experts, num_experts(profile))], console)


def rare_experts(profile: Profile) -> dict[str, int]:
    """Count the tokens that reached each expert whose price is not known, by its path, in the model's order."""
    found: dict[str, int] = {}
    for layer in profile.record.layers:
        coverage = layer.coverage
        if coverage is not None and coverage.is_rare and len(layer.formats) > 1:
            counted = (
                coverage.num_rounding_tokens if coverage.num_pricing_tokens is None else coverage.num_pricing_tokens
            )
            found[_expert(layer)] = min(counted, found.get(_expert(layer), counted))
    return found


def num_experts(profile: Profile) -> int:
    """Count the experts of a model; 0 for a dense one."""
    return len({_expert(layer) for layer in profile.record.layers if layer.coverage is not None})


def _expert(layer: LayerRecord) -> str:
    return layer.name.removesuffix(layer.kind) + (expert_of(layer.kind) or "")


def print_stacked_experts(names: Sequence[str], num_bytes: int, architecture: str, console: Console) -> None:
    """Warn of expert tensors that are no layers and stay in 16 bits."""
    if names:
        warning = (
            f"{len(names)} tensors of three dimensions are no layers and stay in 16 bits, {render_bytes(num_bytes)} "
            f"(first: {names[0]}): {architecture} does not call its experts in a way that scantling can split."
        )
        print_warnings([warning], console)
