"""The result in a sentence, which stands first.

Knows nothing about where it is shown.
"""

import math

from ...common.units import BYTES_PER_UNIT
from ...evaluation.comparison import Comparison, PairedDifference
from ...planning.diagnosis import NaiveCounterpart
from ...planning.plan import LimitUse, Plan

_SAME_SIZE = 0.001


def render_nats(value: float, error: float | None) -> str:
    """Write a loss in nats per token with its standard error, to two significant digits of the error.

    Returns:
        The value, or the value and its error where that is known.

    >>> render_nats(0.21082, 0.01214)
    '0.211±0.012'
    >>> render_nats(0.000534, 0.00005)
    '0.000534±0.000050'
    >>> render_nats(0.4, None)
    '0.4000'
    """
    if not error:
        return f"{value:.4f}"
    digits = _digits(error)
    return f"{value:.{digits}f}±{error:.{digits}f}"


def byte_unit(num_bytes: int) -> str:
    """The largest binary unit that leaves at least 1; ``B`` below 1 KiB."""
    return next((unit for unit in ("TiB", "GiB", "MiB", "KiB") if num_bytes >= BYTES_PER_UNIT[unit]), "B")


def render_size(num_bytes: int) -> str:
    """Write bytes shortly, for tables that have the exact number elsewhere.

    Returns:
        Two decimals in the largest binary unit that leaves at least 1.

    >>> render_size(100532736), render_size(12)
    ('95.88 MiB', '12 bytes')
    """
    unit = byte_unit(num_bytes)
    return f"{num_bytes} bytes" if unit == "B" else f"{num_bytes / BYTES_PER_UNIT[unit]:.2f} {unit}"


def render_signed(nats: float | None) -> str:
    """Write a difference of losses, in nats.

    Returns:
        Five decimals with their sign; nothing where it is not known.

    >>> render_signed(-0.0000001), render_signed(0.25), render_signed(None)
    ('+0.00000', '+0.25000', '')
    """
    return "" if nats is None else f"{round(nats, 5) + 0.0:+.5f}"


def _digits(error: float) -> int:
    return min(max(1 - math.floor(math.log10(error)), 0), 8)


def render_difference(found: PairedDifference) -> str:
    """Write a paired difference with its interval, or its standard error where documents are too few for one."""
    if found.interval is None:
        return render_nats(found.kl_nats, found.standard_error_nats)
    width = found.interval.upper - found.interval.lower
    digits = _digits(width / 4) if width > 0 else 4
    low, high = (f"{end:.{digits}f}" for end in (found.interval.lower, found.interval.upper))
    return f"{found.kl_nats:.{digits}f} ({low} to {high})"


def comparison_verdict(comparison: Comparison) -> str:
    """Say in a sentence or two whether the plan was better than the baseline closest in bytes."""
    found = comparison.baseline
    plan = comparison.entries[0]
    if found is None:
        return (
            f"The plan's measured KL divergence is "
            f"{render_nats(plan.measured_kl_nats, plan.measured_kl_standard_error_nats)} nats per token; it was "
            "compared with no uniform format."
        )
    baseline = comparison.entry(found.other)
    size = _describe_size(baseline.stored_bytes, plan.stored_bytes)
    how = f"measured, {comparison.bootstrap.confidence:.0%} interval"
    if found.interval is None:
        few = f"{comparison.num_documents} documents are too few for an interval"
        how = f"measured; {few}, ± is one standard error" if found.standard_error_nats else "measured once"
    if found.is_clear is False:
        return (
            f"No clear difference between the plan and {found.other}{size}: {render_difference(found)} nats per token "
            f"({how})."
        )
    better = found.kl_nats > 0
    amount = render_difference(found if better else _mirrored(found))
    ratio = (
        f", {plan.measured_kl_nats / baseline.measured_kl_nats:.2f} × its KL" if baseline.measured_kl_nats > 0 else ""
    )
    return (
        f"The plan is {'better' if better else 'worse'} than {found.other}{size}, by {amount} nats per token "
        f"({how}){ratio}."
    )


def _mirrored(found: PairedDifference) -> PairedDifference:
    interval = found.interval
    turned = None
    if interval is not None:
        turned = interval.model_copy(
            update={"estimate": -interval.estimate, "lower": -interval.upper, "upper": -interval.lower}
        )
    return found.model_copy(update={"kl_nats": -found.kl_nats, "interval": turned})


def _describe_size(theirs: int, mine: int) -> str:
    relative = theirs / mine - 1
    if theirs == mine:
        return " of the same bytes"
    if abs(relative) <= _SAME_SIZE:
        return f" of the same size ({relative:+.2%})"
    return f", which is {abs(relative):.1%} {'larger' if relative > 0 else 'smaller'}"


def plan_verdict(plan: Plan) -> str:
    """Say in a sentence what a plan comes to and what is proven of it."""
    proven = {
        "OPTIMAL": "Optimal",
        "FEASIBLE": "Not proven optimal",
        "EDITED": "Edited by hand, nothing is proven",
        "REFINED": "Refined by measurement",
    }[plan.certificate.status]
    loss = render_nats(plan.loss_increase_nats, plan.loss_increase_standard_error_nats)
    return (
        f"{proven}: {render_size(plan.stored_bytes)}, {plan.average_bits:.2f} bits, "
        f"predicted loss increase {loss} nats per token."
    )


def naive_sentence(naive: NaiveCounterpart) -> str:
    """Say what the plan's bytes buy uniformly, and what the plan saves against it."""
    share = f" ({naive.saved_nats / naive.loss_increase_nats:.0%})" if naive.loss_increase_nats > 0 else ""
    saved = render_nats(naive.saved_nats, naive.saved_standard_error_nats)
    return (
        f"Without a program the same bytes buy {naive.name} ({render_size(naive.stored_bytes)}), predicted at "
        f"{naive.loss_increase_nats:.4f}: the plan saves {saved} nats{share}."
    )


def binding(plan: Plan) -> list[LimitUse]:
    """List the limits that hold a plan back: those with a shadow price, or proven to have an effect."""
    return [use for use in plan.limits if use.price_per_step or use.has_effect]
