"""The option ``--joint`` of solve: a plan priced as a whole.

Knows nothing about how prices are computed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..backends.model import LoadedModel
    from ..backends.progress import Progress
    from ..sensitivity.profile import Profile
    from ..solver.plan import Plan


def jointly_priced(
    plan: "Plan", profile: "Profile", later: "tuple[Callable[[], LoadedModel], Progress, Callable[[str], None]]"
) -> "Plan":
    """Price a plan with what the errors of its layers have in common, and say it.

    Args:
        plan: as solved.
        profile: that it was solved from.
        later: loads the model; shows how far the passes are; says a line.

    Returns:
        The plan with its joint price.
    """
    from ..evaluation.verdicts import show_nats
    from ..sensitivity.joint import joint_samples
    from ..solver.plan import JointLoss

    load, progress, say = later
    samples = joint_samples(load(), profile, {"plan": plan.formats()}, progress)["plan"]
    joint = JointLoss(loss_increase_nats=samples.price(), loss_increase_standard_error_nats=samples.standard_error())
    whole = show_nats(joint.loss_increase_nats, joint.loss_increase_standard_error_nats)
    summed = show_nats(plan.loss_increase_nats, plan.loss_increase_standard_error_nats)
    say(
        f"Priced as a whole, with what the errors of its layers have in common: predicted KL {whole} nats per token; "
        f"the sum of its layers' prices is {summed}."
    )
    return plan.model_copy(update={"joint": joint})
