"""The commands about hardware: predict, and hardware list, fit and measure."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..common.errors import InputError
from .files import plan_and_profile
from .flags import JsonOption, PlanArgument, ProfileOption

if TYPE_CHECKING:
    from ..hardware.runtimes import DecodeRuntime
    from ..hardware.specification import Hardware, SourcedNumber

app = typer.Typer()
hardware = typer.Typer(
    no_args_is_help=True, help="The numbers of machines: list them, fit them to measurements, measure this one."
)
app.add_typer(hardware, name="hardware")

DecodedOption = Annotated[
    str | None,
    typer.Option("--model", help="Model to decode with torch, whole and cut to fewer blocks. Default: the demo's."),
]
GgufOption = Annotated[
    list[Path] | None, typer.Option("--gguf", help="GGUF file to decode with llama.cpp instead of torch; repeatable.")
]
KernelsOption = Annotated[
    str | None,
    typer.Option(help="GGUF types, or all: products in llama.cpp's CPU kernels, without a model."),
]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")]
UniformOption = Annotated[
    list[str] | None,
    typer.Option("--uniform", help="Width or format to compare with; repeatable. Default: all."),
]
RateOption = Annotated[
    str | None,
    typer.Option("--rate", help="Throughput at which power is compared, such as '26 tok/s'. Default: the slowest's."),
]


@app.command()
def predict(
    plan_path: PlanArgument,
    hardware_name: Annotated[
        str, typer.Option("--hardware", help="Known machine (scantling hardware list) or hardware file.")
    ],
    uniform: UniformOption = None,
    other: Annotated[
        list[Path] | None, typer.Option("--plan", help="Another plan for the same profile; repeatable.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens in the KV cache, per sequence.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences decoded at once.")] = None,
    kv_bits: Annotated[float | None, typer.Option(help="Bits per number of the KV cache.")] = None,
    rate: RateOption = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of the prompt of a query.")] = None,
    answer: Annotated[int | None, typer.Option(help="Tokens of the answer of a query.")] = None,
    profile_path: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict bytes, speed, power and energy of a plan on a machine, beside uniform alternatives and the original."""
    from ..evaluation.prediction import Use, entries_of
    from ..evaluation.prediction import predict as predict_needs
    from ..planning.plan import read_plan
    from ..planning.program import Program
    from ..reporting.terminal.prediction_table import print_prediction

    plan, profile = plan_and_profile(plan_path, profile_path)
    plans = {"plan": plan} | {str(path): read_plan(path) for path in other or []}
    work = {"context": context, "batch": batch, "kv_bits": kv_bits, "rate": rate, "prompt": prompt, "answer": answer}
    program = Program(profile).hardware(hardware_name, "--hardware").workload("the flags", **work)
    assert program.on_hardware is not None
    for path, read in plans.items():
        if read.profile_sha256 != plan.profile_sha256:
            raise InputError(
                f"{path} was solved from another profile than {plan_path}. Solve both from the same profile."
            )
    found = predict_needs(profile, entries_of(profile, plans, uniform), Use(program.on_hardware, program.work))
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        print_prediction(found, Console(markup=False))


