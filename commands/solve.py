"""Commands about the integer program: solve, verify, edit, diff, frontier."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..common.errors import InputError
from .files import profile_path_of
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
from .loading import progress

if TYPE_CHECKING:
    from ..planning.diagnosis import Diagnosis
    from ..planning.plan import Plan
    from ..planning.program import Program

app = typer.Typer()
NO_PLAN_STATUS = 3


def _program(profile_path: Path, flags: dict[str, Any]) -> "Program":
    from ..planning.flags import ProgramOptions, program_from_options
    from ..sensitivity.profile import read_profile

    return program_from_options(read_profile(profile_path), ProgramOptions(**flags))


def _print_plan(plan: "Plan", diagnosis: "Diagnosis", *, as_json: bool, details: bool = False) -> None:
    import json

    from ..reporting.terminal.plan_view import render_plan

    if as_json:
        record = {**plan.model_dump(mode="json", exclude={"program"}), "diagnosis": diagnosis.model_dump(mode="json")}
        typer.echo(json.dumps(record, ensure_ascii=False))
    else:
        render_plan(plan, diagnosis, Console(markup=False), details=details)


@app.command()
@with_program_flags
def solve(
    profile_path: ProfileArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The plan to write.")],
    flags: dict[str, Any],
    search: dict[str, Any],
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
            help="Then try N steps to plans that measure better, with the model; takes about as long as profiling.",
            rich_help_panel="Solver",
        ),
    ] = None,
    joint: Annotated[
        bool,
        typer.Option(
            "--joint",
            help="Also price the plan as a whole, with what the errors of its layers have in common; needs the model, "
            "and less time than profiling.",
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
    from ..common.files import require_other_file, require_writable
    from ..planning.explanation import InfeasibleError

    require_writable(output, 1 << 16)
    require_other_file(output, profile_path)
    program = _program(profile_path, flags)
    if program.safety_factor is not None and refine is not None:
        raise InputError("--safety-factor and --refine both measure plans and solve again: give one of them.")
    try:
        plan = program.solve(
            **search,
            save_program=save_program,
            safety_file=safety,
            predicted_only=predicted_only,
            model=model,
            trust_remote_code=trust_remote_code,
            progress=progress(),
            report=lambda line: typer.echo(line, err=True),
        )
    except InfeasibleError as error:
        explanation = error.explanation
        typer.echo(explanation.model_dump_json() if as_json and explanation else str(error), err=not as_json)
        raise typer.Exit(NO_PLAN_STATUS) from error
    plan.save(output)
    if refine is not None:
        plan = plan.refine(
            refine,
            model=model,
            trust_remote_code=trust_remote_code,
            progress=progress(),
            report=lambda line: typer.echo(line, err=as_json),
            **search,
        )
        plan.save(output)
    if joint:
        plan = plan.price_jointly(model=model, trust_remote_code=trust_remote_code, progress=progress())
        plan.save(output)
        _print_joint(plan, err=as_json)
    diagnosis = plan.diagnose(
        cross_fit=cross_fit and program.safety_factor is None, engine_cost=refine is None, **search
    )
    _print_plan(plan, diagnosis, as_json=as_json, details=details)


def _print_joint(plan: "Plan", *, err: bool) -> None:
    from ..reporting.terminal.verdicts import render_nats

    assert plan.joint is not None
    whole = render_nats(plan.joint.loss_increase_nats, plan.joint.loss_increase_standard_error_nats)
    summed = render_nats(plan.loss_increase_nats, plan.loss_increase_standard_error_nats)
    typer.echo(
        f"Priced as a whole, with what the errors of its layers have in common: predicted KL {whole} nats per token; "
        f"the sum of its layers' prices is {summed}.",
        err=err,
    )


@app.command()
def verify(plan_path: PlanArgument, profile_path: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Add up every limit, rule and objective of a plan again, without any solver; exit status 1 if one does not hold.

    Where the profile is at hand, bytes and losses are also held against it.
    """  # noqa: DOC501
    import json

    from ..planning.plan import Plan

    found = Plan.load(plan_path).verify(profile_path)
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
    from ..planning.plan import read_plan
    from ..sensitivity.profile import read_profile

    plan = read_plan(plan_path)
    path = profile_path_of(plan, plan_path, profile_path)
    profile = read_profile(path)
    edited = edit_plan(plan, profile, path, settings)
    for fault in edited.faults:
        typer.echo(f"breaks {fault}", err=True)
    if edited.faults and not force:
        raise InputError("the edited plan was not written: it breaks limits or rules. Write it anyway with --force.")
    edited.plan.save(output)
    diagnosis = edited.plan.diagnose(profile, cross_fit=False, engine_cost=False)
    _print_plan(edited.plan, diagnosis, as_json=as_json)


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
    search: dict[str, Any],
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
    from ..planning.solve import search_with
    from ..reporting.terminal.plan_tables import print_frontier

    program = _program(profile_path, flags)
    using = search_with(**search)
    sweep = FrontierRequest(tuple(against), tuple(lowest or ()), tuple(highest or ()), points, nested)
    found = sweep_frontier(program.profile, program.instance(), sweep, using.solver, using.settings, progress())
    if output is not None:
        found.write(output)
    if picture is not None:
        from ..reporting.terminal.frontier_plot import draw_frontier

        draw_frontier(found, picture)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        print_frontier(found, Console(markup=False))
