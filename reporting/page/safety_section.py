"""Load and deflection: the predicted loss of ever heavier compression, the measured one, yield and collapse.

Knows nothing about how they were measured.
"""

from collections.abc import Sequence

from ...evaluation.bootstrap import Interval
from ...evaluation.safety.record import DomainCurve, DomainQuality, MeasuredPlan, PlanSafety, SafetyFile, ThresholdPoint
from .material import Material
from .parts import Figure, Missing, Section, Table, columns, notes
from .svg import Chart, Plot, spanning, text

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 640, 34, 350
TITLE = "Load and deflection: how far from breaking"


def safety_section(material: Material) -> Section:
    """The curve of every domain, and the factors."""
    safety = material.safety
    if safety is None:
        words = "No factor of safety was given. Measure one, then pass the file with --safety:"
        return Section("safety", TITLE, (Missing(words, "scantling safety PLAN -o safety.json"),))
    figures = [Figure(deflection_chart(safety, curve), _caption(safety, curve)) for curve in safety.curves]
    return Section("safety", TITLE, (_factors(safety), *notes(_prediction_margins(safety)), *figures))


def _factors(safety: SafetyFile) -> Table:
    rows = tuple(
        (
            found.plan.name,
            render_factor(found),
            f"{found.factor_lower:.2f}",
            f"{'≥ ' if any(one.at_least_at_ultimate for one in found.domains) else ''}{found.ultimate_factor:.2f}",
            f"{found.ultimate_factor_lower:.2f}",
            f"{found.prediction_margin.value:.2f} ({found.prediction_margin.basis})",
            f"{found.required_factor:g}",
            f"{found.margin:+.2f}",
            "passes" if found.passes else "fails",
        )
        for found in safety.plans
    )
    confidence = f"{safety.bootstrap.confidence:.0%}"
    headings = columns(
        "plan", "factor at yield#", "lower bound#", "at collapse#", "lower bound#", "γ", "required#", "margin#", "",
    )  # fmt: skip
    caption = (
        f"Factors of safety, the least over the domains; bounds: lower ends of {confidence} intervals, and these "
        "decide. ≥: the sweep ends before the model yields, or collapses."
    )
    return Table("factors", headings, rows, caption)


def render_factor(found: PlanSafety) -> str:
    """Write a factor at yield, with ≥ where the sweep ends before the yield in the domain that governs."""
    governing = next(domain for domain in found.domains if domain.domain == found.governing_domain)
    return f"{'≥ ' if governing.at_least_at_yield else ''}{found.factor:.2f}"


def _prediction_margins(safety: SafetyFile) -> list[str]:
    margins = [found.prediction_margin for found in safety.plans]
    return list(dict.fromkeys(f"γ = {margin.value:.3g}: {margin.origin}" for margin in margins))


def _caption(safety: SafetyFile, curve: DomainCurve) -> str:
    return (
        f"Domain {curve.domain}: {curve.num_sequences} × {curve.sequence_length} tokens of {curve.text_source}, "
        f"{curve.num_documents} documents. Every point is a plan, its predicted loss below, its measured one on the "
        f"left; on the dashed line a prediction is exact. Yield: perplexity {safety.offset:.0%} above the original's"
        f"{_unless_reached(curve.yield_point)}; collapse: {safety.ultimate:.0%} above"
        f"{_unless_reached(curve.ultimate_point)}. Bands and bars: {safety.bootstrap.confidence:.0%} intervals. Both "
        "axes are logarithmic."
    )


def _unless_reached(point: ThresholdPoint) -> str:
    return "" if point.reached else f" (not reached by the sweep: more than {point.kl_nats.estimate:.3g} nats)"


def deflection_chart(safety: SafetyFile, curve: DomainCurve) -> Chart:
    """Draw the curve of one domain."""
    sweep_points = _measured(safety.sweep, curve.domain)
    plans = _measured([found.plan for found in safety.plans], curve.domain)
    everyone = [*sweep_points, *plans]
    loads = [plan.predicted_kl_nats for plan, _ in everyone]
    lows = [max(quality.kl_nats.lower, quality.kl_nats.estimate / 10) for _, quality in everyone]
    highs = [quality.kl_nats.upper for _, quality in everyone]
    points = [("yield", curve.yield_point), ("collapse", curve.ultimate_point)]
    reached = [point.kl_nats.estimate for _, point in points if point.reached]
    plot = Plot(
        spanning(loads, _LEFT, _RIGHT, log=True),
        spanning([*lows, *highs, *reached], _BOTTOM, _TOP, log=True),
        rising=True,
    )
    plot.axes("predicted loss increase, nats per token", "measured KL, nats per token", "{:g}".format, "{:g}".format)
    low, high = max(plot.x.low, plot.y.low), min(plot.x.high, plot.y.high)
    if low < high:
        plot.path([(low, low), (high, high)], "guide")
    for name, point in points:
        _draw_threshold(plot, name, point)
    plot.path([(plan.predicted_kl_nats, quality.kl_nats.estimate) for plan, quality in sweep_points], "curve")
    for plan, quality in sweep_points:
        _draw(plot, plan, quality, "dot")
    for plan, quality in plans:
        css = "baseline" if plan.name.startswith("uniform") else "plan"
        _draw(plot, plan, quality, css)
        plot.words((plan.predicted_kl_nats, quality.kl_nats.estimate), plan.name, css)
    name = f"load-deflection-{safety.curves.index(curve) + 1}"
    return Chart(name, f"Measured against predicted loss, {curve.domain}", _WIDTH, _HEIGHT, "".join(plot.parts))


def _measured(plans: Sequence[MeasuredPlan], domain: str) -> list[tuple[MeasuredPlan, DomainQuality]]:
    """Pick what can stand on logarithmic axes, lightest first."""
    found = [
        (plan, quality)
        for plan in plans
        for quality in plan.domains
        if quality.domain == domain and plan.predicted_kl_nats > 0 and quality.kl_nats.estimate > 0
    ]
    return sorted(found, key=lambda pair: pair[0].predicted_kl_nats)


def _draw_threshold(plot: Plot, name: str, point: ThresholdPoint) -> None:
    if not point.reached:
        return
    left, right = plot.x.start, plot.x.end
    low, high = (min(max(end, plot.y.low), plot.y.high) for end in (point.kl_nats.lower, point.kl_nats.upper))
    plot.band([(plot.x.low, low, high), (plot.x.high, low, high)])
    y = plot.y(point.kl_nats.estimate)
    plot.line((left, y), (right, y), "guide")
    words = f"{name} at {point.kl_nats.estimate:.3g} ({point.kl_nats.lower:.3g} to {point.kl_nats.upper:.3g})"
    plot.parts.append(text(left + 8, y - 5, words))


def _draw(plot: Plot, plan: MeasuredPlan, quality: DomainQuality, css: str) -> None:
    at = (plan.predicted_kl_nats, quality.kl_nats.estimate)
    x = plot.x(at[0])
    low = max(quality.kl_nats.lower, plot.y.low)
    plot.line((x, plot.y(low)), (x, plot.y(quality.kl_nats.upper)), "axis")
    title = (
        f"{plan.name}: {plan.average_bits:.2f} bits, {plan.stored_bytes:,} bytes; predicted {at[0]:.4g}, measured "
        f"{_describe(quality.kl_nats)} nats per token; perplexity {_describe(quality.perplexity)}"
    )
    plot.mark(at, css, title)


def _describe(interval: Interval) -> str:
    return f"{interval.estimate:.4g} ({interval.lower:.4g} to {interval.upper:.4g})"