@hardware.command()
def fit(
    measurements: Annotated[
        Path, typer.Argument(metavar="CSV", help="Measured points; docs/hardware.md describes the columns.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The hardware file to write.")],
    base: Annotated[
        str | None, typer.Option("--hardware", help="Known machine or file that provides all other numbers.")
    ] = None,
    bandwidth: Annotated[str | None, typer.Option(help="Such as '1008 GB/s', if no machine is given.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the machine in messages.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw measured against fitted to a .png, .svg or .pdf.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit efficiency, overhead and power of a machine to measured points, and write a hardware file."""
    from ..common.files import require_writable
    from ..common.units import BYTES_PER_SECOND
    from ..hardware.fit import fit_laws
    from ..hardware.fitted_file import hardware_of, law_record
    from ..hardware.points import read_points
    from ..hardware.specification import write_hardware
    from ..reporting.terminal.hardware_table import draw_fits, print_fits

    require_writable(output, 1 << 16)
    start = _base_hardware(base, bandwidth, name or output.stem)
    points = read_points(measurements)
    fits = fit_laws(points.points, float(start.number("bandwidth", BYTES_PER_SECOND, "a fit")))
    if picture is not None:
        draw_fits(fits, f"{start.name}: {points.name}", picture)
    write_hardware(hardware_of(start, fits, points), output)
    if as_json:
        typer.echo(json.dumps([law_record(found).model_dump() for found in fits]))
        return
    print_fits(fits, Console(markup=False))
    if len(fits) == 1:
        typer.echo("No point has watts: only speed was fitted, and the power law is unchanged.")
    typer.echo(f"Wrote {output}: use it with --hardware {output}")


def _base_hardware(base: str | None, bandwidth: str | None, name: str) -> "Hardware":
    from ..common.units import BYTES_PER_SECOND, parse_quantity
    from ..hardware.specification import Hardware, SourcedNumber, load_hardware

    if (base is None) == (bandwidth is None):
        raise InputError("efficiencies are shares of a bandwidth. Give either --hardware or --bandwidth.")
    if base is not None:
        return load_hardware(base).model_copy(update={"name": name})
    assert bandwidth is not None
    parse_quantity(bandwidth, BYTES_PER_SECOND)
    return Hardware(name=name, bandwidth=SourcedNumber(value=bandwidth))


@hardware.command()
def measure(
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV file of points to write, for hardware fit.")],
    model: DecodedOption = None,
    gguf: GgufOption = None,
    kernels: KernelsOption = None,
    seconds: Annotated[float, typer.Option(help="Length of each run; at least 10 if energy is read.")] = 3.0,
    array: Annotated[
        str, typer.Option(help="Array read repeatedly for the bandwidth; much larger than caches.")
    ] = "1GiB",
    threads: Annotated[int | None, typer.Option(help="Threads that compute. Default: torch's own choice.")] = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: bandwidth, decode in several formats, and energy if it has a counter."""
    import torch

    from ..common.files import require_writable
    from ..common.units import parse_bytes
    from ..hardware.energy_meters import SECONDS_OF_A_WINDOW, find_meters
    from ..hardware.measure import measure_runs, stream_bandwidth, write_points
    from ..hardware.measured_hardware import measured_hardware
    from ..hardware.points import read_points
    from ..reporting.terminal.hardware_table import print_measured
    from ..reporting.terminal.progress import TerminalProgress

    require_writable(output, 1 << 16)
    if threads is not None:
        torch.set_num_threads(threads)
    runtime = _decode_runtime(model, gguf or [], kernels, trust_remote_code=trust_remote_code)
    meters = find_meters()
    stream = stream_bandwidth(parse_bytes(array))
    window = max(seconds, SECONDS_OF_A_WINDOW) if meters.found else seconds
    runs = measure_runs(runtime, window, meters.found, TerminalProgress(Console(stderr=True)))
    found = measured_hardware(runs, stream, runtime, (tuple(m.name for m in meters.found), meters.missing))
    write_points(runs, (f"read bandwidth {stream.read_bytes_per_second:.6g} B/s", f"engine: {runtime.name}"), output)
    read_points(output)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    print_measured(found, Console(markup=False))
    if kernels is not None:
        typer.echo("These are products alone: decode a GGUF file (--gguf) to time the rest of a model.")
    bandwidth = f"{stream.read_bytes_per_second / 1e9:.4g} GB/s"
    typer.echo(f"Wrote {output}. Next: scantling hardware fit {output} --bandwidth '{bandwidth}' -o mine.yaml")


def _decode_runtime(
    model: str | None, gguf: list[Path], kernels: str | None, *, trust_remote_code: bool
) -> "DecodeRuntime":
    from ..hardware.kernel_runtime import KernelRuntime, kernel_formats
    from ..hardware.llama_cpp_runtime import LlamaCppRuntime
    from ..hardware.runtimes import TorchRuntime
    from ..models.demo_model import demo_model_path
    from ..models.loading import load_model

    if (model is not None) + bool(gguf) + (kernels is not None) > 1:
        raise InputError(
            "--model is decoded by torch, --gguf by llama.cpp, --kernels times its products alone. Give one of them."
        )
    if kernels is not None:
        return KernelRuntime(kernel_formats(kernels))
    if gguf:
        return LlamaCppRuntime(gguf)
    return TorchRuntime(load_model(model or str(demo_model_path()), trust_remote_code=trust_remote_code))


@hardware.command("list")
def list_hardware(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]…", help="Machines or files to show in full. Default: a list of all."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the known machines, or show some with the source of every number."""
    from ..hardware.specification import FIGURES, hardware_names, load_hardware
    from ..reporting.terminal.hardware_table import print_hardware

    known = [load_hardware(name) for name in names or hardware_names()]
    if as_json:
        typer.echo(json.dumps([found.model_dump() for found in known], ensure_ascii=False))
        return
    if not names:
        print_hardware(known, Console(markup=False))
        typer.echo("All numbers of one, with the source of each: scantling hardware list NAME")
        return
    for found in known:
        typer.echo(f"{found.name}: {found.note}")
        stated = [(key, getattr(found, key)) for key in FIGURES]
        stated += [(f"efficiency of {entry.formats}", entry.share) for entry in found.efficiency]
        for key, figure in stated:
            typer.echo(f"  {key}: {'not known' if figure is None else _describe_figure(figure)}")


def _describe_figure(figure: "SourcedNumber") -> str:
    return f"{figure.value} ({figure.origin}{': ' * bool(figure.source)}{figure.source})"
