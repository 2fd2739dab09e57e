"""Every limit: how much of it is used, what is left, and what more of it would buy.

Knows nothing about how prices were found.
"""

from ...planning.explanation import LimitUnit, describe_freedom, describe_price
from ...planning.plan import LimitUse, Plan
from ...solver.rules import Limit, LossLimit
from .parts import Paragraph, Part, Section, Table, columns, notes


def limits_section(plan: Plan) -> Section:
    """The limits of a plan, and its rules."""
    parts: list[Part] = [_uses(plan) if plan.limits else Paragraph("The plan has no numeric limits.")]
    others = [rule for rule in plan.program.rules if not isinstance(rule, Limit | LossLimit)]
    if others:
        parts.append(Paragraph(f"Beside the limits, {len(others)} rules about formats hold:"))
        parts += notes([f"{rule.name} ({rule.origin})" if rule.origin else rule.name for rule in others])
    freedom = describe_freedom(plan)
    if freedom:
        parts.append(Paragraph(freedom))
    return Section("limits", "Limits and prices", tuple(parts))


def _uses(plan: Plan) -> Table:
    headings = columns("limit", "stated", "used", "bound", "slack", "shadow price", "effect")
    caption = (
        "Shadow prices are those of the linear relaxation at the optimum: what the first objective would fall by for a "
        "little more of the limit."
    )
    return Table("limits", headings, tuple(_row(plan, use) for use in plan.limits), caption)


def _row(plan: Plan, use: LimitUse) -> tuple[str, ...]:
    counted = LimitUnit(use.measure, use.step)
    if use.at_most is not None:
        bound, slack = f"at most {counted.show(use.at_most)}", use.at_most - use.used
    else:
        assert use.at_least is not None
        bound, slack = f"at least {counted.show(use.at_least)}", use.used - use.at_least
    objectives = plan.certificate.objectives
    price = ""
    if use.price_per_step and objectives:
        price = describe_price(use, objectives[0])
    elif use.price_per_step == 0:
        price = "0 on the linear relaxation"
    effect = {True: "holds the plan back", False: "none (proven)", None: "not settled"}[use.has_effect]
    return use.name, use.origin, counted.show(use.used), bound, counted.show(slack), price, effect
