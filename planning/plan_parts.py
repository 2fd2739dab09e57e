"""The parts of a plan's record: formats of layers, limits and their prices, what is proven, what was measured.

Knows nothing about files.
"""

from collections.abc import Sequence
from typing import Literal

from ..common.records import Finite, Record


class Assignment(Record):
    """One layer's format.

    Attributes:
        layer: the layer's module path.
        kind: its path inside its block, or ``embedding``, ``head``.
        block: the index of its block; None outside the blocks.
        format: the name of its format.
        bits: the width of one weight's code; of a type of GGUF, bits per weight with its scales.
        num_weights: how many weights it has.
        stored_bytes: what it takes in the checkpoint, scales and zero points included.
        loss_increase_nats: its predicted share of the loss increase, in nats per token.
        decided: whether the program had a choice here.
    """

    layer: str
    kind: str
    block: int | None
    format: str
    bits: int | Finite
    num_weights: int
    stored_bytes: int
    loss_increase_nats: Finite
    decided: bool


class LimitUse(Record):
    """A limit, how much of it the plan uses, and what it is worth.

    Attributes:
        name: as its user calls it.
        origin: where it was given.
        measure: what it is counted in.
        step: one integer step in that measure.
        at_most: the upper bound in steps (nats for a limit on the loss); None for a lower bound.
        at_least: the lower bound, likewise.
        used: what the plan comes to.
        price_per_step: by how much the linear relaxation of the objective falls for one step more; None where unknown.
        has_effect: False where the optimum is proven to be the same without this limit; None where that was not
            settled.
    """

    name: str
    origin: str
    measure: str
    step: Finite
    at_most: int | Finite | None
    at_least: int | None
    used: int | Finite
    price_per_step: Finite | None = None
    has_effect: bool | None = None


class Objective(Record):
    """What is proven about one objective.

    Attributes:
        name: ``loss_increase`` or a row's name.
        measure: what it is counted in: ``nats per token``, ``bytes``.
        step: one step of value and bound in that measure.
        value: of the plan, added up without the solver.
        bound: no plan within the limits has less.
        resolution: how far the solver's numbers may be from the costs over a whole plan.
    """

    name: str
    measure: str
    step: Finite = 1.0
    value: Finite
    bound: Finite
    resolution: Finite

    @property
    def gap(self) -> float:
        """By how much a better plan could be better, at most."""
        return self.value - self.bound


class RefinementStep(Record):
    """One step of a refinement that was tried, see evaluation/refinement.py.

    Attributes:
        num_moved: layers whose format changed.
        predicted_change_nats: of the KL divergence, on the sequences of the gradient.
        signal_share: of what the separable prices do not explain, the share that is not noise.
        kl_nats: of the plan before the step, on the sequences that the gradient did not see.
        change_nats: of the measured KL divergence there.
        change_standard_error_nats: paired over those sequences; None for a single one.
        kept: whether the step was kept.
    """

    num_moved: int
    predicted_change_nats: Finite
    signal_share: Finite
    kl_nats: Finite
    change_nats: Finite
    change_standard_error_nats: Finite | None
    kept: bool


class Certificate(Record):
    """What is proven about the plan.

    Attributes:
        status: ``OPTIMAL``; ``FEASIBLE`` where the search ended before the proof; ``EDITED`` where formats were set
            by hand; ``REFINED`` where steps were taken from a proven plan to one that measures better.
        objectives: in the order in which they were minimised; empty for an edited or refined plan.
        solve_seconds: wall time from the program to the answer.
        solver: its name and version.
        seed: of its random choices.
        num_units: decisions with more than one format.
        num_options: their formats in all.
        num_core_options: what was left for the solver after presolve; 0 where presolve proved the plan alone.
        num_free_units: decisions to which the limits leave more than one format; None where that was not looked at.
        refinement: the steps that were tried, of a refined plan.
    """

    status: Literal["OPTIMAL", "FEASIBLE", "EDITED", "REFINED"]
    objectives: tuple[Objective, ...]
    solve_seconds: Finite
    solver: str
    seed: int
    num_units: int
    num_options: int
    num_core_options: int
    num_free_units: int | None = None
    refinement: tuple[RefinementStep, ...] = ()


class SafetyClaim(Record):
    """The factor of safety that a plan was solved for.

    Attributes:
        required_factor: that was required.
        factor: D_yield / (γ · D_plan), the least over the domains.
        factor_lower: the lower end of its interval.
        confirmed: whether D_plan was measured; a predicted one is no confirmation.
        num_solves: plans that were solved on the way.
    """

    required_factor: Finite
    factor: Finite
    factor_lower: Finite
    confirmed: bool
    num_solves: int


class JointLoss(Record):
    """What a plan is predicted to cost as a whole, with what the errors of its layers have in common.

    Attributes:
        loss_increase_nats: in nats per token.
        loss_increase_standard_error_nats: over the pricing sequences; None where there is only one.
    """

    loss_increase_nats: Finite
    loss_increase_standard_error_nats: Finite | None


def average_bits(bits_and_weights: Sequence[tuple[float, int]]) -> float:
    """Average a width over weights: Σ bits · weights / Σ weights.

    Args:
        bits_and_weights: the width and the number of weights of every layer.

    Returns:
        Bits per weight; 0 where there are no layers.

    >>> average_bits([(2, 100), (8, 50)])
    4.0
    """
    num_weights = sum(weights for _, weights in bits_and_weights)
    return sum(bits * weights for bits, weights in bits_and_weights) / num_weights if num_weights else 0.0
