"""A plan in the terminal, on one screen: verdict, heat map, certificate, what binds. The rest is in plan_details.

Knows nothing about how numbers came about.
"""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ...planning.diagnosis import Diagnosis
from ...planning.explanation import LimitUnit, describe_freedom, describe_price
from ...planning.plan import Assignment, Certificate, Objective, Plan
from ...solver.instance import LOSS
from ..allocation import AllocationGrid, grid_of, mean_bits, outside_blocks
from .colours import bits_colours
from .diagnostics import cross_fit_expectation, rare_experts_sentence
from .lines import print_labelled, print_warnings, shorten_left
from .plan_details import print_details
from .safety_table import describe_safety
from .verdicts import binding, naive_sentence, plan_verdict

_FLOAT_DIGIT = {16: "f"}
_WIDEST_KIND = 28
_MEAN_WIDTH = 8  # two blanks and 16.00, with a margin
_MOST_LIMITS = 4
_STATUS_WORDS = {
    "OPTIMAL": "optimal: no plan within the limits and rules is better",
    "FEASIBLE": "feasible: the search ended before the proof; better by the gap at most",
    "EDITED": "edited by hand: nothing is proven",
    "REFINED": "refined by measurement, from a plan that was optimal by the profile",
}


def render_plan(plan: Plan, diagnosis: Diagnosis, console: Console, *, details: bool = False) -> None:
    """Print a plan on one screen, and with ``details`` everything else that is known of it."""
    said = [plan_verdict(plan)]
    if diagnosis.naive is not None:
        said.append(naive_sentence(diagnosis.naive))
    console.print(" ".join(said), style="bold")
    if plan.safety is not None:
        console.print(describe_safety(plan.safety))
    console.print()
    print_heat_map(plan, console)
    console.print()
    _print_certificate(plan.certificate, console)
    _print_binding(plan, console)
    expected = None if diagnosis.cross_fit is None else cross_fit_expectation(plan, diagnosis.cross_fit)
    if expected is not None:
        print_labelled(console, "unseen text", expected)
    print_warnings(_warnings(diagnosis), console)
    if details:
        print_details(plan, diagnosis, console)
    else:
        console.print("More with --details: formats, limits, bytes, cross-fit, engine.", style="dim")


def _warnings(diagnosis: Diagnosis) -> list[str]:
    rare = diagnosis.rare_experts
    return [*diagnosis.warnings, *([rare_experts_sentence(rare, diagnosis.num_experts)] if rare else [])]


def print_heat_map(plan: Plan, console: Console) -> None:
    """Draw the plan: one row a kind of layer, one column a block, the digit is the width."""
    grid = grid_of([one for one in plan.assignments if one.decided])
    margin = min(max((len(kind) for kind in grid.kinds), default=5), _WIDEST_KIND) + 2
    most = max(10, console.width - margin - _MEAN_WIDTH)
    num_parts = max(1, math.ceil(len(grid.blocks) / most))
    per_line = max(1, math.ceil(len(grid.blocks) / num_parts))
    for start in range(0, len(grid.blocks), per_line):
        part = grid.blocks[start : start + per_line]
        ruler = "".join(str(block // 10 % 10) if block % 10 == 0 else "·" for block in part)
        console.print(Text(f"{'block':<{margin}}{ruler}  mean", style="dim"))
        for kind in grid.kinds:
            console.print(_row(grid, kind, part, margin))
    outside = ", ".join(_describe_outside(one) for one in outside_blocks(plan.assignments))
    if outside:
        console.print(Text(outside))


def _row(grid: AllocationGrid, kind: str, blocks: Sequence[int], margin: int) -> Text:
    line = Text(f"{shorten_left(kind, margin - 2):<{margin}}", no_wrap=True)
    for block in blocks:
        members = grid.cell(kind, block)
        if members:
            bits = _digit(members)
            ink, ground = bits_colours(bits)
            line.append(_FLOAT_DIGIT.get(bits, str(bits)), f"{ink} on {ground}")
        else:
            line.append(" ")
    return line.append(f"  {mean_bits(grid.row(kind)):.2f}")


def _digit(members: Sequence[Assignment]) -> int:
    """The width of one layer without its scales; of several layers the mean, rounded."""
    return round(sum(int(one.bits) * one.num_weights for one in members) / sum(one.num_weights for one in members))


def _describe_outside(one: Assignment) -> str:
    return f"{one.kind} {one.format}" + ("" if one.decided else " (not in the program)")


def _print_certificate(proven: Certificate, console: Console) -> None:
    print_labelled(console, "proof", _STATUS_WORDS[proven.status])
    for objective in proven.objectives:
        print_labelled(console, "objective", describe_proof(objective))
    size = f"{proven.num_units} decisions, {proven.num_options} options"
    print_labelled(console, "solver", f"{proven.solver}, {proven.solve_seconds:.2f} s; {size}")


def describe_proof(objective: Objective) -> str:
    """Put value, bound and gap of an objective into words."""
    unit = LimitUnit(objective.measure, objective.step)
    if objective.name != LOSS:
        return f"{objective.name} {unit.show(objective.value)}, bound {unit.show(objective.bound)}"
    return f"{objective.value:.9f} nats per token, bound {objective.bound:.9f}, gap {objective.gap:.1e}"


def _print_binding(plan: Plan, console: Console) -> None:
    objectives, limits = plan.certificate.objectives, binding(plan)
    for use in limits[:_MOST_LIMITS]:
        price = f": {describe_price(use, objectives[0])}" if use.price_per_step and objectives else ""
        print_labelled(console, "held back", f"by {use.name}{price}")
    if len(limits) > _MOST_LIMITS:
        print_labelled(console, "", f"and by {len(limits) - _MOST_LIMITS} more limits")
    freedom = describe_freedom(plan)
    if freedom:
        print_labelled(console, "freedom", freedom)
