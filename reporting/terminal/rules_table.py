"""What a constraint file came to on a profile, in words or as JSON.

Knows nothing about how rules are solved.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from ...common.patterns import shorten
from ...planning.constraint import LoweredConstraint
from ...planning.lowering import describe_amount
from ...planning.program import Program
from ...solver.instance import Instance
from ...solver.rules import Limit, LossLimit


def constraint_records(program: Program) -> list[dict[str, Any]]:
    """Every limit and rule of a program as plain values, for JSON."""
    instance = program.without_safety().instance()
    found: list[dict[str, Any]] = [
        {
            "name": statement.name,
            "origin": statement.origin,
            "says": statement.says,
            "num_layers": None if statement.layers is None else len(statement.layers),
            "layers": None if statement.layers is None else [program.layers.names[i] for i in statement.layers],
            "left_out": statement.left_out,
            "bounds": describe_bounds(statement, instance),
        }
        for statement in program.lowered
    ]
    if program.safety_factor is not None:
        says, nothing = _describe_safety(program.safety_factor), {"num_layers": None, "layers": None, "left_out": 0}
        found.append({"name": "safety", "origin": program.safety_origin, "says": says, **nothing, "bounds": []})
    return found


def _describe_safety(factor: float) -> str:
    return f"factor of safety ≥ {factor:g}: solve makes it a limit on the loss, by measurement"


def describe_bounds(statement: LoweredConstraint, instance: Instance) -> list[str]:
    """The bounds of a constraint with their units, one text a limit."""
    found = []
    for rule in statement.rules:
        if isinstance(rule, LossLimit):
            found.append(f"predicted loss increase ≤ {rule.at_most_nats:g} nats per token")
        elif isinstance(rule, Limit):
            row = instance.row(rule.row)
            low = "" if rule.at_least is None else f"{describe_amount(row, rule.at_least)} ≤ "
            high = "" if rule.at_most is None else f" ≤ {describe_amount(row, rule.at_most)}"
            found.append(f"{low}{row.name}{high}")
    return found


def _counted(number: int) -> str:
    return f"{number:,} layer{'' if number == 1 else 's'}"


def print_rules(program: Program, console: Console) -> None:
    """Print what every limit and rule matched."""
    instance = program.without_safety().instance()
    if program.safety_factor is not None:
        console.print(
            Text(program.safety_origin, style="bold"), _describe_safety(program.safety_factor), soft_wrap=True
        )
    for statement in program.lowered:
        name = statement.name.removeprefix(f"{statement.origin}: ")
        said = statement.says.startswith(name) or not statement.says
        what = (statement.says or name) if said else f"{name}: {statement.says}"
        console.print(Text(statement.origin, style="bold"), what, soft_wrap=True)
        for bound in describe_bounds(statement, instance):
            console.print(f"    {bound}", soft_wrap=True)
        if statement.layers is None:
            console.print("    the whole plan")
        else:
            which = shorten([program.layers.names[index] for index in statement.layers])
            console.print(f"    {_counted(len(statement.layers))}: {which}", soft_wrap=True)
        if statement.left_out:
            console.print(f"    {_counted(statement.left_out)} more match, but with a single format there is no choice")
    num_decided = len(program.layers.decided(range(len(program.layers.records))))
    console.print(
        f"{len(program.lowered)} limits and rules on {len(program.layers.records)} layers, {num_decided} of them to "
        f"be decided. Minimised: {', then '.join(instance.minimise)}."
    )
