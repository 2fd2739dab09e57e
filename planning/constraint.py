"""What is asked for, as wishes, and what wishes become, as statements.

Knows nothing about how one becomes the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..solver.instance import Row
from ..solver.rules import Rule
from .constraints.limits import Bound
from .constraints.rules import AllowRule, DevicesRule, DistinctRule, LinearRule, OrderRule, SumRule, TieRule


@dataclass(frozen=True)
class PlanLimit:
    """A limit on the whole plan.

    Attributes:
        key: of ``Limits``.
        bound: the bound.
    """

    key: str
    bound: Bound


@dataclass(frozen=True)
class PinToPlan:
    """Layers that keep the formats of another plan.

    Attributes:
        layers: patterns.
        formats: the plan's, by layer.
        plan: what messages call it.
    """

    layers: tuple[str, ...]
    formats: Mapping[str, str]
    plan: str


RuleRequest = AllowRule | TieRule | OrderRule | DistinctRule | SumRule | LinearRule | DevicesRule
Asked = RuleRequest | PlanLimit | PinToPlan


@dataclass(frozen=True)
class Constraint:
    """Something asked for.

    Attributes:
        asked: what.
        origin: where: a flag, a file with line and column, or a call.
    """

    asked: Asked
    origin: str


@dataclass(frozen=True)
class LoweredConstraint:
    """What a wish stands for.

    Attributes:
        name: as the user calls it, or the wish in words.
        origin: where it was stated.
        says: the wish in words, with values and units.
        layers: the layers concerned; None for all and what lies outside them.
        rules: of the integer program.
        rows: that it brings.
        left_out: layers that matched but have a single format, which rules about choices do not concern.
    """

    name: str
    origin: str
    says: str
    layers: tuple[int, ...] | None
    rules: tuple[Rule, ...]
    rows: tuple[Row, ...] = ()
    left_out: int = 0
