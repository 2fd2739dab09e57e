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
from .solver.errors import ScantlingError

if TYPE_CHECKING:
    from .backends.model import LoadedModel
    from .evaluation.terminal import TerminalProgress
    from .sensitivity.profile import Profile
    from .solver.plan import Plan

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Decides how many bits each layer of a language model gets.",
)

ModelOption = Annotated[
    str | None, typer.Option("--model", help="The model, where it has moved since it was profiled.")
]
ProfileOption = Annotated[
    Path | None, typer.Option("--profile", help="The profile, where it has moved since the plan was solved.")
]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")]
InputsOption = Annotated[
    str,
    typer.Option(
        help="What layers are rounded against: original inputs (what the prediction is for), quantized ones, or "
        "corrected: quantized ones, towards the outputs of the original."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _progress() -> "TerminalProgress":
    from .evaluation.terminal import TerminalProgress

    return TerminalProgress(Console(stderr=True))


def _load(source: str, *, trust_remote_code: bool) -> "LoadedModel":
    from .backends.model import load_model
    from .evaluation.terminal import waiting

    with waiting(_progress(), f"loading {source}"):
        return load_model(source, trust_remote_code=trust_remote_code)


def _plan_and_profile(plan_path: Path, profile_path: Path | None) -> tuple["Plan", "Profile"]:
    from .sensitivity.profile import read_profile
    from .solver.plan import file_sha256, read_plan

    plan = read_plan(plan_path)
    path = profile_path or Path(plan.profile_path)
    if profile_path is None and not path.is_file():
        path = plan_path.parent / path.name  # both were moved, or the command is run from another folder
    if not path.is_file():
        raise ScantlingError(f"the plan's profile {path} is not there. Say where it is with --profile.")
    profile = read_profile(path)
    if file_sha256(path) != plan.profile_sha256:
        raise ScantlingError(
            f"{plan_path} was solved from another profile than {path}. Solve again, or give --profile."
        )
    return plan, profile


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
    text: Annotated[str, typer.Option(help="pydoc, wikipedia, or a UTF-8 text file.")] = "pydoc",
    formats: Annotated[str, typer.Option(help="With commas; by default int2-g64 to int8-g64 and 16 bits.")] = "",
    include: Annotated[list[str] | None, typer.Option(help="embedding or head: decide them too.")] = None,
    sequences: Annotated[int, typer.Option(help="Calibration sequences that formats are fitted to.")] = 16,
    pricing_sequences: Annotated[int, typer.Option(help="Others, on which the loss increase is measured.")] = 16,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    rounding: Annotated[str, typer.Option(help="gptq, rtn, awq or awq+gptq.")] = "gptq",
    estimator: Annotated[str, typer.Option(help="fisher, hessian-trace or hessian-diagonal.")] = "fisher",
    seed: Annotated[int, typer.Option(help="Of sampled labels and probes.")] = 0,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure what every format of every layer costs."""
    from .backends.rounding import rounding_method
    from .evaluation.terminal import print_profile
    from .sensitivity.profile import write_or_rescue_profile
    from .sensitivity.profiling import ProfileSettings, build_profile
    from .sensitivity.text import load_text
    from .solver.atomic import refuse_unwritable

    settings = ProfileSettings(
        formats=tuple(name.strip() for name in formats.split(",")) if formats else None,
        include=tuple(include or ()),
        num_rounding_sequences=sequences,
        num_pricing_sequences=pricing_sequences,
        sequence_length=length,
        estimator=estimator,
        rounding=rounding_method({"method": rounding}),
        seed=seed,
    )
    refuse_unwritable(output, 1 << 20)
    loaded_text = load_text(text)
    loaded = _load(model, trust_remote_code=trust_remote_code)
    built = build_profile(loaded, loaded_text, settings, output.absolute().parent, _progress())
    write_or_rescue_profile(built, output)
    print_profile(built, Console(markup=False))


@app.command()
def solve(
    profile_path: Annotated[Path, typer.Argument(metavar="PROFILE", help="Written by: scantling profile")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The plan to write.")],
    memory: Annotated[str | None, typer.Option(help="Bytes of all stored tensors at most, such as 60MiB.")] = None,
    average_bits: Annotated[
        float | None, typer.Option(help="Σ bits · weights / Σ weights at most, scales and zero points not counted.")
    ] = None,
    engine: Annotated[str, typer.Option(help="cpsat, or highs (HiGHS through cvxpy).")] = "cpsat",
    time_limit: Annotated[float, typer.Option(help="Seconds for the solver.")] = 60.0,
    threads: Annotated[int, typer.Option(help="For the solver; one repeats exactly.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the solver.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Find the plan with the smallest predicted loss increase within a budget."""
    from .evaluation.terminal import print_allocation, print_certificate
    from .sensitivity.profile import read_profile
    from .sensitivity.program import Budget, Origin
    from .sensitivity.program import solve as solve_program
    from .solver.engine import SearchSettings
    from .solver.engines import engine_named
    from .solver.plan import file_sha256, write_plan
    from .solver.quantities import parse_bytes

    budget = Budget(None if memory is None else parse_bytes(memory), average_bits)
    origin = Origin(profile_path, file_sha256(profile_path) if profile_path.is_file() else "")
    search = SearchSettings(time_limit, seed, threads)
    plan = solve_program(read_profile(profile_path), origin, budget, engine_named(engine), search)
    write_plan(plan, output)
    if as_json:
        typer.echo(plan.model_dump_json())
    else:
        print_allocation(plan, Console(markup=False))
        print_certificate(plan, Console(markup=False))


@app.command()
def compare(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="Written by: scantling solve")],
    uniform: Annotated[list[str] | None, typer.Option(help="A width or a format, to compare with; repeatable.")] = None,
    other: Annotated[
        list[Path] | None, typer.Option("--plan", help="Another plan of the same profile; repeatable.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Evaluation text; by default the part of the calibration text kept for it.")
    ] = None,
    sequences: Annotated[int, typer.Option(help="Evaluation sequences.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 512,
    inputs: InputsOption = "original",
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a plan beside uniform quantization and the original, predicted and measured on text."""
    from .evaluation.compare import EvaluationSettings
    from .evaluation.compare import compare as compare_plan
    from .evaluation.terminal import print_comparison
    from .sensitivity.program import uniform_formats
    from .solver.plan import read_plan

    plan, read = _plan_and_profile(plan_path, profile_path)
    plans = {"plan": plan}
    for path in other or []:
        plans[str(path)] = read_plan(path)
        if plans[str(path)].profile_sha256 != plan.profile_sha256:
            raise ScantlingError(
                f"{path} was solved from another profile than {plan_path}. Solve both from one profile."
            )
    for target in uniform or []:
        uniform_formats(read, target)  # refuses an unknown one before the model is loaded
    loaded = _load(model or plan.model_source, trust_remote_code=trust_remote_code)
    settings = EvaluationSettings(text, sequences, length, inputs)
    comparison = compare_plan(loaded, read, plans, uniform or [], settings, _progress())
    if as_json:
        typer.echo(comparison.model_dump_json())
    else:
        print_comparison(comparison, Console(markup=False))


@app.command()
def apply(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="Written by: scantling solve")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write; it must not exist yet.")],
    backend: Annotated[str, typer.Option(help="gptq, compressed-tensors, auto-gptq, or fake (float32).")],
    inputs: InputsOption = "quantized",
    shard: Annotated[str, typer.Option(help="Bytes of tensors in one file at most.")] = "4GiB",
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write a checkpoint of a plan; a run that was stopped goes on where it ended."""
    from .evaluation.apply import ApplySettings, apply_plan, refuse_before_loading
    from .solver.quantities import parse_bytes, show_bytes

    settings = ApplySettings(backend, inputs, parse_bytes(shard))
    refuse_before_loading(settings, output)
    plan, read = _plan_and_profile(plan_path, profile_path)
    loaded = _load(model or plan.model_source, trust_remote_code=trust_remote_code)
    manifest = apply_plan(loaded, read, plan, settings, output, _progress())
    typer.echo(
        f"Wrote {output}: {show_bytes(manifest.folder_bytes)} in {len(manifest.files) + 1} files, "
        f"{show_bytes(manifest.tensor_bytes)} of them the model's tensors; the plan counts {manifest.plan_bytes:,}.\n"
        f"Compare what an engine makes of it with: scantling check {output}"
    )


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Written by: scantling apply")],
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
    from .evaluation.terminal import waiting

    settings = CheckSettings(engine=engine, python=python, time_limit_seconds=time_limit)
    with waiting(_progress(), f"running {folder} in its engine"):
        report = check_folder(folder, settings)
    typer.echo(report.model_dump_json() if as_json else report.in_words())
    if not report.passed:
        raise ScantlingError(
            f"{report.engine} computes something else from {folder} than the plan in memory: do not deploy it."
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
