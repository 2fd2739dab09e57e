"""How far predictions can be trusted, in words.

Knows nothing about how anything was measured.
"""

import math
from collections.abc import Mapping, Sequence

from rich.console import Console

from ...common.units import render_bytes
from ...evaluation.prediction_validity import PredictionValidity
from ...planning.diagnose import num_experts, profile_warnings, rare_experts
from ...planning.engine_cost import EngineCost, Saved
from ...planning.plan import Plan
from ...sensitivity.calibration.expert_coverage import FEWEST_TOKENS
from ...sensitivity.cross_fit import CrossFit
from ...sensitivity.profile import Profile
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
    print_warnings(list(profile_warnings(profile)), console)


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


def print_stacked_experts(names: Sequence[str], num_bytes: int, architecture: str, console: Console) -> None:
    """Warn of expert tensors that are no layers and stay in 16 bits."""
    if names:
        warning = (
            f"{len(names)} tensors of three dimensions are no layers and stay in 16 bits, {render_bytes(num_bytes)} "
            f"(first: {names[0]}): {architecture} does not call its experts in a way that scantling can split."
        )
        print_warnings([warning], console)
