"""A factor of safety as a limit of the program.

What the model bears is known from a measured budget sweep, so a required factor is a limit on the plan's loss:

    γ · D_plan ≤ D_yield / required factor              D_yield at the lower bound of its interval, on every domain

The prediction margin γ bounds measured / predicted for losses like that limit. The plan is then measured. Where its
factor falls short, the limit is tightened in proportion and the program solved again, until the measured factor holds.

Where the limits leave no plan that is predicted to be safe, the limit without the prediction margin is tried before
giving up: only a measurement decides.

Knows nothing about command lines.
"""

from collections.abc import Callable

from ...common.errors import InputError, ScantlingError
from ...planning.explanation import InfeasibleError
from ...planning.plan import Plan, SafetyClaim
from ...planning.program import Program
from .factor import margin_of_predicted
from .record import PlanSafety, SafetyFile
from .run import SafetyRun

MOST_SOLVES = 8
_TIGHTER = 0.99  # a missed limit is tightened a little further than in proportion
Say = Callable[[str], None]
PlanOf = Callable[[Program], Plan]


def predicted_limit_nats(safety: SafetyFile, required_factor: float, *, with_margin: bool = True) -> float:
    """Give the largest loss that may be predicted for a plan.

    Args:
        safety: a measured sweep.
        required_factor: at yield.
        with_margin: allow for the prediction margin; else for the mean of measured / predicted alone.

    Returns:
        Nats per token, minimum over the domains.
    """
    limits = []
    for position, curve in enumerate(safety.curves):
        borne = curve.yield_point.kl_nats.lower / required_factor
        margin = margin_of_predicted(borne, _points_of(safety, position), safety.bootstrap.confidence)
        limits.append(borne / (margin.value if with_margin else margin.mean_ratio))
    return min(limits)


def _points_of(safety: SafetyFile, domain: int) -> list[tuple[float, float]]:
    """Give the predicted and the measured nats of every sweep point on a domain."""
    return [(point.predicted_kl_nats, point.domains[domain].kl_nats.estimate) for point in safety.sweep]


def predicted_factor(safety: SafetyFile, predicted_nats: float) -> tuple[float, float]:
    """Give the factor at yield of a plan with this prediction, and its lower bound, minimum over the domains."""
    factors, lower_ends = [], []
    for position, curve in enumerate(safety.curves):
        margin = margin_of_predicted(predicted_nats, _points_of(safety, position), safety.bootstrap.confidence)
        loaded = predicted_nats * margin.value
        factors.append(curve.yield_point.kl_nats.estimate / loaded)
        lower_ends.append(curve.yield_point.kl_nats.lower / loaded)
    return min(factors), min(lower_ends)


def solve_predicted(program: Program, safety: SafetyFile, plan_of: PlanOf) -> Plan:
    """Solve for a factor of safety by prediction alone.

    Args:
        program: with a required factor.
        safety: a measured sweep of the same profile.
        plan_of: solves a program.

    Returns:
        The plan; its claim is not confirmed.

    Raises:
        ScantlingError: no plan was found whose predicted factor holds.
    """
    required = _required(program)
    limit = predicted_limit_nats(safety, required)
    for num_solves in range(1, MOST_SOLVES + 1):
        plan = plan_of(program.safe_below(limit))
        factor, lower = predicted_factor(safety, plan.loss_increase_nats)
        if lower >= required:
            return _claimed(plan, required, (factor, lower), num_solves, confirmed=False)
        limit = _TIGHTER * min(limit, plan.loss_increase_nats * lower / required)
    raise ScantlingError(_not_found(required))


def solve_safely(program: Program, run: SafetyRun, plan_of: PlanOf, say: Say) -> tuple[Plan, PlanSafety]:
    """Solve for a factor of safety, and confirm it by measurement.

    Args:
        program: with a required factor.
        run: measures sweep and plans.
        plan_of: solves a program.
        say: reports each attempt to a person.

    Returns:
        The plan, whose measured factor holds, and the measurement.

    Raises:
        ScantlingError: no plan was found whose measured factor holds.
        InfeasibleError: the limits leave none.
    """
    required = _required(program)
    safety = run.record((run.measure_plans({})[0], {}))
    limit = predicted_limit_nats(safety, required)
    try:
        plan = plan_of(program.safe_below(limit))
    except InfeasibleError:
        limit = predicted_limit_nats(safety, required, with_margin=False)
        say("no plan is predicted to be safe with the prediction margin; trying without, as only measurement decides")
        plan = plan_of(program.safe_below(limit))
    for num_solves in range(1, MOST_SOLVES + 1):
        name = f"solve {num_solves}"
        found = run.measure_plans({name: plan.formats()})[1][name]
        say(
            f"{name}: limit {limit:.4f} nats, predicted {plan.loss_increase_nats:.4f}; measured factor "
            f"{found.factor:.3f}, lower bound {found.factor_lower:.3f}, required {required:g}"
        )
        if found.factor_lower >= required:
            return _claimed(plan, required, (found.factor, found.factor_lower), num_solves, confirmed=True), found
        limit = _TIGHTER * min(limit, plan.loss_increase_nats * found.factor_lower / required)
        plan = plan_of(program.safe_below(limit))
    raise ScantlingError(_not_found(required))


def _required(program: Program) -> float:
    if program.safety_factor is None:
        raise InputError("the program requires no factor of safety. Give --safety-factor, such as 1.5.")
    return program.safety_factor


def _claimed(
    plan: Plan, required: float, factor_and_lower: tuple[float, float], num_solves: int, *, confirmed: bool
) -> Plan:
    factor, lower = factor_and_lower
    claim = SafetyClaim(
        required_factor=required, factor=factor, factor_lower=lower, confirmed=confirmed, num_solves=num_solves
    )
    return plan.model_copy(update={"safety": claim})


def _not_found(required: float) -> str:
    return (
        f"no plan whose factor of safety of {required:g} holds was found in {MOST_SOLVES} solves. Require less, or "
        "loosen the other limits."
    )
