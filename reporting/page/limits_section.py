"""Every limit: how much of it is used, what is left, and what more of it would buy.

Knows nothing about how prices were found.
"""

from ...planning.explanation import LimitUnit, describe_freedom, describe_price
from ...planning.plan import LimitUse, Plan
from ...solver.rules import Limit, LossLimit
from .markup import Section, Table, paragraph


def limits_section(plan: Plan) -> Section:
    """Show the limits of a plan.

    Args:
        plan: the plan.

    Returns:
        The section.
    """
    rows = tuple(_row(plan, use) for use in plan.limits)
    headings = ("limit", "stated", "used", "bound", "slack", "shadow price", "effect")
    caption = (
        "Shadow prices are those of the linear relaxation at the optimum: what the first objective would fall by for a "
        "little more of the limit."
    )
    table = Table("limits", headings, rows, caption).html() if rows else paragraph("The plan has no numeric limits.")
    others = [rule for rule in plan.program.rules if not isinstance(rule, Limit | LossLimit)]
    words = "".join(paragraph(f"{rule.name}{f' ({rule.origin})' if rule.origin else ''}", "note") for rule in others)
    heading = paragraph(f"Beside the limits, {len(others)} rules about formats hold:") if others else ""
    freedom = describe_freedom(plan)
    return Section("limits", "Limits and prices", table + heading + words + (paragraph(freedom) if freedom else ""))


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
