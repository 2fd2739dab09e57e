"""The command ``compare``: a plan beside uniform quantization."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .files import plan_and_profile, plans_of_one_profile
from .flags import JsonOption, ModelOption, ProfileOption, TrustOption
from .loading import load, progress

app = typer.Typer()
InputsOption = Annotated[
    str,
    typer.Option(
        help="What layers are rounded against: original inputs (what the prediction is for), quantized ones, or "
        "corrected: quantized ones, towards the outputs of the original."
    ),
]


@app.command()
def compare(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="Written by: scantling solve")],
    uniform: Annotated[
        list[str] | None,
        typer.Option(
            help="A width or a format; or same-bytes, same-bits, nearest: what comes closest to the plan. Repeatable; "
            "by default these three, where no --plan is given."
        ),
    ] = None,
    other: Annotated[
        list[Path] | None, typer.Option("--plan", help="Another plan of the same profile; repeatable.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Evaluation text; by default the part of the calibration text kept for it.")
    ] = None,
    sequences: Annotated[int, typer.Option(help="Evaluation sequences.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    inputs: InputsOption = "original",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it as JSON, for a report.")] = None,
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a plan beside uniform quantization and the original, predicted and measured on text."""
    from ..common.files import require_writable
    from ..evaluation.compare import EvaluationSettings
    from ..evaluation.compare import compare as compare_plan
    from ..evaluation.comparison import write_comparison
    from ..planning.baselines import SIZED, baselines
    from ..reporting.terminal.comparison_tables import print_comparison

    plan, read = plan_and_profile(plan_path, profile_path)
    plans = {"plan": plan, **plans_of_one_profile(plan, plan_path, other or [])}
    baselines(read, plan.formats(), [target for target in uniform or [] if target not in SIZED])  # before loading
    if output is not None:
        require_writable(output, 1 << 16)
    loaded = load(model or plan.model_source, trust_remote_code=trust_remote_code)
    targets = uniform or ([] if other else SIZED)
    settings = EvaluationSettings(text, sequences, length, inputs)
    comparison = compare_plan(loaded, read, plans, targets, settings, progress())
    if output is not None:
        write_comparison(comparison, output)
    if as_json:
        typer.echo(comparison.model_dump_json())
    else:
        print_comparison(comparison, Console(markup=False))
