"""Commands about checkpoints: apply, check."""

from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import ScantlingError
from .files import plan_and_profile
from .flags import JsonOption, ModelOption, ProfileOption, TrustOption
from .loading import load, progress

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
        Path | None, typer.Option(help="Where the importance matrix that the file was rounded with shall go; for gguf.")
    ] = None,
    emit: Annotated[
        str | None, typer.Option(help="llama-quantize: also print the command that makes the same file; for gguf.")
    ] = None,
    shard: Annotated[str, typer.Option(help="Bytes of tensors in one file at most.")] = "4GiB",
    in_memory: Annotated[
        bool,
        typer.Option(
            "--in-memory",
            help="Hold all weights in memory; without it they lie in a scratch file beside the output, 4 bytes each, "
            "and memory holds a block at a time.",
        ),
    ] = False,
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write a checkpoint of a plan; a run that was stopped goes on where it ended."""
    from ..backends.write import ApplySettings, apply_plan, validate_plan, validate_settings
    from ..common.units import parse_bytes, render_bytes

    if backend == "gguf":
        source = (plan_path, profile_path, model, trust_remote_code)
        _apply_gguf(source, output, inputs or "original", write_imatrix, emit)
        return
    if write_imatrix is not None or emit is not None:
        raise ScantlingError("--write-imatrix and --emit are for --backend gguf. Leave them out.")
    settings = ApplySettings(backend, inputs or "quantized", parse_bytes(shard))
    validate_settings(settings, output)
    plan, read = plan_and_profile(plan_path, profile_path)
    validate_plan(plan, read, settings)
    scratch = None if in_memory else output.absolute().parent
    loaded = load(model or plan.model_source, trust_remote_code=trust_remote_code, scratch=scratch)
    manifest = apply_plan(loaded, read, plan, settings, output, progress())
    typer.echo(
        f"Wrote {output}: {render_bytes(manifest.folder_bytes)} in {len(manifest.files) + 1} files, "
        f"{render_bytes(manifest.tensor_bytes)} of them the model's tensors; the plan counts {manifest.plan_bytes:,}.\n"
        f"Compare what an engine makes of it with: scantling check {output}"
    )


def _apply_gguf(
    source: tuple[Path, Path | None, str | None, bool],
    output: Path,
    inputs: str,
    imatrix: Path | None,
    emit: str | None,
) -> None:
    from ..backends.llama_quantize import command_line, validate_emission
    from ..backends.write_gguf import apply_gguf, validate_gguf_settings
    from ..common.units import render_bytes

    plan_path, profile_path, model, trust_remote_code = source
    plan, read = plan_and_profile(plan_path, profile_path)
    validate_emission(emit, imatrix, str(read.record.rounding["method"]))
    validate_gguf_settings(plan, inputs, output)
    loaded = load(model or plan.model_source, trust_remote_code=trust_remote_code)
    manifest = apply_gguf(loaded, read, plan, (output, imatrix), progress())
    typer.echo(
        f"Wrote {output}: {render_bytes(manifest.file_bytes)}, {render_bytes(manifest.tensor_bytes)} of them tensors; "
        f"the plan counts {manifest.plan_bytes:,}.\nCompare what llama.cpp makes of it with: scantling check {output}"
    )
    if emit is not None and imatrix is not None:
        typer.echo(command_line(output, imatrix, loaded.source))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder or a .gguf file that scantling apply wrote.")],
    engine: Annotated[
        str | None, typer.Option(help="transformers, gptqmodel, auto-gptq or vllm; by default the backend's own.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="A Python interpreter that has the engine, where this one has not.")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for the engine.")] = 1800.0,
    as_json: JsonOption = False,
) -> None:
    """Load a checkpoint in its engine and compare what it computes with what the plan in memory did."""
    from ..backends.check import CheckSettings
    from ..backends.check import check as check_folder
    from ..backends.check_gguf import check_gguf
    from ..reporting.terminal.progress import waiting

    settings = CheckSettings(engine=engine, python=python, time_limit_seconds=time_limit)
    with waiting(progress(), f"running {folder} in its engine"):
        report = check_gguf(folder, settings) if folder.suffix == ".gguf" else check_folder(folder, settings)
    typer.echo(report.model_dump_json() if as_json else report.describe())
    if not report.passed:
        raise ScantlingError(
            f"the engine computes something else from {folder} than the plan in memory: do not deploy it."
        )
