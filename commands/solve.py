"""Commands about the integer program: solve, verify, edit, diff, frontier."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..common.progress import Progress
    from ..models.loading import LoadedModel
    from ..planning.plan import Plan, RefinementStep
    from ..planning.solve import ProfileOrigin
    from ..sensitivity.profile import Profile
    from ..solver.milp.base import MilpSolver, SolverSettings

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..common.errors import ScantlingError
from .diagnosis import diagnose
from .files import profile_beside, profile_path_of
from .flags import (
    DetailsOption,
    JsonOption,
    ModelOption,
    PlanArgument,
    ProfileArgument,
    ProfileOption,
    TrustOption,
    with_program_flags,
)
from .loading import load, progress
from .safety import SafeOptions, safe_plan

if TYPE_CHECKING:
    from ..planning.diagnosis import Diagnosis
    from ..planning.plan import Plan
    from ..planning.program import Program
    from ..planning.solve import ProfileOrigin
    from ..sensitivity.profile import Profile
    from ..solver.instance import Instance
    from ..solver.milp.base import MilpSolver, SolverSettings

app = typer.Typer()
Search = tuple["MilpSolver", "SolverSettings"]
NO_PLAN_STATUS = 3


def _profile_and_origin(profile_path: Path) -> "tuple[Profile, ProfileOrigin]":
    from ..common.files import file_sha256
    from ..planning.solve import ProfileOrigin
    from ..sensitivity.profile import read_profile

    return read_profile(profile_path), ProfileOrigin(profile_path, file_sha256(profile_path))


def _program(profile: "Profile", flags: dict[str, Any]) -> "Program":
    from ..planning.flags import ProgramOptions, program_from_options

    return program_from_options(profile, ProgramOptions(**flags))


def _stated(program: "Program", search: Search) -> "Instance":
    from ..planning.power_ratio import stated
    from ..planning.solve import formats_or_none

    return stated(program, lambda instance: formats_or_none(instance, *search))


def _show(plan: "Plan", diagnosis: "Diagnosis | None", *, as_json: bool, details: bool = False) -> None:
    from ..reporting.terminal.plan_view import render_plan

    if as_json or diagnosis is None:
        typer.echo(plan.model_dump_json(exclude={"program"}))
    else:
        render_plan(plan, diagnosis, Console(markup=False), details=details)


@app.command()
@with_program_flags
def solve(
    profile_path: ProfileArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The plan to write.")],
    flags: dict[str, Any],
    search: Search,
    save_program: Annotated[
        Path | None, typer.Option(help="Also write the program itself as JSON.", rich_help_panel="Solver")
    ] = None,
    safety: Annotated[
        Path | None,
        typer.Option(
            help="A safety file: --safety-factor takes its text and thresholds.", rich_help_panel="Factor of safety"
        ),
    ] = None,
    predicted_only: Annotated[
        bool,
        typer.Option(
            "--predicted-only",
            help="Predict the factor from the safety file; measure nothing.",
            rich_help_panel="Factor of safety",
        ),
    ] = False,
    refine: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Then try N steps to plans that measure better, with the model; takes about a profile's time.",
            rich_help_panel="Solver",
        ),
    ] = None,
    joint: Annotated[
        bool,
        typer.Option(
            "--joint",
            help="Also price the plan as a whole, with what the errors of its layers have in common; needs the model, "
            "and less time than the profile took.",
        ),
    ] = False,
    model: ModelOption = None,
    trust_remote_code: TrustOption = False,
    cross_fit: Annotated[
        bool,
        typer.Option(
            help="Also price such plans on sequences that their solve did not see; four more solves. Not with "
            "--safety-factor, which measures the plan."
        ),
    ] = True,
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the best plan within limits and rules, with its proof.

    Exit status 3 when it is proven that there is none: then the conflict and what would mend it are printed.
    """  # noqa: DOC501
    from ..common.files import require_writable
    from ..planning.engine_cost import engine_cost
    from ..planning.explanation import InfeasibleError
    from ..planning.plan import write_plan
    from ..planning.solve import choose_formats
    from ..planning.solve import solve as solve_program
    from ..reporting.terminal.diagnostics import print_rarely_covered
    from ..solver.instance import write_instance

    require_writable(output, 1 << 16)
    profile, origin = _profile_and_origin(profile_path)
    program = _program(profile, flags)
    _validate_options(program, asks_for_safety=safety is not None or predicted_only, refines=refine is not None)

    def plan_of(wanted: "Program") -> "Plan":
        instance = _stated(wanted, search)
        if save_program is not None:
            write_instance(instance, save_program)
        return solve_program(profile, origin, instance, *search)

    try:
        if program.safety_factor is None:
            plan = plan_of(program)
        else:
            plan = safe_plan(program, origin, plan_of, SafeOptions(safety, predicted_only, model, trust_remote_code))
    except InfeasibleError as error:
        typer.echo(error.explanation.model_dump_json() if as_json else str(error), err=not as_json)
        raise typer.Exit(NO_PLAN_STATUS) from error
    write_plan(plan, output)
    source = model or plan.model_source
    later = (
        lambda: load(source, trust_remote_code=trust_remote_code),
        progress(),
        lambda line: typer.echo(line, err=as_json),
    )
    if refine is not None:
        plan = refined_plan(plan, (profile, origin), search, refine, later)
        write_plan(plan, output)
    if joint:
        plan = jointly_priced(plan, profile, later)
        write_plan(plan, output)
    if as_json:
        _show(plan, None, as_json=True)
        print_rarely_covered(profile, Console(markup=False, stderr=True))
        return
    diagnosis = diagnose(
        plan,
        profile,
        choose=(lambda part: choose_formats(_stated(_program(part, flags), search), *search))
        if cross_fit and program.safety_factor is None
        else None,
        engine_cost=engine_cost(profile, plan.program, plan.formats(), *search) if refine is None else None,
    )
    _show(plan, diagnosis, as_json=False, details=details)


