"""The command ``profile``: measure what every format of every layer costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..sensitivity.estimators.names import ESTIMATOR_NAMES
from .flags import TrustOption
from .loading import load, progress

if TYPE_CHECKING:
    from ..models.loading import LoadedModel
    from ..planning.plan import Plan
    from ..sensitivity.profile import Profile

app = typer.Typer()


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="A model folder, a GGUF file, or a name on the hub.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The profile to write.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="pydoc (the default), wikipedia, sampled (from the model), hub:NAME, a UTF-8 file, a .jsonl file of "
            "conversations, or a folder. For several domains repeat NAME=SOURCE."
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Formats to offer, separated by commas; by default int2-g64 to int8-g64 and 16 bits.")
    ] = "",
    include: Annotated[list[str] | None, typer.Option(help="embedding or head: let the program decide it too.")] = None,
    sequences: Annotated[int, typer.Option(help="Calibration sequences that formats are fitted to.")] = 16,
    pricing_sequences: Annotated[
        int, typer.Option(help="Other sequences, on which the loss increase is measured.")
    ] = 24,
    length: Annotated[int, typer.Option(help="Tokens in each sequence.")] = 512,
    rounding: Annotated[
        str | None,
        typer.Option(
            help="gptq (the default), rtn, awq or awq+gptq; for GGUF types ggml+gptq (the default there) or ggml."
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(help="An importance matrix of llama.cpp in place of the calibration's; for ggml."),
    ] = None,
    estimator: Annotated[
        str, typer.Option(help=f"How the loss increase is estimated: {', '.join(ESTIMATOR_NAMES)}.")
    ] = "fisher",
    until: Annotated[
        str | None,
        typer.Option(
            help="Add pricing sequences until uniform plans are predicted with this relative error, such as 5%."
        ),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add formats, sequences and domains to the existing profile.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Measure plans from 2 to 8 bits and report how well predictions hold.")
    ] = False,
    label_draws: Annotated[int, typer.Option(help="Labels sampled on every pricing sequence; for fisher.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of sampled labels and probes.")] = 0,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure what every format of every layer costs."""
    from ..sensitivity.profile_model import profile_job

    job = profile_job(
        text=text or "pydoc",
        formats=formats or None,
        include=include or (),
        sequences=sequences,
        pricing_sequences=pricing_sequences,
        length=length,
        rounding=rounding,
        imatrix=imatrix,
        estimator=estimator,
        label_draws=label_draws,
        until=until,
        seed=seed,
        output=output,
        extend=extend,
    )
    loaded = load(model, trust_remote_code=trust_remote_code)
    built = job.run(loaded, progress(), Console(stderr=True, markup=False).print)
    _print(built, loaded)
    if check:
        fresh = (
            loaded if job.settings.rounding.input_scaling is None else load(model, trust_remote_code=trust_remote_code)
        )
        _check(fresh, built)


def _print(built: "Profile", loaded: "LoadedModel") -> None:
    from ..models.experts import stacked_experts
    from ..reporting.terminal.diagnostics import print_rarely_covered, print_regime, print_stacked_experts
    from ..reporting.terminal.profile_table import print_profile

    console = Console(markup=False)
    print_profile(built, console)
    print_regime(built, console)
    print_rarely_covered(built, console)
    stacked = stacked_experts(loaded.model)
    num_bytes = 2 * sum(loaded.model.get_parameter(name).numel() for name in stacked)
    print_stacked_experts(stacked, num_bytes, type(loaded.model).__name__, console)


def _check(loaded: "LoadedModel", built: "Profile") -> None:
    """Measure and print how far predictions hold."""
    from ..evaluation.compare import EvaluationSettings
    from ..evaluation.validity_sweep import measure_prediction_validity
    from ..planning.program import Program
    from ..planning.solve import solve as solve_program
    from ..reporting.terminal.diagnostics import print_prediction_validity
    from ..solver.milp.base import SolverSettings
    from ..solver.milp.registry import solver_named

    settings = EvaluationSettings(sequence_length=built.record.sequence_length)
    origin = built.origin
    assert origin is not None, "the profile was written"

    def solve_at(bits: float) -> "Plan":
        instance = Program(built).limit("average_bits", at_most=bits).instance()
        return solve_program(built, origin, instance, solver_named("cpsat"), SolverSettings())

    print_prediction_validity(
        measure_prediction_validity(loaded, built, solve_at, settings, progress()), Console(markup=False)
    )
