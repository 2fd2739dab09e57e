"""What a person sees in the terminal: progress, the plan at a glance, the certificate.

Knows nothing about how numbers came about.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ...common.units import render_bytes
from ...planning.explanation import LimitUnit, describe_amount, describe_freedom, describe_limit, describe_price
from ...planning.plan import Assignment, Certificate, Objective, Plan, average_bits
from ...quantization.gguf_types import GGUF_FORMATS
from ...sensitivity.profile import Profile, decided_layers, uniform_formats
from ...solver.instance import LOSS
from .colours import bits_colours
from .verdicts import binding, plan_verdict, predicted_verdict, render_nats

Item = TypeVar("Item")

_DIGIT = {16: "f"}
_STATUS_WORDS = {
    "OPTIMAL": "optimal: no plan within the limits and rules is better",
    "FEASIBLE": "feasible: the search ended before the proof, a better plan may exist, by at most the gap",
    "EDITED": "edited by hand: nothing is proven",
    "REFINED": "refined by measurement, from a plan that was optimal by the profile's prices",
}


@dataclass(frozen=True)
class TerminalProgress:
    """A bar on standard error, where that is a terminal; nothing elsewhere.

    Attributes:
        console: on standard error.
    """

    console: Console

    def __call__(self, items: Sequence[Item], label: str) -> Iterator[Item]:
        """Go through items.

        Args:
            items: what is worked through.
            label: what is being done.

        Yields:
            The items.
        """
        if self.console.is_terminal:
            yield from track(items, description=f"{label:24}", console=self.console, transient=True)
        else:
            yield from items


@contextmanager
def waiting(progress: TerminalProgress, label: str) -> Iterator[None]:
    """Show that something of unknown length goes on.

    Args:
        progress: where to show it.
        label: what goes on.

    Yields:
        Nothing.
    """
    if progress.console.is_terminal:
        with progress.console.status(label):
            yield
    else:
        yield


def print_allocation(plan: Plan, console: Console) -> None:
    """Draw the plan: one row a kind of layer, one column a block, the digit is the width.

    Args:
        plan: the plan.
        console: where.
    """
    decided = [assignment for assignment in plan.assignments if assignment.decided]
    in_blocks = [assignment for assignment in decided if assignment.block is not None]
    blocks = sorted({a.block for a in in_blocks if a.block is not None})
    kinds = list(dict.fromkeys(a.kind for a in in_blocks))
    bits_at = {(a.kind, a.block): int(a.bits) for a in in_blocks}  # the whole part, where scales are counted too
    margin = max((len(kind) for kind in kinds), default=0) + 2
    per_line = max(10, console.width - margin - 8)
    console.print("Bits by kind of layer (rows) and block (columns); the last column is the row's average.")
    for start in range(0, len(blocks), per_line):
        part = blocks[start : start + per_line]
        ruler = "".join(str(block // 10 % 10) if block % 10 == 0 else "·" for block in part)
        console.print(f"{'block':<{margin}}{ruler}", style="dim")
        for kind in kinds:
            line = Text(f"{kind:<{margin}}")
            for block in part:
                bits = bits_at.get((kind, block))
                line.append(" " if bits is None else _DIGIT.get(bits, str(bits)), _style(bits))
            line.append(f"  {_average([a for a in in_blocks if a.kind == kind]):.2f}")
            console.print(line)
    for assignment in plan.assignments:
        if assignment.block is None:
            fixed = "" if assignment.decided else " (not in the program)"
            console.print(f"{assignment.kind:<{margin}}{assignment.format}{fixed}")
    _print_widths(decided, console)


def _style(bits: int | None) -> str:
    if bits is None:
        return ""
    ink, ground = bits_colours(bits)
    return f"{ink} on {ground}"


def _average(assignments: Sequence[Assignment]) -> float:
    return average_bits([(a.bits, a.num_weights) for a in assignments])


def _print_widths(decided: Sequence[Assignment], console: Console) -> None:
    total = sum(a.num_weights for a in decided)
    table = Table("format", "layers", "share of weights", "share of predicted loss", box=None, pad_edge=False)
    predicted = sum(a.loss_increase_nats for a in decided)
    for name in sorted({a.format for a in decided}, key=lambda name: min(a.bits for a in decided if a.format == name)):
        chosen = [a for a in decided if a.format == name]
        loss_share = sum(a.loss_increase_nats for a in chosen) / predicted if predicted else 0.0
        weight_share = sum(a.num_weights for a in chosen) / total
        table.add_row(name, str(len(chosen)), f"{weight_share:.1%}", f"{loss_share:.1%}")
    console.print(table)


def print_verdict(plan: Plan, profile: Profile, console: Console) -> None:
    """Say in a few lines what came out: the plan, its naive counterpart, and what holds it back.

    Args:
        plan: the plan.
        profile: that it was solved from.
        console: where.
    """
    console.print(plan_verdict(plan), style="bold")
    beside = predicted_verdict(profile, plan)
    if beside is not None:
        console.print(beside)
    proven = plan.certificate.objectives
    for use in binding(plan):
        price = f": {describe_price(use, proven[0])}" if use.price_per_step and proven else ""
        console.print(f"Held back by {use.name}{price}.")
    freedom = describe_freedom(plan)
    if freedom:
        console.print(freedom)
    console.print()


def print_certificate(plan: Plan, console: Console) -> None:
    """Say what is proven, what the limits leave, and what the plan comes to.

    Args:
        plan: the plan.
        console: where.
    """
    proven = plan.certificate
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("status", _STATUS_WORDS[proven.status])
    for objective in proven.objectives:
        table.add_row(f"minimised {objective.name}", _describe_proof(objective))
    table.add_row("solver", f"{proven.solver}, {proven.solve_seconds:.2f} s; {_describe_search(proven)}")
    for use in plan.limits:
        words = describe_limit(use, proven.objectives[0]) if proven.objectives else describe_amount(use)
        table.add_row(f"{use.name} ({use.origin})" if use.origin else use.name, words)
    in_gguf = any(assignment.format in GGUF_FORMATS for assignment in plan.assignments)
    counted = "scales counted" if in_gguf else "scales and zero points not counted"
    table.add_row("average bits", f"{plan.average_bits:.4f} ({counted})")
    table.add_row("bytes", f"{render_bytes(plan.stored_bytes)} in all tensors")
    for kind in dict.fromkeys(a.kind for a in plan.assignments if not a.decided):
        kept = sum(a.stored_bytes for a in plan.assignments if a.kind == kind)
        table.add_row("", f"{render_bytes(kept)} of them {kind}, kept in 16 bits{_if_large(kind, kept, plan)}")
    table.add_row(
        "", f"{render_bytes(plan.other_bytes)} of them norms, biases and the like, in {32 if in_gguf else 16} bits"
    )
    console.print(table)


def _if_large(kind: str, kept: int, plan: Plan) -> str:
    """Say how the program could decide the embedding or the head, where it takes a quarter of all bytes or more."""
    if kind not in {"embedding", "head"} or 4 * kept < plan.stored_bytes:
        return ""
    return f"; profile --include {kind} lets the program decide it, for GGUF files and --backend fake"


def _describe_proof(objective: Objective) -> str:
    shown = LimitUnit(objective.measure, objective.step)
    if objective.name != LOSS:
        return f"{shown.show(objective.value)}, bound {shown.show(objective.bound)}"
    relative = objective.gap / objective.value if objective.value else 0.0
    return (
        f"{objective.value:.9f} nats, bound {objective.bound:.9f}, gap {objective.gap:.1e} "
        f"({relative:.1e} of it; {objective.resolution:.0e} is the resolution)"
    )


def _describe_search(proven: Certificate) -> str:
    core = f"{proven.num_core_options} left after presolve" if proven.num_core_options else "presolve proved it alone"
    size = f"{proven.num_units} decisions, {proven.num_options} options"
    return size if proven.status in {"EDITED", "REFINED"} else f"{size}, {core}"


def print_profile(profile: Profile, console: Console) -> None:
    """Summarise a profile.

    Args:
        profile: the profile.
        console: where.
    """
    record = profile.record
    rounding_text = f"{len(profile.rounding_token_ids)} × {record.sequence_length} tokens of {record.text_source}"
    console.print(
        f"{len(record.layers)} layers, {len(decided_layers(profile))} of them to be decided, {len(record.formats)} "
        f"formats. Rounded by {record.rounding['method']} on {rounding_text} (perplexity of the original there: "
        f"{record.calibration_perplexity:.2f}), priced by {record.estimator} on {len(profile.pricing_token_ids)} other "
        "sequences of it."
    )
    table = Table("uniform", "bytes", "predicted KL in nats per token", box=None, pad_edge=False)
    for name in record.formats:
        formats = uniform_formats(profile, name) if _is_offered_everywhere(profile, name) else None
        if formats:
            table.add_row(name, f"{profile.stored_bytes(formats):,}", render_nats(*profile.predict(formats)))
    console.print(table)
    _print_narrow_types(profile, console)


def _print_narrow_types(profile: Profile, console: Console) -> None:
    """Say which types of GGUF not every layer can have, and which have no codes of single weights."""
    from ...quantization.gguf_codes import codes_of  # noqa: PLC0415  loads torch, which printing a plan does not need

    decided = decided_layers(profile)
    for name in [name for name in profile.record.formats if name in GGUF_FORMATS]:
        fitting = [layer for layer in decided if profile.format_index[name] in layer.formats]
        if len(fitting) < len(decided):
            console.print(
                f"{name}: {len(fitting)} of {len(decided)} layers, those whose input width is a multiple of "
                f"{GGUF_FORMATS[name].block_weights}"
            )
        if profile.record.rounding["method"] == "ggml+gptq" and codes_of(GGUF_FORMATS[name]) is None:
            console.print(f"{name}: rounded as by ggml, since one of its codes stands for several weights")


def _is_offered_everywhere(profile: Profile, name: str) -> bool:
    return all(profile.format_index[name] in layer.formats for layer in decided_layers(profile))