def _validate_options(program: "Program", *, asks_for_safety: bool, refines: bool) -> None:
    if program.safety_factor is None and asks_for_safety:
        raise ScantlingError("--safety and --predicted-only are for --safety-factor, which was not given.")
    if program.safety_factor is not None and refines:
        raise ScantlingError("--safety-factor and --refine both measure plans and solve again: give one of them.")


@app.command()
def verify(plan_path: PlanArgument, profile_path: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Add up every limit, rule and objective of a plan again, without any solver; exit status 1 if one does not hold.

    Where the profile is at hand, bytes and losses are also held against it.
    """  # noqa: DOC501
    import json

    from ..planning.plan import read_plan
    from ..planning.verify_plan import verify_plan

    plan = read_plan(plan_path)
    found = verify_plan(plan, profile_path or profile_beside(plan_path, plan.profile_path))
    if as_json:
        typer.echo(json.dumps({"valid": not found.faults, "faults": found.faults, "checked": found.checked}))
    else:
        for line in found.checked:
            typer.echo(f"holds: {line}")
        for line in found.faults:
            typer.echo(f"DOES NOT HOLD: {line}")
    if found.faults:
        raise typer.Exit(1)


@app.command()
def edit(
    plan_path: PlanArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The plan to write.")],
    settings: Annotated[list[str], typer.Option("--set", help="PATTERN=FORMAT; repeatable, the last one counts.")],
    force: Annotated[bool, typer.Option("--force", help="Write it even if it breaks limits or rules.")] = False,
    profile_path: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set formats by hand: the plan is priced and checked again, and the cost of the change is said."""
    from ..planning.edit_plan import edit_plan
    from ..planning.plan import read_plan, write_plan
    from ..sensitivity.profile import read_profile

    plan = read_plan(plan_path)
    path = profile_path_of(plan, plan_path, profile_path)
    profile = read_profile(path)
    edited = edit_plan(plan, profile, path, settings)
    for fault in edited.faults:
        typer.echo(f"breaks {fault}", err=True)
    if edited.faults and not force:
        raise ScantlingError(
            "the edited plan was not written: it breaks limits or rules. Write it anyway with --force."
        )
    write_plan(edited.plan, output)
    _show(edited.plan, None if as_json else diagnose(edited.plan, profile), as_json=as_json)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A plan.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another of the same model.")],
    as_json: JsonOption = False,
) -> None:
    """Show where two plans differ, and what that comes to."""
    import json

    from ..planning.plan import read_plan
    from ..planning.plan_diff import difference
    from ..reporting.terminal.plan_tables import print_difference

    found = difference(read_plan(first), read_plan(second))
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        print_difference(found, str(first), str(second), Console(markup=False))


