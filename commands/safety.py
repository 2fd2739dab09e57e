"""The command about a plan's factor of safety."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .files import plan_and_profile, plans_of_one_profile
from .flags import JsonOption, ModelOption, PlanArgument, ProfileOption, TrustOption
from .loading import load, progress

app = typer.Typer()
FAILS_STATUS = 3


@app.command()
def safety(
    plan_path: PlanArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The safety file to write.")] = Path("safety.json"),
    other: Annotated[
        list[Path] | None, typer.Option("--plan", help="Another plan of the same profile; repeatable.")
    ] = None,
    uniform: Annotated[
        list[str] | None, typer.Option(help="Also judge this width or format in all layers; repeatable.")
    ] = None,
    require: Annotated[float, typer.Option(help="Factor that the lower bound at yield must reach.")] = 1.0,
    offset: Annotated[str, typer.Option(help="Rise of perplexity that counts as yield.")] = "10%",
    ultimate: Annotated[str, typer.Option(help="Rise of perplexity that counts as collapse.")] = "100%",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Evaluation text, NAME=SOURCE where several; default: what the profile's texts kept for it."),
    ] = None,
    sequences: Annotated[int, typer.Option(help="Evaluation sequences in each domain.")] = 24,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    points: Annotated[int, typer.Option(help="Points of the budget sweep.")] = 11,
    inputs: Annotated[str, typer.Option(help="What layers are rounded against: original, quantized, corrected.")] = (
        "original"
    ),
    predicted: Annotated[
        bool, typer.Option("--predicted", help="Judge the plans by prediction; only the budget sweep is measured.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Confidence of the two-sided intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of documents.")] = 4000,
    seed: Annotated[int, typer.Option(help="Random seed of the resamples.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps measurements; default: beside the profile.")
    ] = None,
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how far a plan is from where the model yields and collapses, on a sweep of budgets.

    Exit status 3 when the plan does not reach the required factor. Measurements are kept: the same command resumes
    where it was stopped, and another plan of the same profile only measures itself.
    """  # noqa: DOC501
    from ..common.files import require_writable
    from ..evaluation.bootstrap import BootstrapSettings
    from ..evaluation.safety.measured_sweep import Thresholds
    from ..evaluation.safety.record import write_safety
    from ..evaluation.safety.run import SafetySettings, cache_beside, safety_run
    from ..reporting.terminal.safety_table import print_safety
    from ..sensitivity.domains import named_sources
    from ..sensitivity.extending import parse_share
    from ..sensitivity.profile import uniform_formats

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
    further = plans_of_one_profile(plan, plan_path, other or [])
    plans = {name: one.formats() for name, one in {str(plan_path): plan, **further}.items()}
    plans |= {f"uniform {target}": uniform_formats(profile, target) for target in uniform or []}
    origin = profile.origin
    assert origin is not None
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
