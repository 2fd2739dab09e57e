"""From a plan to a refined plan; refinement.py takes the steps.

Knows nothing about command lines.
"""

from collections.abc import Callable

from ..common.errors import InputError
from ..common.progress import Progress
from ..models.loading import LoadedModel
from ..planning.plan import Plan, RefinementStep
from ..planning.solve import Search, choose_formats, plan_of
from ..sensitivity.calibration.capture import LabelDraws
from ..sensitivity.profile import Profile
from .refinement import Refinement, require_refinable


def refine_plan(
    plan: Plan,
    profile: Profile,
    load: Callable[[], LoadedModel],
    search: Search,
    max_steps: int,
    progress: Progress,
    report: Callable[[str], None],
) -> Plan:
    """Try steps to plans that measure better.

    Args:
        plan: as solved.
        profile: that it was solved from.
        load: loads the original model, once the plan is known to be refinable.
        search: solves each step's program.
        max_steps: steps that are tried.
        progress: shows how far the passes are.
        report: is told what each step did, a line each.

    Returns:
        The refined plan; the plan itself where no step was kept.

    Raises:
        InputError: no step, or the plan's program is not one that can be refined.
    """
    if max_steps < 1:
        raise InputError(f"refining in {max_steps} steps tries none. Give the most steps to try, such as --refine 4.")
    require_refinable(plan.program, profile)
    refinement = Refinement(
        load(),
        profile,
        plan.program,
        lambda instance: choose_formats(instance, search.solver, search.settings),
        LabelDraws(profile.record.seed),
        progress,
        plan.formats(),
    )
    steps: list[RefinementStep] = []
    for step in refinement.steps(max_steps):
        steps.append(step)
        report(f"step {len(steps)}: {_describe(step)}")
    if not any(step.kept for step in steps):
        report("no step lowered the measured loss: the plan stays as it was solved")
        return plan
    choice = tuple(unit.formats.index(refinement.formats[unit.name]) for unit in plan.program.units)
    update = {"status": "REFINED", "objectives": (), "refinement": tuple(steps)}
    certificate = plan.certificate.model_copy(update=update)
    return plan_of(profile, profile.origin, plan.program, choice, certificate)


def _describe(step: RefinementStep) -> str:
    error = "" if step.change_standard_error_nats is None else f" ± {step.change_standard_error_nats:.2g}"
    return (
        f"{step.num_moved} layers changed format, predicted {step.predicted_change_nats:+.3g} nats per token, measured "
        f"{step.change_nats:+.3g}{error} from {step.kl_nats:.4g} on text that the gradient did not see: "
        f"{'kept' if step.kept else 'dropped'}"
    )
