"""The command ``profile``: what every format of every layer costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

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
            "conversations, or a folder. Several domains: NAME=SOURCE, repeatable."
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
        str, typer.Option(help="fisher, or another one: sensitivity/estimators/registry.py has the list.")
    ] = "fisher",
    until: Annotated[
        str | None,
        typer.Option(help="Price sequences until uniform plans are predicted this well, such as 5%."),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add formats, sequences and domains to the profile that stands there.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Measure a ladder of plans and say how far predictions hold.")
    ] = False,
    label_draws: Annotated[int, typer.Option(help="Of labels, on every pricing sequence; for fisher.")] = 2,
    seed: Annotated[int, typer.Option(help="Of sampled labels and probes.")] = 0,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure what every format of every layer costs."""
    from ..common.files import require_writable
    from ..models.experts import stacked_experts
    from ..quantization.methods import rounding_named
    from ..reporting.terminal.diagnostics import print_rarely_covered, print_regime, print_stacked_experts
    from ..reporting.terminal.profile_table import print_profile
    from ..sensitivity.calibration.resume_cache import discard_resume_cache
    from ..sensitivity.calibration.text import load_text
    from ..sensitivity.domains import Domain, named_sources
    from ..sensitivity.extending import Extension, parse_share
    from ..sensitivity.profile import read_profile, write_or_rescue_profile
    from ..sensitivity.profiling import ProfileSettings, build_profile

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
    require_writable(output, 1 << 20)
    sources = named_sources(text or ["pydoc"])
    loaded = load(model, trust_remote_code=trust_remote_code)
    domains = [Domain(name, load_text(source, loaded)) for name, source in sources]
    extension = Extension(loaded, output.absolute(), progress())
    if extend:
        extension.require_same_settings(read_profile(output), settings)
        built = extension.by_sequences(read_profile(output), domains, pricing_sequences)
        built = extension.by_formats(built, settings.formats or built.record.formats)
    else:
        built = build_profile(loaded, domains, settings, output.absolute(), progress())
    if target is not None:
        built = extension.until(built, domains, target, Console(stderr=True, markup=False).print)
    write_or_rescue_profile(built, output)
    discard_resume_cache(output.absolute())
    print_profile(built, Console(markup=False))
    print_regime(built, Console(markup=False))
    print_rarely_covered(built, Console(markup=False))
    stacked = stacked_experts(loaded.model)
    num_bytes = 2 * sum(loaded.model.get_parameter(name).numel() for name in stacked)
    print_stacked_experts(stacked, num_bytes, type(loaded.model).__name__, Console(markup=False))
    if check:
        fresh = loaded if settings.rounding.input_scaling is None else load(model, trust_remote_code=trust_remote_code)
        _check(fresh, built, output)


def _check(loaded: "LoadedModel", built: "Profile", output: Path) -> None:
    from ..common.files import file_sha256
    from ..evaluation.compare import EvaluationSettings
    from ..evaluation.validity_sweep import measure_prediction_validity
    from ..planning.program import Program
    from ..planning.solve import ProfileOrigin
    from ..planning.solve import solve as solve_program
    from ..reporting.terminal.diagnostics import print_prediction_validity
    from ..solver.milp.base import SolverSettings
    from ..solver.milp.registry import solver_named

    origin = ProfileOrigin(output, file_sha256(output))
    settings = EvaluationSettings(sequence_length=built.record.sequence_length)

    def solve_at(bits: float) -> "Plan":
        instance = Program(built).limit("average_bits", at_most=bits).instance()
        return solve_program(built, origin, instance, solver_named("cpsat"), SolverSettings())

    print_prediction_validity(
        measure_prediction_validity(loaded, built, solve_at, settings, progress()), Console(markup=False)
    )
