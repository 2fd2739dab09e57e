"""A judge of plans that uses no engine: it adds up every row and the objective again.

Knows nothing about how the plan was found.
"""

from collections.abc import Sequence

from .instance import Instance


def violations(instance: Instance, choice: Sequence[int], claimed_loss_increase_nats: float) -> list[str]:
    """Check a choice against its instance.

    Args:
        instance: the program.
        choice: the index of each unit's option.
        claimed_loss_increase_nats: the objective that the plan states.

    Returns:
        One sentence for everything that does not hold; empty for a valid plan.
    """
    if len(choice) != len(instance.units):
        return [f"the plan decides {len(choice)} units, the program has {len(instance.units)}"]
    strays = [
        f"{unit.name} takes option {index}, but has options 0 to {len(unit.options) - 1}"
        for unit, index in zip(instance.units, choice, strict=True)
        if not 0 <= index < len(unit.options)
    ]
    if strays:
        return strays
    found = []
    for k, limit in enumerate(instance.limits):
        amount = instance.amount(k, choice)
        if amount > limit.at_most:
            found.append(f"{limit.name} comes to {amount:,}, the limit is {limit.at_most:,}")
    objective = instance.loss_increase_nats(choice)
    if objective != claimed_loss_increase_nats:
        found.append(f"the loss increase adds up to {objective!r} nats, the plan states {claimed_loss_increase_nats!r}")
    return found
