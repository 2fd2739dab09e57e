"""A factor of safety as a limit of the program.

What the model bears is known from a measured ladder, so a required factor is a limit on the plan's loss:

    γ · D_plan ≤ D_yield / required factor              D_yield at the lower end of its interval, on every domain

γ bounds measured / predicted for loads like that limit. The plan is then measured. Where its factor falls short, the
limit is tightened by as much, and the program solved again, until the measured factor holds.

Where the limits leave no plan that is predicted to be safe, the best prediction without the margin of γ is tried before
that is said: only a measurement decides.

Knows nothing about command lines.
"""

from collections.abc import Callable

from ...common.errors import ScantlingError
from ...planning.explanation import InfeasibleError
from ...planning.plan import Plan, SafetyClaim
from ...planning.program import Program
from .factor import margin_of_predicted
from .record import PlanSafety, SafetyFile
from .run import SafetyRun

MOST_SOLVES = 8
_TIGHTER = 0.99  # a limit that was missed is tightened a little more than by what was missing
Say = Callable[[str], None]
PlanOf = Callable[[Program], Plan]


def predicted_limit_nats(safety: SafetyFile, required_factor: float, *, with_margin: bool = True) -> float:
    """Say how much loss may be predicted for a plan.

    Args:
        safety: a measured ladder.
        required_factor: at yield.
        with_margin: whether γ is a bound on measured / predicted, or their mean ratio alone.

    Returns:
        Nats per token, the least over the domains.
    """
    limits = []
    for position, curve in enumerate(safety.curves):
        borne = curve.yield_point.kl_nats.lower / required_factor
        sweep_points = [
            (sweep_point.predicted_kl_nats, sweep_point.domains[position].kl_nats.estimate)
            for sweep_point in safety.sweep
        ]
        prediction_margin = margin_of_predicted(borne, sweep_points, safety.bootstrap.confidence)
        limits.append(borne / (prediction_margin.value if with_margin else prediction_margin.mean_ratio))
    return min(limits)


def predicted_factor(safety: SafetyFile, predicted_nats: float) -> tuple[float, float]:
    """Give the factor of a plan by its prediction.

    Args:
        safety: a measured ladder.
        predicted_nats: of the plan, over all domains.

    Returns:
        The factor at yield and its lower end, the least over the domains.
    """
    factors, lower_ends = [], []
    for position, curve in enumerate(safety.curves):
        sweep_points = [
            (sweep_point.predicted_kl_nats, sweep_point.domains[position].kl_nats.estimate)
            for sweep_point in safety.sweep
        ]
        loaded = predicted_nats * margin_of_predicted(predicted_nats, sweep_points, safety.bootstrap.confidence).value
        factors.append(curve.yield_point.kl_nats.estimate / loaded)
        lower_ends.append(curve.yield_point.kl_nats.lower / loaded)
    return min(factors), min(lower_ends)


def solve_predicted(program: Program, safety: SafetyFile, plan_of: PlanOf) -> Plan:
    """Solve for a factor of safety by prediction alone.

    Args:
        program: asks for the factor.
        safety: a measured ladder of the same profile.
        plan_of: solves a program.

    Returns:
        The plan; its claim says that it is not confirmed.

    Raises:
        ScantlingError: none was found whose predicted factor is reached.
    """
    required = _required(program)
    limit = predicted_limit_nats(safety, required)
    for num_solves in range(1, MOST_SOLVES + 1):
        plan = plan_of(program.safe_below(limit))
        factor, lower = predicted_factor(safety, plan.loss_increase_nats)
        if lower >= required:
            return _claimed(
                plan,
                SafetyClaim(
                    required_factor=required, factor=factor, factor_lower=lower, confirmed=False, num_solves=num_solves
                ),
            )
        limit = _TIGHTER * min(limit, plan.loss_increase_nats * lower / required)
    raise ScantlingError(_no_end(required))


def solve_safely(program: Program, run: SafetyRun, plan_of: PlanOf, say: Say) -> tuple[Plan, PlanSafety]:
    """Solve for a factor of safety, and confirm it by measurement.

    Args:
        program: asks for the factor.
        run: measures ladder and plans.
        plan_of: solves a program.
        say: tells a person what was tried.

    Returns:
        The plan, whose measured factor holds, and the measurement.

    Raises:
        ScantlingError: none was found whose measured factor holds.
        InfeasibleError: the limits leave none.
    """
    required = _required(program)
    safety = run.record((run.measure_plans({})[0], {}))
    limit = predicted_limit_nats(safety, required)
    try:
        plan = plan_of(program.safe_below(limit))
    except InfeasibleError:
        limit = predicted_limit_nats(safety, required, with_margin=False)
        say("no plan is predicted to be safe with γ's margin; trying without, as only the measurement decides")
        plan = plan_of(program.safe_below(limit))
    for num_solves in range(1, MOST_SOLVES + 1):
        name = f"solve {num_solves}"
        found = run.measure_plans({name: plan.formats()})[1][name]
        say(
            f"{name}: limit {limit:.4f} nats, predicted {plan.loss_increase_nats:.4f}; measured factor "
            f"{found.factor:.3f}, lower bound {found.factor_lower:.3f}, required {required:g}"
        )
        if found.factor_lower >= required:
            return _claimed(
                plan,
                SafetyClaim(
                    required_factor=required,
                    factor=found.factor,
                    factor_lower=found.factor_lower,
                    confirmed=True,
                    num_solves=num_solves,
                ),
            ), found
        limit = _TIGHTER * min(limit, plan.loss_increase_nats * found.factor_lower / required)
        plan = plan_of(program.safe_below(limit))
    raise ScantlingError(_no_end(required))


def _required(program: Program) -> float:
    if program.safety_factor is None:
        raise ScantlingError("no factor of safety was asked for. Give --safety-factor, such as 1.5.")
    return program.safety_factor


def _claimed(plan: Plan, claim: SafetyClaim) -> Plan:
    return plan.model_copy(update={"safety": claim})


def _no_end(required: float) -> str:
    return (
        f"no plan was found in {MOST_SOLVES} solves whose factor of safety of {required:g} holds. Ask for less, or "
        "loosen the other limits."
    )
