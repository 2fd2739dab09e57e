"""The command line. Each command reads files, calls one function and writes files.

Commands import what they run when they run it, so that ``--help`` and ``solve`` do not wait for torch.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from . import __version__
from .commands import device, intelligence, program, reference, report, safety
from .commands.files import plan_and_profile
from .commands.flags import JsonOption, ModelOption, ProfileOption, TrustOption
from .commands.loading import load as _load
from .commands.loading import progress as _progress
from .solver.errors import ScantlingError

if TYPE_CHECKING:
    from .backends.model import LoadedModel
    from .sensitivity.profile import Profile
    from .solver.plan import Plan

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Decides how many bits each layer of a language model gets.",
)

app.add_typer(program.app)
app.add_typer(reference.app)
app.add_typer(device.app)
app.add_typer(report.app)
app.add_typer(safety.app)
app.add_typer(intelligence.app)

InputsOption = Annotated[
    str,
    typer.Option(
        help="What layers are rounded against: original inputs (what the prediction is for), quantized ones, or "
        "corrected: quantized ones, towards the outputs of the original."
    ),
]


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for the profile and the plan.")] = Path(
        "scantling-demo"
    ),
) -> None:
    """The whole path on a real model: profile, solve at the size of uniform 3 bits, compare."""
    from .evaluation.demo import run_demo

    run_demo(folder, Console(markup=False), _progress())


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="A model folder, a GGUF file, or a name on the hub.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The profile to write.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="pydoc (the default), wikipedia, sampled (from the model), hub:NAME, a UTF-8 file, a .jsonl file of "
            "conversations, or a folder. Several load cases: NAME=SOURCE, repeatable."
        ),
    ] = None,
    formats: Annotated[str, typer.Option(help="With commas; by default int2-g64 to int8-g64 and 16 bits.")] = "",
    include: Annotated[list[str] | None, typer.Option(help="embedding or head: decide them too.")] = None,
    sequences: Annotated[int, typer.Option(help="Calibration sequences that formats are fitted to.")] = 16,
    pricing_sequences: Annotated[int, typer.Option(help="Others, on which the loss increase is measured.")] = 24,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    rounding: Annotated[
        str | None,
        typer.Option(
            help="gptq (the default), rtn, awq or awq+gptq; for types of GGUF ggml+gptq (the default there) or ggml."
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(help="An importance matrix of llama.cpp, in place of the calibration's own; for ggml."),
    ] = None,
    estimator: Annotated[
        str, typer.Option(help="fisher, or another one: sensitivity/estimators.py has the list.")
    ] = "fisher",
    until: Annotated[
        str | None,
        typer.Option(help="Price sequences until uniform plans are predicted this well, such as 5%."),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add formats, sequences and load cases to the profile that stands there.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Measure a ladder of plans and say how far predictions hold.")
    ] = False,
    label_draws: Annotated[int, typer.Option(help="Of labels, on every pricing sequence; for fisher.")] = 2,
    seed: Annotated[int, typer.Option(help="Of sampled labels and probes.")] = 0,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure what every format of every layer costs."""
    from .backends.rounding import rounding_named
    from .evaluation.honesty import print_regime
    from .evaluation.reach_report import print_rarely_reached
    from .evaluation.terminal import print_profile
    from .evaluation.together_report import print_still_together
    from .sensitivity.extending import Extension, parse_share
    from .sensitivity.load_cases import LoadCase, named_sources
    from .sensitivity.parts import discard_parts
    from .sensitivity.profile import read_profile, write_or_rescue_profile
    from .sensitivity.profiling import ProfileSettings, build_profile
    from .sensitivity.text import load_text
    from .solver.atomic import refuse_unwritable

    names = tuple(name.strip() for name in formats.split(",")) if formats else None
    settings = ProfileSettings(
        formats=names,
        include=tuple(include or ()),
        num_rounding_sequences=sequences,
        num_pricing_sequences=pricing_sequences,
        sequence_length=length,
        estimator=estimator,
        rounding=rounding_named(rounding, names, imatrix),
        seed=seed,
        num_label_draws=label_draws,
    )
    target = None if until is None else parse_share(until)
    refuse_unwritable(output, 1 << 20)
    sources = named_sources(text or ["pydoc"])
    loaded = _load(model, trust_remote_code=trust_remote_code)
    cases = [LoadCase(name, load_text(source, loaded)) for name, source in sources]
    extension = Extension(loaded, output.absolute(), _progress())
    if extend:
        extension.refuse_other_settings(read_profile(output), settings)
        built = extension.by_sequences(read_profile(output), cases, pricing_sequences)
        built = extension.by_formats(built, settings.formats or built.record.formats)
    else:
        built = build_profile(loaded, cases, settings, output.absolute(), _progress())
    if target is not None:
        built = extension.until(built, cases, target, Console(stderr=True, markup=False).print)
    write_or_rescue_profile(built, output)
    discard_parts(output.absolute())
    print_profile(built, Console(markup=False))
    print_regime(built, Console(markup=False))
    print_rarely_reached(built, Console(markup=False))
    print_still_together(loaded.model, Console(markup=False))
    if check:
        fresh = loaded if settings.rounding.input_scaling is None else _load(model, trust_remote_code=trust_remote_code)
        _check(fresh, built, output)


