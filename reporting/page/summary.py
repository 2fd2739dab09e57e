"""The page in one screen.

Knows nothing about the rest of the page.
"""

from ..terminal.safety_table import verdict
from ..terminal.verdicts import binding, comparison_verdict, naive_sentence, plan_verdict, render_nats, render_size
from .material import Material
from .parts import Card, Cards, Paragraph, Section
from .safety_section import render_factor

_STATUS = {
    "OPTIMAL": "proven optimal",
    "FEASIBLE": "not proven optimal",
    "EDITED": "edited by hand",
    "REFINED": "refined by measurement",
}


def summary_section(material: Material) -> Section:
    """The verdict, and the large numbers."""
    lines = [plan_verdict(material.plan)]
    if material.comparison is not None:
        lines.append(comparison_verdict(material.comparison))
    elif material.naive is not None:
        lines.append(naive_sentence(material.naive))
    if material.judged is not None:
        lines.append(verdict(material.judged))
    elif material.safety is not None:
        lines.append("The safety file does not cover this plan. Measure it with: scantling safety PLAN")
    held = [use.name for use in binding(material.plan)]
    lines.append(f"Held back by {', '.join(held)}." if held else "No limit holds it back.")
    return Section("summary", "Summary", (Cards(_cards(material)), *(Paragraph(line) for line in lines)))


def _cards(material: Material) -> tuple[Card, ...]:
    plan, proven = material.plan, material.plan.certificate
    gap = f", gap {proven.objectives[0].gap:.0e}" if proven.objectives else ""
    found = [
        Card("size", render_size(plan.stored_bytes), f"{plan.stored_bytes:,} bytes in all tensors"),
        Card("average bits", f"{plan.average_bits:.2f}", "of the layers decided, scales not counted"),
        Card(
            "predicted loss",
            render_nats(plan.loss_increase_nats, plan.loss_increase_standard_error_nats),
            f"nats per token, {_STATUS[proven.status]}{gap}",
        ),
    ]
    if material.comparison is not None:
        row = material.comparison.entries[0]
        measured = render_nats(row.measured_kl_nats, row.measured_kl_standard_error_nats)
        found.append(Card("measured KL", measured, "nats per token, ± one standard error"))
        original = material.comparison.entries[-1].measured_perplexity
        found.append(Card("perplexity", f"{row.measured_perplexity:.2f}", f"original {original:.2f}"))
    judged = material.judged
    if judged is not None:
        note = f"lower bound {judged.factor_lower:.2f}, {judged.required_factor:g} required"
        judgement = "passes" if judged.passes else "fails"
        found.append(Card("factor of safety", render_factor(judged), f"{note}: {judgement}"))
    return tuple(found)
