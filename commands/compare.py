"""The command ``compare``: a plan beside uniform quantization."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .files import plan_and_profile, plans_of_one_profile
from .flags import JsonOption, ModelOption, ProfileOption, TrustOption
from .loading import progress

app = typer.Typer()
InputsOption = Annotated[
    str,
    typer.Option(
        help="Inputs that layers are rounded against: original (as predictions assume), quantized, or corrected: "
        "quantized, with the original's outputs as the target."
    ),
]


@app.command()
def compare(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="Written by: scantling solve")],
    uniform: Annotated[
        list[str] | None,
        typer.Option(
            help="Baseline: a width, a format, or same-bytes, same-bits, nearest, which come closest to the plan. "
            "Repeatable; default: these three, unless --plan is given."
        ),
    ] = None,
    other: Annotated[
        list[Path] | None, typer.Option("--plan", help="Another plan of the same profile; repeatable.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Evaluation text; default: the held-out part of the calibration text.")
    ] = None,
    sequences: Annotated[int, typer.Option(help="Evaluation sequences.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    inputs: InputsOption = "original",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the comparison as JSON, for scantling report.")
    ] = None,
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a plan beside uniform quantization and the original, predicted and measured on text."""
    from ..common.files import require_writable
    from ..evaluation.compare import evaluate
    from ..evaluation.comparison import write_comparison
    from ..reporting.terminal.comparison_tables import print_comparison

    plan, profile = plan_and_profile(plan_path, profile_path)
    if output is not None:
        require_writable(output, 1 << 16)
    comparison = evaluate(
        plan,
        against=uniform or (),
        text=text,
        sequences=sequences,
        length=length,
        inputs=inputs,
        other_plans=plans_of_one_profile(plan, plan_path, other or []),
        model=model,
        profile=profile,
        trust_remote_code=trust_remote_code,
        progress=progress(),
    )
    if output is not None:
        write_comparison(comparison, output)
    if as_json:
        typer.echo(comparison.model_dump_json())
    else:
        print_comparison(comparison, Console(markup=False))
