"""What an inference engine's rules cost in predicted loss: the same program solved again without them.

Two things are told apart: ties (layers that the engine fuses take one format), and the formats and shapes that it does
not load. All limits and all rules of the user's own stay.

Knows nothing about which rules an engine has.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..sensitivity.profile import Profile
from ..solver.instance import LOSS, Instance
from ..solver.milp.base import MilpSolver, SolverSettings, Status
from ..solver.rules import Rule, Tie
from ..solver.solve import solve as solve_instance
from .lower_choices import ENGINE_ORIGIN


@dataclass(frozen=True)
class Saved:
    """What a plan without some rules would save.

    Attributes:
        nats: of predicted loss increase; a difference of predictions on the same sequences.
        standard_error_nats: of that difference, over the sequences; NaN with a single one.
        is_proven: whether the plan without the rules is proven optimal.
    """

    nats: float
    standard_error_nats: float
    is_proven: bool


@dataclass(frozen=True)
class EngineCost:
    """What an engine's rules cost.

    Attributes:
        engine: its name.
        without_ties: what is saved without its ties; None where it ties nothing.
        without_rules: what is saved without its ties and without its limits on formats and shapes; None where these
            close nothing.
    """

    engine: str
    without_ties: Saved | None
    without_rules: Saved | None


def engine_cost(
    profile: Profile, instance: Instance, formats: Mapping[str, str], solver: MilpSolver, settings: SolverSettings
) -> EngineCost | None:
    """Solve a program again without the rules of its inference engine.

    Args:
        profile: that the instance was made from.
        instance: the program.
        formats: of its best plan, by layer.
        solver: solves it.
        settings: limits of each search.

    Returns:
        The cost; None without an inference engine, where its rules concern no layer, or where the loss is not what
        is minimised first.
    """
    rules = [rule for rule in instance.rules if rule.origin.startswith(ENGINE_ORIGIN)]
    if not rules or instance.minimise[0] != LOSS:
        return None
    others = tuple(rule for rule in instance.rules if not rule.origin.startswith(ENGINE_ORIGIN))
    closing = tuple(rule for rule in rules if not isinstance(rule, Tie))

    def saved(kept: tuple[Rule, ...]) -> Saved:
        return _saved(profile, replace(instance, rules=kept, minimise=(LOSS,)), formats, (solver, settings))

    return EngineCost(
        rules[0].origin.removeprefix(ENGINE_ORIGIN),
        saved((*others, *closing)) if len(closing) < len(rules) else None,
        saved(others) if closing else None,
    )


def _saved(
    profile: Profile, freer: Instance, formats: Mapping[str, str], search: tuple[MilpSolver, SolverSettings]
) -> Saved:
    found = solve_instance(freer, *search)
    assert found.choice is not None, "a program with fewer rules has every plan that the stricter one has"
    units = zip(freer.units, found.choice, strict=True)
    saved, error = profile.difference(formats, {unit.name: unit.formats[index] for unit, index in units})
    return Saved(saved, math.nan if error is None else error, found.status is Status.OPTIMAL)
