"""A check of choices that uses no solver and no arrays: it sums every row and evaluates every rule again.

Knows nothing about how the choice was found.
"""

from collections.abc import Sequence

from .instance import Instance
from .rules import Allow, Distinct, Limit, LossLimit, Order, Rule, Tie


def violations(instance: Instance, choice: Sequence[int], rules: Sequence[Rule] | None = None) -> list[str]:
    """Check a choice against its instance.

    Args:
        instance: the program.
        choice: the index of the format that each unit takes.
        rules: the limits and rules to check; None for all of the instance.

    Returns:
        One sentence per violation; empty for a valid choice.
    """
    if len(choice) != len(instance.units):
        return [f"the plan decides {len(choice)} units, the program has {len(instance.units)}"]
    strays = [
        f"{unit.name} takes format {index}, but has formats 0 to {len(unit.formats) - 1}"
        for unit, index in zip(instance.units, choice, strict=True)
        if not 0 <= index < len(unit.formats)
    ]
    if strays:
        return strays
    judged = instance.rules if rules is None else rules
    return [sentence for rule in judged for sentence in _violations_of(instance, choice, rule)]


def _violations_of(instance: Instance, choice: Sequence[int], rule: Rule) -> list[str]:
    match rule:
        case Limit():
            return _violated_bounds(instance, choice, rule)
        case LossLimit():
            loss = instance.loss_increase_nats(choice)
            if loss <= rule.at_most_nats:
                return []
            return [f"{_label(rule)}: the loss increase is {loss:.9g} nats, the limit is {rule.at_most_nats:.9g}"]
        case Allow():
            return [
                f"{_label(rule)}: {instance.units[unit].name} has {_format_of(instance, choice, unit)}, which is not "
                "allowed"
                for unit, formats in rule.allowed
                if choice[unit] not in formats
            ]
        case Tie():
            return [
                f"{_label(rule)}: {', '.join(instance.units[unit].name for unit in group)} have different formats"
                for group in rule.groups
                if len({_format_of(instance, choice, unit) for unit in group}) > 1
            ]
        case Order():
            return [
                f"{_label(rule)}: {instance.units[finer].name} has fewer bits than {instance.units[coarser].name}"
                for finer, coarser in rule.pairs
                if instance.units[finer].bits[choice[finer]] < instance.units[coarser].bits[choice[coarser]]
            ]
        case Distinct():
            used = sorted({_format_of(instance, choice, unit) for unit in rule.units})
            if len(used) <= rule.at_most_formats:
                return []
            return [f"{_label(rule)}: {len(used)} formats, {', '.join(used)}, where {rule.at_most_formats} are allowed"]


def _violated_bounds(instance: Instance, choice: Sequence[int], rule: Limit) -> list[str]:
    amount = instance.amount(rule.row, choice, rule.units)
    row = instance.row(rule.row)
    found = []
    for bound, holds, word in (
        (rule.at_most, rule.at_most is None or amount <= rule.at_most, "most"),
        (rule.at_least, rule.at_least is None or amount >= rule.at_least, "least"),
    ):
        if not holds and bound is not None:
            found.append(
                f"{_label(rule)}: {rule.row} comes to {_render(amount, row.step)} {row.measure}, "
                f"the limit is at {word} {_render(bound, row.step)}"
            )
    return found


def _render(steps: int, step: float) -> str:
    return f"{steps:,}" if step == 1 else f"{steps * step:.9g}"


def _label(rule: Rule) -> str:
    return f"{rule.name} ({rule.origin})" if rule.origin else rule.name


def _format_of(instance: Instance, choice: Sequence[int], unit: int) -> str:
    return instance.units[unit].formats[choice[unit]]
