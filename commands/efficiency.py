"""The commands ``tasks`` and ``efficiency``: task accuracy of plans, and accuracy per watt and per joule."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..common.errors import InputError
from .files import plan_and_profile
from .flags import JsonOption, ModelOption, PlanArgument, ProfileOption, TrustOption
from .loading import load, progress

if TYPE_CHECKING:
    from ..evaluation.prediction import Entries
    from ..evaluation.tasks.accuracies import Accuracy, AccuracyFile
    from ..evaluation.tasks.efficiency import Power
    from ..planning.program import Program
    from ..sensitivity.profile import Profile

app = typer.Typer()
OtherOption = Annotated[list[Path] | None, typer.Option("--plan", help="Another plan of the same profile; repeatable.")]
UniformOption = Annotated[list[str] | None, typer.Option(help="A width or a format, beside the plan; repeatable.")]


@app.command()
def tasks(
    plan_path: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan, or a folder written by scantling apply.")],
    task: Annotated[list[str], typer.Option(help="A task of lm-eval, or a task file (.yaml); repeatable.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write the accuracies to.")] = Path(
        "accuracy.json"
    ),
    other: OtherOption = None,
    uniform: UniformOption = None,
    limit: Annotated[int | None, typer.Option(help="Use at most this many questions per task.")] = None,
    fewshot: Annotated[int | None, typer.Option(help="Examples before each question.")] = None,
    confidence: Annotated[float, typer.Option(help="Two-sided confidence of the intervals.")] = 0.95,
    inputs: Annotated[
        str, typer.Option(help="Inputs that layers are rounded against: original, quantized or corrected.")
    ] = ("original"),
    model: ModelOption = None,
    profile_path: ProfileOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the task accuracy of a plan and the original, or of a checkpoint, by lm-eval.

    lm-eval's task files work offline. They may name Python code, which is run: use only files that you trust.
    """  # noqa: DOC501
    from .. import __version__
    from ..common.files import require_writable
    from ..evaluation.bootstrap import BootstrapSettings
    from ..evaluation.cache import ORIGINAL, formats_sha256
    from ..evaluation.tasks.accuracies import AccuracyFile, PlanAccuracy, write_accuracies
    from ..evaluation.tasks.tasks import TaskSettings, lm_eval_version, run_tasks
    from ..reporting.terminal.efficiency_table import print_accuracies
    from ..sensitivity.sequential_rounding import round_as_shipped

    version = lm_eval_version()
    require_writable(output, 1 << 20)
    settings = TaskSettings(tuple(task), limit, fewshot, BootstrapSettings(confidence=confidence))
    if plan_path.is_dir():
        if other or uniform:
            raise InputError("a checkpoint is measured alone: --plan and --uniform go with a plan.")
        loaded = load(str(plan_path), trust_remote_code=trust_remote_code)
        measured = run_tasks(loaded, {}, settings, progress())
        plans = [PlanAccuracy(name=str(plan_path), formats_sha256=None, accuracies=measured[ORIGINAL])]
    else:
        plan, profile = plan_and_profile(plan_path, profile_path)
        formats = _formats(plan_path, profile, plan.profile_sha256, other or [], uniform or [])
        loaded = load(model or plan.model_source, trust_remote_code=trust_remote_code)
        rounded = round_as_shipped(loaded, profile, formats, inputs, progress())
        measured = run_tasks(loaded, rounded, settings, progress())
        plans = [
            PlanAccuracy(
                name=name,
                formats_sha256=formats_sha256(formats[name]) if name in formats else None,
                accuracies=accuracies,
            )
            for name, accuracies in measured.items()
        ]
    found = AccuracyFile(
        scantling_version=__version__,
        model_sha256=loaded.sha256,
        origin=version,
        bootstrap=settings.bootstrap,
        plans=tuple(plans),
    )
    write_accuracies(found, output)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        print_accuracies(found, Console(markup=False))


def _formats(
    plan_path: Path, profile: "Profile", profile_sha256: str, others: list[Path], uniforms: list[str]
) -> dict[str, dict[str, str]]:
    """Give the formats of plans, by their files, and of uniform baselines."""
    from ..planning.plan import read_plan
    from ..sensitivity.profile import decided_layers, uniform_formats

    found: dict[str, dict[str, str]] = {}
    for path in [plan_path, *others]:
        plan = read_plan(path)
        if plan.profile_sha256 != profile_sha256:
            raise InputError(f"{path} was solved from another profile than {plan_path}. Solve both from one profile.")
        found[str(path)] = plan.formats()
    for target in uniforms:
        formats = uniform_formats(profile, target)
        found[f"uniform {formats[decided_layers(profile)[0].name]}"] = formats
    return found