def _check(loaded: "LoadedModel", built: "Profile", output: Path) -> None:
    from .evaluation.compare import EvaluationSettings
    from .evaluation.honesty import print_map_of_truth
    from .evaluation.ladder import map_of_truth
    from .sensitivity.planning import Origin
    from .sensitivity.planning import solve as solve_program
    from .sensitivity.program import Program
    from .solver.engine import SearchSettings
    from .solver.engines import engine_named
    from .solver.plan import file_sha256

    origin = Origin(output, file_sha256(output))
    settings = EvaluationSettings(sequence_length=built.record.sequence_length)

    def solve_at(bits: float) -> "Plan":
        instance = Program(built).limit("average_bits", at_most=bits).instance()
        return solve_program(built, origin, instance, engine_named("cpsat"), SearchSettings())

    print_map_of_truth(map_of_truth(loaded, built, solve_at, settings, _progress()), Console(markup=False))


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
    from .commands.files import plans_of_one_profile
    from .evaluation.compare import EvaluationSettings
    from .evaluation.compare import compare as compare_plan
    from .evaluation.comparison import write_comparison
    from .evaluation.comparison_tables import print_comparison
    from .evaluation.contenders import SIZED, rivals
    from .solver.atomic import refuse_unwritable

    plan, read = plan_and_profile(plan_path, profile_path)
    plans = {"plan": plan, **plans_of_one_profile(plan, plan_path, other or [])}
    rivals(read, plan.formats(), [target for target in uniform or [] if target not in SIZED])  # before loading
    if output is not None:
        refuse_unwritable(output, 1 << 16)
    loaded = _load(model or plan.model_source, trust_remote_code=trust_remote_code)
    targets = uniform or ([] if other else SIZED)
    settings = EvaluationSettings(text, sequences, length, inputs)
    comparison = compare_plan(loaded, read, plans, targets, settings, _progress())
    if output is not None:
        write_comparison(comparison, output)
    if as_json:
        typer.echo(comparison.model_dump_json())
    else:
        print_comparison(comparison, Console(markup=False))


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
    from .evaluation.apply import ApplySettings, apply_plan, refuse_before_loading, refuse_plan_before_loading
    from .solver.quantities import parse_bytes, show_bytes

    if backend == "gguf":
        source = (plan_path, profile_path, model, trust_remote_code)
        _apply_gguf(source, output, inputs or "original", write_imatrix, emit)
        return
    if write_imatrix is not None or emit is not None:
        raise ScantlingError("--write-imatrix and --emit are for --backend gguf. Leave them out.")
    settings = ApplySettings(backend, inputs or "quantized", parse_bytes(shard))
    refuse_before_loading(settings, output)
    plan, read = plan_and_profile(plan_path, profile_path)
    refuse_plan_before_loading(plan, read, settings)
    scratch = None if in_memory else output.absolute().parent
    loaded = _load(model or plan.model_source, trust_remote_code=trust_remote_code, scratch=scratch)
    manifest = apply_plan(loaded, read, plan, settings, output, _progress())
    typer.echo(
        f"Wrote {output}: {show_bytes(manifest.folder_bytes)} in {len(manifest.files) + 1} files, "
        f"{show_bytes(manifest.tensor_bytes)} of them the model's tensors; the plan counts {manifest.plan_bytes:,}.\n"
        f"Compare what an engine makes of it with: scantling check {output}"
    )


def _apply_gguf(
    source: tuple[Path, Path | None, str | None, bool],
    output: Path,
    inputs: str,
    imatrix: Path | None,
    emit: str | None,
) -> None:
    from .evaluation.apply_gguf import apply_gguf, refuse_gguf_before_loading
    from .evaluation.llama_quantize import command_line, refuse_emission
    from .solver.quantities import show_bytes

    plan_path, profile_path, model, trust_remote_code = source
    plan, read = plan_and_profile(plan_path, profile_path)
    refuse_emission(emit, imatrix, str(read.record.rounding["method"]))
    refuse_gguf_before_loading(plan, inputs, output)
    loaded = _load(model or plan.model_source, trust_remote_code=trust_remote_code)
    manifest = apply_gguf(loaded, read, plan, (output, imatrix), _progress())
    typer.echo(
        f"Wrote {output}: {show_bytes(manifest.file_bytes)}, {show_bytes(manifest.tensor_bytes)} of them tensors; the "
        f"plan counts {manifest.plan_bytes:,}.\nCompare what llama.cpp makes of it with: scantling check {output}"
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
    from .evaluation.check import CheckSettings
    from .evaluation.check import check as check_folder
    from .evaluation.check_gguf import check_gguf
    from .evaluation.terminal import waiting

    settings = CheckSettings(engine=engine, python=python, time_limit_seconds=time_limit)
    with waiting(_progress(), f"running {folder} in its engine"):
        report = check_gguf(folder, settings) if folder.suffix == ".gguf" else check_folder(folder, settings)
    typer.echo(report.model_dump_json() if as_json else report.in_words())
    if not report.passed:
        raise ScantlingError(
            f"the engine computes something else from {folder} than the plan in memory: do not deploy it."
        )


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scantling {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Decides how many bits each layer of a language model gets."""


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn a ScantlingError into one message on standard error and exit status 1."""
    try:
        yield
    except ScantlingError as error:
        message = Text("error: ", style="bold red") + Text(str(error), style="not bold")
        Console(stderr=True, soft_wrap=True).print(message)
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    with _errors_in_words():
        app(prog_name="scantling")


if __name__ == "__main__":
    main()
