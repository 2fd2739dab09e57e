"""The model card of a checkpoint: the plan's table, how it was made, and what loads it.

Knows nothing about tensors.
"""

from collections.abc import Sequence

from ..common.units import render_bytes
from ..planning.plan import Plan
from .folder_format import FolderFormat, FormattedLayer

_INPUTS_DESCRIBED = {
    "original": "the inputs of the original model",
    "quantized": "the inputs that the quantized layers before them give",
    "corrected": "the inputs that the quantized layers before them give, towards the outputs of the original model",
}
_HEADER = """\
---
library_name: transformers
tags: [quantized, mixed-precision, scantling]
---
"""
_FOOTER = """
The whole plan is in `scantling_plan.json`. `scantling check` compares what an engine computes from these files with
what the plan computed in memory.
"""


def model_card(plan: Plan, layers: Sequence[FormattedLayer], folder_format: FolderFormat, inputs: str) -> str:
    """Write the card, as Markdown.

    Args:
        plan: the plan.
        layers: all layers with their formats.
        folder_format: the checkpoint's.
        inputs: what the layers were rounded against.

    Returns:
        The text.
    """
    return "\n".join([
        _HEADER,
        f"# {plan.model_source.rstrip('/').rpartition('/')[2]}, {plan.average_bits:.2f} bits",
        "",
        f"Quantized by scantling {plan.scantling_version}: each layer has the format that an integer program chose.",
        "",
        "| format | layers | weights | share of predicted loss |",
        "|---|---|---|---|",
        *_table(plan),
        "",
        *_facts(plan, inputs),
        "",
        "## Loading",
        "",
        f"- {folder_format.traits.how_to_load}",
        *[f"- {line}" for line in folder_format.cautions(layers)],
        _FOOTER,
    ])


def _facts(plan: Plan, inputs: str) -> list[str]:
    predicted = _nats(plan.loss_increase_nats, plan.loss_increase_standard_error_nats)
    facts = [f"- Predicted KL divergence from the original: {predicted}, for rounding against the original's inputs."]
    if plan.joint is not None:
        together = _nats(plan.joint.loss_increase_nats, plan.joint.loss_increase_standard_error_nats)
        facts.append(f"- Predicted with the errors of all layers taken together: {together}.")
    return [
        *facts,
        f"- These weights were rounded against {_INPUTS_DESCRIBED[inputs]}.",
        f"- Status of the plan: {plan.certificate.status}{_proven(plan)}.",
        f"- Size of codes, scales, zero points and the 16-bit rest: {render_bytes(plan.stored_bytes)}.",
    ]


def _nats(value: float, standard_error: float | None) -> str:
    about = "" if standard_error is None else f" ± {standard_error:.2g}"
    return f"{value:.4g}{about} nats per token"


def _proven(plan: Plan) -> str:
    """Say what no other plan within the limits can better."""
    return "".join(
        f"; no plan within the limits has less than {objective.bound:.4g} {objective.measure} of {objective.name}"
        for objective in plan.certificate.objectives[:1]
    )


def _table(plan: Plan) -> list[str]:
    rows = []
    total_weights = sum(assignment.num_weights for assignment in plan.assignments)
    total_loss = sum(assignment.loss_increase_nats for assignment in plan.assignments) or 1.0
    for name in sorted({assignment.format for assignment in plan.assignments}):
        members = [assignment for assignment in plan.assignments if assignment.format == name]
        weights = sum(assignment.num_weights for assignment in members) / total_weights
        loss = sum(assignment.loss_increase_nats for assignment in members) / total_loss
        rows.append(f"| {name} | {len(members)} | {weights:.1%} | {loss:.1%} |")
    return rows