@app.command()
def efficiency(
    plan_path: PlanArgument,
    accuracy: Annotated[
        Path, typer.Option(help="Accuracies of these plans, from scantling tasks or scantling safety.")
    ],
    hardware: Annotated[
        list[str] | None, typer.Option(help="Known hardware or a hardware file, whose power is modelled; repeatable.")
    ] = None,
    measured: Annotated[
        list[str] | None,
        typer.Option(help="Your measurement NAME=WATTS@RATE, such as plan.json=165W@26tok/s; repeatable."),
    ] = None,
    other: OtherOption = None,
    uniform: UniformOption = None,
    context: Annotated[int | None, typer.Option(help="Tokens in the KV cache.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences at once.")] = None,
    rate: Annotated[str | None, typer.Option(help="One throughput for all, such as '26 tok/s'.")] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens of a query's prompt; joules are then per query.")] = None,
    answer: Annotated[int | None, typer.Option(help="Tokens of its answer.")] = None,
    profile_path: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give plans' accuracy per watt and per joule on machines, with the parts of each figure."""
    import json

    from ..evaluation.cache import ORIGINAL, formats_sha256
    from ..evaluation.tasks.accuracies import read_accuracies
    from ..evaluation.tasks.efficiency import efficiency as efficiency_of
    from ..evaluation.tasks.efficiency import measured_powers
    from ..planning.program import Program
    from ..reporting.terminal.efficiency_table import print_efficiency

    plan, profile = plan_and_profile(plan_path, profile_path)
    entries: Entries = {
        **_formats(plan_path, profile, plan.profile_sha256, other or [], uniform or []),
        ORIGINAL: None,
    }
    embedding = next((layer.out_features for layer in profile.record.layers if layer.kind == "embedding"), None)
    accuracies = read_accuracies(accuracy, embedding)
    stated = measured_powers(measured or [])
    if stated.keys() - entries.keys():
        raise InputError(f"--measured names {min(stated.keys() - entries.keys())!r}. There are: {', '.join(entries)}.")
    if not stated and not hardware:
        raise InputError("no power was given. Give --hardware to model it, or --measured to state it.")
    work = {"context": context, "batch": batch, "rate": rate, "prompt": prompt, "answer": answer}
    powers = {name: list(stated.get(name, [])) for name in entries}
    for named in hardware or []:
        program = Program(profile).hardware(named, "--hardware").workload("the flags", **work)
        _add_modelled(powers, profile, entries, program)
    hashes = {name: None if formats is None else formats_sha256(formats) for name, formats in entries.items()}
    rows = [
        efficiency_of(name, known, power)
        for name in entries
        for known in _accuracies_of(accuracies, name, hashes[name], accuracy)
        for power in powers[name]
    ]
    if as_json:
        typer.echo(json.dumps([row.model_dump() for row in rows]))
    else:
        print_efficiency(rows, Console(markup=False))


def _add_modelled(powers: "dict[str, list[Power]]", profile: "Profile", entries: "Entries", program: "Program") -> None:
    from ..evaluation.prediction import Use, predict
    from ..evaluation.tasks.efficiency import modelled_powers

    assert program.on_hardware is not None
    prediction = predict(profile, entries, Use(program.on_hardware, program.work))
    for entry in prediction.entries:
        powers[entry.name] += modelled_powers(prediction, entry)


def _accuracies_of(accuracies: "AccuracyFile", name: str, sha256: str | None, path: Path) -> "tuple[Accuracy, ...]":
    """Find an entry's accuracies by its formats, the original's by its name."""
    from ..evaluation.cache import ORIGINAL

    for plan in accuracies.plans:
        if plan.formats_sha256 == sha256 and (sha256 is not None or plan.name == ORIGINAL):
            return plan.accuracies
    raise InputError(
        f"{path} has no accuracy of {name}: it has {', '.join(plan.name for plan in accuracies.plans)}. Measure it "
        "with scantling tasks or scantling safety."
    )
