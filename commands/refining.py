"""The option ``--refine`` of solve: steps from a plan to one that measures better.

Knows nothing about how steps are found.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..backends.model import LoadedModel
    from ..backends.progress import Progress
    from ..sensitivity.planning import Origin
    from ..sensitivity.profile import Profile
    from ..solver.engine import Engine, SearchSettings
    from ..solver.plan import Plan, RefinementStep


def refined_plan(
    plan: "Plan",
    solved_from: "tuple[Profile, Origin]",
    search: "tuple[Engine, SearchSettings]",
    most_steps: int,
    later: "tuple[Callable[[], LoadedModel], Progress, Callable[[str], None]]",
) -> "Plan":
    """Refine a plan, and say what every step did.

    Args:
        plan: as solved.
        solved_from: its profile, and where that lies.
        search: engine and settings.
        most_steps: that are tried.
        later: loads the model, once the plan is known to be refinable; shows how far the passes are; says a line.

    Returns:
        The refined plan; the plan itself where no step was kept.

    Raises:
        ScantlingError: the number of steps, or the plan's program, is no case for refinement.
    """
    from ..evaluation.refinement import Refinement, refuse_unrefinable
    from ..sensitivity.capture import LabelDraws
    from ..sensitivity.planning import choose_formats, plan_of
    from ..solver.errors import ScantlingError

    profile, origin = solved_from
    load, progress, say = later
    if most_steps < 1:
        raise ScantlingError(f"--refine {most_steps} asks for no step. Give the steps to be tried at most, such as 4.")
    refuse_unrefinable(plan.program, profile)
    refinement = Refinement(
        load(),
        profile,
        plan.program,
        lambda instance: choose_formats(instance, *search),
        LabelDraws(profile.record.seed),
        progress,
        plan.formats(),
    )
    steps = []
    for step in refinement.steps(most_steps):
        steps.append(step)
        say(f"step {len(steps)}: {_in_words(step)}")
    if not any(step.kept for step in steps):
        say("no step lowered the measured loss: the plan stays as it was solved")
        return plan
    choice = tuple(unit.formats.index(refinement.formats[unit.name]) for unit in plan.program.units)
    update = {"status": "REFINED", "objectives": (), "refinement": tuple(steps)}
    certificate = plan.certificate.model_copy(update=update)
    return plan_of(profile, origin, plan.program, choice, certificate)


def _in_words(step: "RefinementStep") -> str:
    error = "" if step.change_standard_error_nats is None else f" ± {step.change_standard_error_nats:.2g}"
    return (
        f"{step.num_moved} layers moved, predicted {step.predicted_change_nats:+.3g} nats per token, measured "
        f"{step.change_nats:+.3g}{error} from {step.kl_nats:.4g} on text that the gradient did not see: "
        f"{'kept' if step.kept else 'dropped'}"
    )
