"""Where two plans differ.

Knows nothing about tensors.
"""

from dataclasses import asdict, dataclass
from typing import Any

from ..common.errors import InputError
from .plan import Plan


@dataclass(frozen=True)
class LayerChange:
    """One layer with another format.

    Attributes:
        layer: its name.
        before: format in the first plan.
        after: format in the second.
        stored_bytes: more in the second.
        loss_increase_nats: more in the second, predicted.
    """

    layer: str
    before: str
    after: str
    stored_bytes: int
    loss_increase_nats: float


@dataclass(frozen=True)
class Difference:
    """The second plan beside the first.

    Attributes:
        changes: the layers that differ, in their order.
        num_layers: in all.
        stored_bytes: of both plans.
        average_bits: of both.
        loss_increase_nats: of both, predicted.
        same_profile: whether both were priced by one profile; otherwise their losses need not compare.
    """

    changes: tuple[LayerChange, ...]
    num_layers: int
    stored_bytes: tuple[int, int]
    average_bits: tuple[float, float]
    loss_increase_nats: tuple[float, float]
    same_profile: bool

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain values, for JSON."""
        return asdict(self)


def difference(first: Plan, second: Plan) -> Difference:
    """Compare two plans layer by layer.

    Args:
        first: a plan.
        second: another of the same layers.

    Returns:
        The difference.

    Raises:
        InputError: they are of different layers.
    """
    names = [[assignment.layer for assignment in plan.assignments] for plan in (first, second)]
    if names[0] != names[1]:
        raise InputError(
            f"the plans are of different layers ({first.model_source} with {len(names[0])}, {second.model_source} with "
            f"{len(names[1])}). Compare plans of one model."
        )
    changes = tuple(
        LayerChange(
            a.layer, a.format, b.format, b.stored_bytes - a.stored_bytes, b.loss_increase_nats - a.loss_increase_nats
        )
        for a, b in zip(first.assignments, second.assignments, strict=True)
        if a.format != b.format
    )
    return Difference(
        changes,
        len(first.assignments),
        (first.stored_bytes, second.stored_bytes),
        (first.average_bits, second.average_bits),
        (first.loss_increase_nats, second.loss_increase_nats),
        first.profile_sha256 == second.profile_sha256,
    )
