"""Commands about how far a plan is from breaking."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..common.errors import ScantlingError
from .files import plan_and_profile, profile_path_of
from .flags import JsonOption, ModelOption, PlanArgument, ProfileOption, TrustOption
from .loading import load, progress

if TYPE_CHECKING:
    from ..evaluation.safety.solve_with_factor import PlanOf
    from ..planning.plan import Plan
    from ..planning.program import Program
    from ..sensitivity.profile import ProfileOrigin

app = typer.Typer()
FAILS_STATUS = 3


@app.command()
def safety(
    plan_path: PlanArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The safety file to write.")] = Path("safety.json"),
    other: Annotated[
        list[Path] | None, typer.Option("--plan", help="Another plan of the same profile; repeatable.")
    ] = None,
    uniform: Annotated[list[str] | None, typer.Option(help="A width or a format, judged too; repeatable.")] = None,
    require: Annotated[float, typer.Option(help="Factor that the lower bound at yield must reach.")] = 1.0,
    offset: Annotated[str, typer.Option(help="Rise of perplexity that is called yield.")] = "10%",
    ultimate: Annotated[str, typer.Option(help="Rise of perplexity that is called collapse.")] = "100%",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Evaluation text, NAME=SOURCE where several; default: what the profile's texts kept for it."),
    ] = None,
    sequences: Annotated[int, typer.Option(help="Evaluation sequences of every domain.")] = 24,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    points: Annotated[int, typer.Option(help="Of the budget sweep.")] = 11,
    inputs: Annotated[str, typer.Option(help="What layers are rounded against: original, quantized, corrected.")] = (
        "original"
    ),
    predicted: Annotated[
        bool, typer.Option("--predicted", help="Judge the plans by prediction: only the ladder is measured.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Of the intervals, two-sided.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="How often documents are drawn anew.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of these draws.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps measurements; default: beside the profile.")
    ] = None,
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far a plan is from where the model yields and collapses, measured on a ladder of plans.

    Exit status 3 when the plan does not reach the required factor. The ladder is kept: the same command goes on where
    it was stopped, and another plan of the same profile only measures itself.
    """  # noqa: DOC501
    from ..common.files import require_writable
    from ..evaluation.bootstrap import BootstrapSettings
    from ..evaluation.safety.measured_sweep import Thresholds
    from ..evaluation.safety.record import write_safety
    from ..evaluation.safety.run import SafetySettings, cache_beside, safety_run
    from ..planning.plan import read_plan
    from ..reporting.terminal.safety_table import print_safety
    from ..sensitivity.domains import named_sources
    from ..sensitivity.extending import parse_share
    from ..sensitivity.profile import ProfileOrigin, uniform_formats

    settings = SafetySettings(
        tuple(named_sources(text)) if text else (),
        sequences,
        length,
        points,
        inputs,
        Thresholds(
            parse_share(offset),
            parse_share(ultimate),
            BootstrapSettings(confidence=confidence, num_resamples=resamples, seed=seed),
        ),
        require,
    )
    require_writable(output, 1 << 20)
    plan, profile = plan_and_profile(plan_path, profile_path)
    plans = {str(plan_path): plan.formats()}
    for path in other or []:
        further = read_plan(path)
        if further.profile_sha256 != plan.profile_sha256:
            raise ScantlingError(
                f"{path} was solved from another profile than {plan_path}. Solve both from one profile."
            )
        plans[str(path)] = further.formats()
    for target in uniform or []:
        plans[f"uniform {target}"] = uniform_formats(profile, target)
    origin = ProfileOrigin(profile_path_of(plan, plan_path, profile_path), plan.profile_sha256)
    loaded = load(model or plan.model_source, trust_remote_code=trust_remote_code)
    run = safety_run(loaded, profile, origin, settings, cache or cache_beside(origin.path), progress())
    found = run.record(run.predict(plans) if predicted else run.measure_plans(plans))
    write_safety(found, output)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        print_safety(found, Console(markup=False))
    if not found.plans[0].passes:
        raise typer.Exit(FAILS_STATUS)


@dataclass(frozen=True)
class SafeOptions:
    """How a factor of safety that a program asks for is found out.

    Attributes:
        file: a safety file, whose text and thresholds are taken; None for the usual ones.
        predicted_only: whether prediction from that file is enough.
        model: where the model is, if it has moved since it was profiled.
        trust_remote_code: whether code that comes with it is run.
    """

    file: Path | None
    predicted_only: bool
    model: str | None
    trust_remote_code: bool


def safe_plan(program: "Program", origin: "ProfileOrigin", plan_of: "PlanOf", options: SafeOptions) -> "Plan":
    """Solve a program that asks for a factor of safety.

    Args:
        program: the program.
        origin: where its profile lies.
        plan_of: solves a program.
        options: how the factor is found out.

    Returns:
        The plan, which says whether its factor was confirmed.

    Raises:
        ScantlingError: a prediction is wanted without a safety file.
    """
    from ..evaluation.safety.record import read_safety
    from ..evaluation.safety.run import SafetySettings, cache_beside, safety_run, settings_of
    from ..evaluation.safety.solve_with_factor import solve_predicted, solve_safely

    safety = None if options.file is None else read_safety(options.file)
    settings = SafetySettings() if safety is None else settings_of(safety, program.profile, origin)
    if options.predicted_only:
        if safety is None:
            raise ScantlingError(
                "--predicted-only takes what the model bears from a safety file. Name it with --safety, or measure one "
                "with: scantling safety PLAN -o safety.json"
            )
        return solve_predicted(program, safety, plan_of)
    loaded = load(options.model or program.profile.record.model_source, trust_remote_code=options.trust_remote_code)
    run = safety_run(loaded, program.profile, origin, settings, cache_beside(origin.path), progress())
    return solve_safely(program, run, plan_of, lambda line: typer.echo(line, err=True))[0]
