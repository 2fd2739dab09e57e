"""The price of a plan as a whole, with what the errors of its layers have in common.

Knows nothing about how that is measured; see sensitivity/joint.py.
"""

from typing import TYPE_CHECKING

from ..common.progress import Progress
from ..sensitivity.profile import Profile
from .plan import JointLoss, Plan

if TYPE_CHECKING:
    from ..models.loading import LoadedModel


def with_joint_loss(plan: Plan, profile: Profile, loaded: "LoadedModel", progress: Progress) -> Plan:
    """Price a plan as a whole; ``profile`` is the plan's, ``loaded`` the original model."""
    from ..sensitivity.joint import joint_samples  # noqa: PLC0415 - needs torch, which solving does not

    samples = joint_samples(loaded, profile, {"plan": plan.formats()}, progress)["plan"]
    joint = JointLoss(loss_increase_nats=samples.price(), loss_increase_standard_error_nats=samples.standard_error())
    return plan.model_copy(update={"joint": joint})
