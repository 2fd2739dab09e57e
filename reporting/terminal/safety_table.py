"""Factors of safety in the terminal.

Knows nothing about how they were found.
"""

import math

from rich.console import Console

from ...evaluation.bootstrap import Interval
from ...evaluation.safety.record import DomainCurve, MeasuredPlan, PlanSafety, SafetyFile, ThresholdPoint
from ...planning.plan import SafetyClaim
from .tables import fitting_table, name_column, number_columns


def print_safety(safety: SafetyFile, console: Console) -> None:
    """Print a line of verdict a plan, then the budget sweep, yield and collapse, and the factors."""
    for plan in safety.plans:
        console.print(verdict(plan), style="bold green" if plan.passes else "bold red")
        needed = documents_to_decide(safety, plan)
        if needed is not None:
            console.print(
                f"      The estimate reaches what is required, its lower end does not: about {needed} documents would "
                "decide (an estimate). Measure on more with --sequences."
            )
    console.print()
    for curve in safety.curves:
        _print_sweep(safety, curve, console)
    _print_factors(safety, console)


def verdict(plan: PlanSafety) -> str:
    """Say in one line whether a plan passes."""
    governing = next(domain for domain in plan.domains if domain.domain == plan.governing_domain)
    at_least = "at least " if governing.at_least_at_yield else ""
    return (
        f"{'PASS' if plan.passes else 'FAIL'}: {plan.plan.name}: factor of safety {at_least}{plan.factor:.2f}, lower "
        f"bound {plan.factor_lower:.2f}, required {plan.required_factor:g}: margin {plan.margin:+.2f} "
        f"({plan.prediction_margin.basis}, γ = {plan.prediction_margin.value:.2f})"
    )


def documents_to_decide(safety: SafetyFile, plan: PlanSafety) -> int | None:
    """Estimate how many documents would tell whether a factor is above what is required.

    An interval's width falls with the square root of the number of documents n; on the scale of log factors

        needed = n · (log(factor / lower end) / log(factor / required))²

    Args:
        safety: the file.
        plan: its factors.

    Returns:
        The number; None where the lower end decides already, or the estimate itself is too low.
    """
    if plan.passes:
        return None
    domain = next(domain for domain in plan.domains if domain.domain == plan.governing_domain)
    if domain.at_yield.estimate <= plan.required_factor:
        return None
    curve = next(curve for curve in safety.curves if curve.domain == plan.governing_domain)
    width = math.log(domain.at_yield.estimate / domain.at_yield.lower)
    return math.ceil(curve.num_documents * (width / math.log(domain.at_yield.estimate / plan.required_factor)) ** 2)


def describe_safety(claim: SafetyClaim) -> str:
    """Say in one line what a plan claims about its factor of safety."""
    found = f"factor of safety {claim.factor:.2f}, lower bound {claim.factor_lower:.2f}, required "
    found += f"{claim.required_factor:g}; {claim.num_solves} solve{'s' if claim.num_solves > 1 else ''}"
    if claim.confirmed:
        return f"CONFIRMED by measurement: {found}"
    return f"PREDICTED, not confirmed: {found}. Measure it with: scantling safety PLAN"


def _print_sweep(safety: SafetyFile, curve: DomainCurve, console: Console) -> None:
    headings = ("pred.\nKL", "measured KL", "perplex-\nity", "accu-\nracy", "same top\ntoken", "flips")
    original = ("original", "", "", f"{curve.original_perplexity:.2f}", f"{curve.original_accuracy.estimate:.1%}")
    rows = [(*original, "", ""), *(_point_cells(point, curve) for point in safety.sweep)]
    table = fitting_table((name_column("sweep"), *number_columns(*headings)), rows, console.width)
    console.print(f"Domain {curve.domain}:", style="bold")
    console.print(table)
    offset, ultimate = f"{safety.offset:.0%}", f"{safety.ultimate:.0%}"
    console.print(f"yield     perplexity {offset} up: {_describe_point(curve.yield_point)}")
    console.print(f"ultimate  perplexity {ultimate} up: {_describe_point(curve.ultimate_point)}")
    onset = "no point" if curve.onset_point is None else f"{curve.onset_point}, {curve.onset_kl_nats:.4g} nats"
    console.print(f"onset     worse than the original beyond doubt on this text from: {onset}")
    elastic = "no point" if curve.elastic_limit_nats is None else f"{curve.elastic_limit_nats:.4g} nats measured"
    console.print(f"elastic   predictions hold up to: {elastic}")
    console.print(
        f"Per token, on {curve.num_sequences} × {curve.sequence_length} tokens of {curve.num_documents} documents of "
        f"{curve.text_source} that were not calibrated on; {safety.bootstrap.confidence:.0%} intervals by "
        f"{safety.bootstrap.num_resamples:,} resamples of documents. Rounded against {safety.rounding_inputs} inputs.",
        style="dim",
    )


def _point_cells(sweep_point: MeasuredPlan, curve: DomainCurve) -> tuple[str, ...]:
    domain = next(domain for domain in sweep_point.domains if domain.domain == curve.domain)
    return (
        sweep_point.name,
        f"{sweep_point.predicted_kl_nats:.4f}",
        _show(domain.kl_nats, ".4f"),
        f"{domain.perplexity.estimate:.2f}",
        f"{domain.next_token_accuracy.estimate:.1%}",
        f"{domain.top1_agreement.estimate:.1%}",
        f"{domain.flips.estimate:.1%}",
    )


def _show(interval: Interval, spec: str) -> str:
    return f"{interval.estimate:{spec}} ({interval.lower:{spec}} to {interval.upper:{spec}})"


def _describe_point(point: ThresholdPoint) -> str:
    if point.reached:
        return f"{_show(point.kl_nats, '.4f')} nats, between {' and '.join(point.between)}"
    return f"not reached by the sweep: more than {point.kl_nats.estimate:.4f} nats, at {point.between[0]}"


def _print_factors(safety: SafetyFile, console: Console) -> None:
    several = len(safety.curves) > 1
    names = ("plan", "domain") if several else ("plan",)
    columns = (*map(name_column, names), *number_columns("bits", "KL", "γ", "factor\nat yield", "factor\nat ultimate"))
    rows = [
        (
            plan.plan.name,
            *([domain.domain] * several),
            f"{plan.plan.average_bits:.2f}",
            f"{domain.kl_nats:.4f}",
            f"{plan.prediction_margin.value:.2f}",
            ("≥ " if domain.at_least_at_yield else "") + _show(domain.at_yield, ".2f"),
            ("≥ " if domain.at_least_at_ultimate else "") + _show(domain.at_ultimate, ".2f"),
        )
        for plan in safety.plans
        for domain in plan.domains
    ]
    console.print(fitting_table(columns, rows, console.width))
