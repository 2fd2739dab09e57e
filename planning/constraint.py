"""What a user asks of a plan, and what the solver's instance gets for it.

Knows nothing about how one becomes the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError

from ..common.errors import InputError, ScantlingError
from ..solver.instance import Row
from ..solver.rules import Rule
from .constraints.limits import Bound
from .constraints.rules import AllowRule, DevicesRule, DistinctRule, LinearRule, OrderRule, SumRule, TieRule

_Model = TypeVar("_Model", bound=BaseModel)
_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True)
class PlanLimit:
    """A bound on one key of ``Limits``, over the whole plan."""

    key: str
    bound: Bound


@dataclass(frozen=True)
class PinToPlan:
    """Layers, by pattern, that keep their formats of another plan; messages call that plan ``plan_name``."""

    layers: tuple[str, ...]
    formats: Mapping[str, str]
    plan_name: str


Request = AllowRule | TieRule | OrderRule | DistinctRule | SumRule | LinearRule | DevicesRule | PlanLimit | PinToPlan


@dataclass(frozen=True)
class Constraint:
    """A limit or a rule, and its origin: a flag, a file with line and column, or ``Python``."""

    request: Request
    origin: str


@dataclass(frozen=True)
class LoweredConstraint:
    """What a constraint, an inference engine or the hardware adds to the solver's instance.

    Attributes:
        name: the user's name for it, or a description.
        origin: as of ``Constraint``; else ``engine NAME``, ``machine NAME``, ``workload`` or ``profile``.
        says: a description with values and units.
        layers: positions of the layers concerned; None for all of them and what lies outside the layers.
        rules: of the instance.
        rows: that the rules need beside the profile's.
        left_out: layers that matched but have a single format, which rules about choices do not concern.
    """

    name: str
    origin: str
    says: str
    layers: tuple[int, ...] | None
    rules: tuple[Rule, ...]
    rows: tuple[Row, ...] = ()
    left_out: int = 0


def make_record(kind: type[_Model], values: Mapping[str, Any], origin: str) -> _Model:
    """Make a record of values that came by a call or a flag; None leaves a value out."""
    try:
        return kind.model_validate({key: value for key, value in values.items() if value is not None}, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{origin}: {place}: {fault['msg']}" if place else f"{origin}: {fault['msg']}") from error


def with_origin(
    origin: str, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Call a function; whatever is wrong is said with the origin in front, in an error of the same class."""
    try:
        return function(*args, **kwargs)
    except ScantlingError as error:
        raise type(error)(f"{origin}: {error}") from error
