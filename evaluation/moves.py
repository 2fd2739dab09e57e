"""Which layers a plan gives other formats than another choice does, and why.

Knows nothing about measurement.
"""

from collections.abc import Mapping

from ..sensitivity.profile import Profile
from ..solver.exchange import exchanges
from ..solver.plan import Plan
from .comparison import Move


def moves(profile: Profile, plan: Plan, formats: Mapping[str, str]) -> tuple[Move, ...]:
    """List where a plan differs from other formats.

    Args:
        profile: that the plan was solved from.
        plan: the plan.
        formats: the other choice: of every layer.

    Returns:
        The layers that differ, in the order of the model.
    """
    plan_loss = plan.loss_increase_nats
    other_loss, _ = profile.predict(dict(formats))
    found = []
    for one in exchanges(plan, formats):
        layer = profile.record.layers[one.unit]
        before, after = (profile.format_index[name] for name in (one.before, one.after))
        stored = dict(zip(layer.formats, layer.stored_bytes, strict=True))
        found.append(
            Move(
                layer=layer.name,
                kind=layer.kind,
                block=layer.block,
                before=one.before,
                after=one.after,
                stored_bytes=stored[after] - stored[before],
                saved_nats=one.saved_nats,
                share_of_plan_loss=profile.loss_increase_nats(one.unit, after) / plan_loss if plan_loss else 0.0,
                share_of_other_loss=profile.loss_increase_nats(one.unit, before) / other_loss if other_loss else 0.0,
                paid_nats=one.paid_nats,
                net_nats=one.net_nats,
            )
        )
    return tuple(found)
