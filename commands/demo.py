"""The command ``demo``: the whole path on a real model, in one call."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..common.errors import StorageError
from .flags import DetailsOption
from .loading import progress

if TYPE_CHECKING:
    from ..models.loading import LoadedModel
    from ..planning.plan import Plan
    from ..reporting.terminal.progress import TerminalProgress
    from ..sensitivity.profile import Profile

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
    plan = _solve(profile, plan_path, console, details=details)
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
    from ..sensitivity.profile_model import profile

    # Half the default's time. With so few prices the token form, which is low by a twentieth, makes the better plan:
    # its error for a single layer is less than half of that of the window form (benchmarks/LOG.md).
    measured = profile(
        loaded,
        estimator="fisher-token",
        pricing_sequences=16,
        label_draws=1,
        output=profile_path,
        progress=progress,
    )
    print_profile(measured, console)
    print_regime(measured, console)
    return measured


def _solve(profile: "Profile", plan_path: Path, console: Console, *, details: bool) -> "Plan":
    from ..planning.program import Program
    from ..reporting.terminal.plan_view import render_plan
    from ..sensitivity.profile import uniform_formats

    budget_bytes = profile.stored_bytes(uniform_formats(profile, UNIFORM))
    program = Program(profile).limit("memory", at_most=f"{budget_bytes}B", origin=f"as uniform {UNIFORM}")
    plan = program.solve()
    plan.save(plan_path)
    render_plan(plan, plan.diagnose(), console, details=details)
    return plan