@app.command()
@with_program_flags
def frontier(
    profile_path: ProfileArgument,
    flags: dict[str, Any],
    search: Search,
    against: Annotated[list[str], typer.Option(help="What is limited, such as memory; give two for a grid.")],
    lowest: Annotated[list[str] | None, typer.Option("--from", help="Tightest limit; default: the least.")] = None,
    highest: Annotated[list[str] | None, typer.Option("--to", help="Loosest limit; default: the most.")] = None,
    points: Annotated[str, typer.Option(help="How many (along each axis of a grid), or 'every' breakpoint.")] = "20",
    nested: Annotated[bool, typer.Option("--nested", help="A tighter plan never raises a layer's bits.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw it to a .png, .svg or .pdf file.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the points as JSON.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The least predicted loss at every limit: each point a proven optimum."""
    from ..planning.pareto import FrontierRequest, sweep_frontier
    from ..reporting.terminal.plan_tables import print_frontier
    from ..reporting.terminal.progress import TerminalProgress

    profile, _ = _profile_and_origin(profile_path)
    instance = _program(profile, flags).instance()
    sweep = FrontierRequest(tuple(against), tuple(lowest or ()), tuple(highest or ()), points, nested)
    found = sweep_frontier(profile, instance, sweep, *search, TerminalProgress(Console(stderr=True)))
    if output is not None:
        found.write(output)
    if picture is not None:
        from ..reporting.terminal.frontier_plot import draw_frontier

        draw_frontier(found, picture)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        print_frontier(found, Console(markup=False))


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
    from ..planning.plan import JointLoss
    from ..reporting.terminal.verdicts import render_nats
    from ..sensitivity.joint import joint_samples

    load, progress, say = later
    samples = joint_samples(load(), profile, {"plan": plan.formats()}, progress)["plan"]
    joint = JointLoss(loss_increase_nats=samples.price(), loss_increase_standard_error_nats=samples.standard_error())
    whole = render_nats(joint.loss_increase_nats, joint.loss_increase_standard_error_nats)
    summed = render_nats(plan.loss_increase_nats, plan.loss_increase_standard_error_nats)
    say(
        f"Priced as a whole, with what the errors of its layers have in common: predicted KL {whole} nats per token; "
        f"the sum of its layers' prices is {summed}."
    )
    return plan.model_copy(update={"joint": joint})


def refined_plan(
    plan: "Plan",
    solved_from: "tuple[Profile, ProfileOrigin]",
    search: "tuple[MilpSolver, SolverSettings]",
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
    from ..common.errors import ScantlingError
    from ..evaluation.refinement import Refinement, require_refinable
    from ..planning.solve import choose_formats, plan_of
    from ..sensitivity.calibration.capture import LabelDraws

    profile, origin = solved_from
    load, progress, say = later
    if most_steps < 1:
        raise ScantlingError(f"--refine {most_steps} asks for no step. Give the steps to be tried at most, such as 4.")
    require_refinable(plan.program, profile)
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
        say(f"step {len(steps)}: {_describe(step)}")
    if not any(step.kept for step in steps):
        say("no step lowered the measured loss: the plan stays as it was solved")
        return plan
    choice = tuple(unit.formats.index(refinement.formats[unit.name]) for unit in plan.program.units)
    update = {"status": "REFINED", "objectives": (), "refinement": tuple(steps)}
    certificate = plan.certificate.model_copy(update=update)
    return plan_of(profile, origin, plan.program, choice, certificate)


def _describe(step: "RefinementStep") -> str:
    error = "" if step.change_standard_error_nats is None else f" ± {step.change_standard_error_nats:.2g}"
    return (
        f"{step.num_moved} layers moved, predicted {step.predicted_change_nats:+.3g} nats per token, measured "
        f"{step.change_nats:+.3g}{error} from {step.kl_nats:.4g} on text that the gradient did not see: "
        f"{'kept' if step.kept else 'dropped'}"
    )
