"""The command ``demo``: the whole path on a real model, in one call."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..common.errors import StorageError
from .diagnosis import diagnose
from .flags import DetailsOption
from .loading import progress

if TYPE_CHECKING:
    from ..models.loading import LoadedModel
    from ..planning.plan import Plan
    from ..reporting.terminal.progress import TerminalProgress
    from ..sensitivity.profile import Profile
    from ..solver.instance import Instance

app = typer.Typer()
UNIFORM = "int3-g64"


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for the profile and the plan.")] = Path(
        "scantling-demo"
    ),
    details: DetailsOption = False,
) -> None:
    """The whole path on a real model: profile, solve at the size of uniform 3 bits, compare."""
    run_demo(folder, Console(markup=False), progress(), details=details)


def run_demo(folder: Path, console: Console, progress: "TerminalProgress", *, details: bool = False) -> None:
    """Profile the demo model, solve for the size of uniform 3 bits, and compare; write profile and plan.

    Args:
        folder: for the files; made where it does not exist.
        console: for the results.
        progress: for the bars.
        details: print everything that is known.

    Raises:
        StorageError: the folder cannot be made.
    """
    from ..evaluation.compare import EvaluationSettings, compare
    from ..models.demo_model import demo_model_path
    from ..models.loading import load_model
    from ..reporting.terminal.comparison_tables import print_comparison
    from ..reporting.terminal.progress import waiting

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}. Give another with -o.") from error
    profile_path, plan_path = folder / "profile.safetensors", folder / "plan.json"
    with waiting(progress, "loading SmolLM2-135M-Instruct"):
        loaded = load_model(str(demo_model_path()))
    console.rule("1 of 3: what every format of every layer costs")
    profile = _profile(loaded, profile_path, console, progress)
    console.rule(f"2 of 3: the best plan within the size of uniform {UNIFORM}")
    plan = _solve(profile, profile_path, plan_path, console, details=details)
    console.rule("3 of 3: plan, uniform and original, measured on text")
    comparison = compare(loaded, profile, {"plan": plan}, [UNIFORM], EvaluationSettings(), progress)
    print_comparison(comparison, console, details=details)
    console.print()
    console.print(f"Wrote {profile_path} and {plan_path}.")
    checkpoint = folder / "checkpoint"
    console.print(f"Next: scantling apply {plan_path} --backend fake -o {checkpoint}", style="bold", soft_wrap=True)


def _profile(loaded: "LoadedModel", profile_path: Path, console: Console, progress: "TerminalProgress") -> "Profile":
    from ..reporting.terminal.diagnostics import print_regime
    from ..reporting.terminal.profile_table import print_profile
    from ..sensitivity.calibration.resume_cache import discard_resume_cache
    from ..sensitivity.calibration.text import load_text
    from ..sensitivity.calibration.text_sources import PYDOC
    from ..sensitivity.domains import DEFAULT_NAME, Domain
    from ..sensitivity.profile import write_or_rescue_profile
    from ..sensitivity.profiling import ProfileSettings, build_profile

    # Half the default's time. With so few prices the token form, which is low by a twentieth, makes the better plan:
    # its error for a single layer is less than half of that of the window form (benchmarks/LOG.md).
    settings = ProfileSettings(estimator="fisher-token", num_pricing_sequences=16, num_label_draws=1)
    domain = Domain(DEFAULT_NAME, load_text(PYDOC))
    profile = build_profile(loaded, [domain], settings, profile_path, progress)
    write_or_rescue_profile(profile, profile_path)
    discard_resume_cache(profile_path)
    print_profile(profile, console)
    print_regime(profile, console)
    return profile


def _solve(profile: "Profile", profile_path: Path, plan_path: Path, console: Console, *, details: bool) -> "Plan":
    from ..common.files import file_sha256
    from ..planning.plan import write_plan
    from ..planning.program import Program
    from ..planning.solve import ProfileOrigin, choose_formats, solve
    from ..reporting.terminal.plan_view import render_plan
    from ..sensitivity.profile import uniform_formats
    from ..solver.milp.base import SolverSettings
    from ..solver.milp.cpsat import CpSatSolver

    budget_bytes = profile.stored_bytes(uniform_formats(profile, UNIFORM))

    def program(priced: "Profile") -> "Instance":
        return Program(priced).limit("memory", at_most=f"{budget_bytes}B", origin=f"as uniform {UNIFORM}").instance()

    origin = ProfileOrigin(profile_path, file_sha256(profile_path))
    plan = solve(profile, origin, program(profile), CpSatSolver(), SolverSettings())
    write_plan(plan, plan_path)
    diagnosis = diagnose(
        plan, profile, choose=lambda part: choose_formats(program(part), CpSatSolver(), SolverSettings())
    )
    render_plan(plan, diagnosis, console, details=details)
    return plan
