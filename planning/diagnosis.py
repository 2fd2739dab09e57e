"""What there is to know of a plan beside its certificate: what it saves, and how far its prediction can be trusted.

Knows nothing about how any of it is shown.
"""

from collections.abc import Mapping

from ..common.records import Finite, Record
from ..sensitivity.cross_fit import CrossFit
from .engine_cost import EngineCost


class NaiveCounterpart(Record):
    """What one would deploy within the plan's bytes without a program.

    Attributes:
        name: a uniform format, or an even mix of two.
        stored_bytes: of all its tensors.
        loss_increase_nats: predicted, per token.
        saved_nats: its predicted loss increase less the plan's, paired by sample.
        saved_standard_error_nats: of that difference; None with a single sample.
    """

    name: str
    stored_bytes: int
    loss_increase_nats: Finite
    saved_nats: Finite
    saved_standard_error_nats: Finite | None


class Diagnosis(Record):
    """What there is to know of a plan.

    Attributes:
        naive: what the same bytes buy without a program; None where no uniform format is as small.
        cross_fit: the price of such plans on sequences that their solve did not see; None where it was not made.
        cross_fit_left_out: why it was not made; None where it was, or was not wanted.
        engine_cost: what the inference engine's rules cost in predicted loss; None without an engine, or where it was
            not wanted.
        rare_experts: calibration tokens that reached each expert whose price is not known, by its path.
        num_experts: of the model; 0 for a dense one.
        warnings: why predictions of this profile may not hold, a sentence each.
    """

    naive: NaiveCounterpart | None
    cross_fit: CrossFit | None
    cross_fit_left_out: str | None
    engine_cost: EngineCost | None
    rare_experts: Mapping[str, int]
    num_experts: int
    warnings: tuple[str, ...]
