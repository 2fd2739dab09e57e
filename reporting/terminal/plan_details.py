"""What is known of a plan beside its first screen: formats, limits and prices, bytes, cross-fit, the engine's cost.

Knows nothing about how numbers came about.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ...common.units import render_bytes
from ...planning.diagnosis import Diagnosis
from ...planning.explanation import describe_amount, describe_limit
from ...planning.plan import Assignment, Certificate, Plan
from ...quantization.gguf_types import GGUF_FORMATS
from ...solver.instance import LOSS
from .diagnostics import cross_fit_sentence, engine_cost_sentence
from .lines import print_labelled

_LARGE_SHARE = 0.25


def print_details(plan: Plan, diagnosis: Diagnosis, console: Console) -> None:
    """Print all that the first screen leaves out."""
    console.print()
    _print_formats([one for one in plan.assignments if one.decided], console)
    console.print()
    _print_search(plan.certificate, console)
    _print_limits(plan, console)
    _print_bytes(plan, console)
    if diagnosis.cross_fit is not None:
        print_labelled(console, "cross-fit", cross_fit_sentence(plan.loss_increase_nats, diagnosis.cross_fit))
    elif diagnosis.cross_fit_left_out is not None:
        print_labelled(console, "cross-fit", diagnosis.cross_fit_left_out)
    if diagnosis.engine_cost is not None:
        print_labelled(console, "engine", engine_cost_sentence(diagnosis.engine_cost, plan.loss_increase_nats))


def _print_formats(decided: Sequence[Assignment], console: Console) -> None:
    table = Table("format", box=None, pad_edge=False)
    for heading in ("layers", "share of weights", "share of predicted loss"):
        table.add_column(heading, justify="right")
    num_weights = sum(one.num_weights for one in decided)
    predicted = sum(one.loss_increase_nats for one in decided)
    bits = {one.format: one.bits for one in reversed(decided)}
    for name in sorted(bits, key=lambda name: bits[name]):
        chosen = [one for one in decided if one.format == name]
        loss_share = sum(one.loss_increase_nats for one in chosen) / predicted if predicted else 0.0
        weight_share = sum(one.num_weights for one in chosen) / num_weights
        table.add_row(name, f"{len(chosen):,}", f"{weight_share:.1%}", f"{loss_share:.1%}")
    console.print(table)


def _print_search(proven: Certificate, console: Console) -> None:
    if proven.status not in {"EDITED", "REFINED"}:
        core = proven.num_core_options
        search = f"{core} options left after presolve" if core else "presolve proved it alone"
        print_labelled(console, "search", f"{search}; seed {proven.seed}")
    for objective in proven.objectives:
        if objective.name == LOSS:
            relative = objective.gap / objective.value if objective.value else 0.0
            words = f"{relative:.1e} of the loss; {objective.resolution:.0e} nats is the resolution"
            print_labelled(console, "gap", words)


def _print_limits(plan: Plan, console: Console) -> None:
    objectives = plan.certificate.objectives
    for use in plan.limits:
        name = f"{use.name} ({use.origin})" if use.origin else use.name
        words = describe_limit(use, objectives[0]) if objectives else describe_amount(use)
        print_labelled(console, "limit", f"{name}: {words}")


def _print_bytes(plan: Plan, console: Console) -> None:
    in_gguf = any(one.format in GGUF_FORMATS for one in plan.assignments)
    counted = "scales included" if in_gguf else "scales and zero points not included"
    print_labelled(console, "bits", f"{plan.average_bits:.4f} on average, {counted}")
    print_labelled(console, "bytes", f"{render_bytes(plan.stored_bytes)} in all tensors")
    for kind in dict.fromkeys(one.kind for one in plan.assignments if not one.decided):
        kept = sum(one.stored_bytes for one in plan.assignments if one.kind == kind)
        print_labelled(console, "", f"{render_bytes(kept)} of them {kind}, kept in 16 bits{_hint(kind, kept, plan)}")
    width = 32 if in_gguf else 16
    print_labelled(console, "", f"{render_bytes(plan.other_bytes)} of them norms, biases and the like, in {width} bits")


def _hint(kind: str, kept: int, plan: Plan) -> str:
    """How the program could decide the embedding or the head, where it takes a quarter of all bytes or more."""
    if kind not in {"embedding", "head"} or kept < _LARGE_SHARE * plan.stored_bytes:
        return ""
    return f"; profile --include {kind} lets the program decide it, for GGUF files and --backend fake"
