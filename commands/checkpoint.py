"""Commands about checkpoints: apply, check."""

from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import EngineError
from .files import plan_and_profile
from .flags import JsonOption, ModelOption, ProfileOption, TrustOption
from .loading import progress

app = typer.Typer()


@app.command()
def apply(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="Written by: scantling solve")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The folder (of gguf, the file) to write; it must not exist yet.")
    ],
    backend: Annotated[str, typer.Option(help="gptq, compressed-tensors, auto-gptq, fake (float32), or gguf.")],
    inputs: Annotated[
        str | None,
        typer.Option(
            help="What layers are rounded against: quantized inputs (the default), corrected or original ones "
            "(the only ones for gguf)."
        ),
    ] = None,
    write_imatrix: Annotated[
        Path | None,
        typer.Option(help="Where to write the importance matrix that the file was rounded with; gguf only."),
    ] = None,
    emit: Annotated[
        str | None,
        typer.Option(help="llama-quantize: also print its command for the same file; gguf only."),
    ] = None,
    shard: Annotated[str, typer.Option(help="Largest file of tensors, in bytes.")] = "4GiB",
    in_memory: Annotated[
        bool,
        typer.Option(
            "--in-memory",
            help="Hold all weights in memory. Otherwise they lie in a scratch file beside the output, 4 bytes each, "
            "and memory holds a block at a time.",
        ),
    ] = False,
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write the checkpoint of a plan; a run that was stopped goes on where it ended."""
    from ..backends.write import export_plan
    from ..common.units import render_bytes

    plan, profile = plan_and_profile(plan_path, profile_path)
    manifest = export_plan(
        plan,
        output,
        backend=backend,
        inputs=inputs,
        shard=shard,
        in_memory=in_memory,
        write_imatrix=write_imatrix,
        emit=emit,
        model=model,
        profile=profile,
        trust_remote_code=trust_remote_code,
        progress=progress(),
    )
    files = "1 file" if manifest.num_files == 1 else f"{manifest.num_files} files"
    typer.echo(
        f"Wrote {output}: {render_bytes(manifest.checkpoint_bytes)} in {files}, "
        f"{render_bytes(manifest.tensor_bytes)} of them the model's tensors; "
        f"the plan predicts {manifest.plan_bytes:,} bytes.\n"
        f"Check it in its engine with: scantling check {output}"
    )
    if manifest.emitted is not None:
        typer.echo(manifest.emitted)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder or a .gguf file that scantling apply wrote.")],
    engine: Annotated[
        str | None,
        typer.Option(help="transformers, gptqmodel, auto-gptq, vllm or llama.cpp; by default the backend's first."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="A Python interpreter that has the engine, where this one does not.")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for the engine.")] = 1800.0,
    as_json: JsonOption = False,
) -> None:
    """Load a checkpoint in its engine and compare what it computes with what the plan in memory did."""
    from ..backends.check import check_checkpoint
    from ..reporting.terminal.progress import waiting

    with waiting(progress(), f"running {path} in its engine"):
        report = check_checkpoint(path, engine=engine, python=python, time_limit=time_limit)
    typer.echo(report.model_dump_json() if as_json else report.describe())
    if not report.passed:
        raise EngineError(
            f"the engine computes something else from {path} than the plan in memory did: do not deploy it."
        )
