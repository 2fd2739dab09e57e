"""Decides how many bits each layer of a language model gets, by an exact integer program.

    import scantling as sc

    profile = sc.profile("HuggingFaceTB/SmolLM2-135M-Instruct", text="wikipedia", formats=["int2-g64", "int4-g64"])
    program = sc.Program(profile).limit(memory="110 MiB").tie(["*.gate_proj", "*.up_proj"], per="block")
    plan = program.minimize("loss_increase").solve(time_limit=60)
    sc.evaluate(plan, against=["int3-g64"])
    plan.export("checkpoint", backend="gptq")
    sc.check("checkpoint")

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backends.check import check_checkpoint as check
    from .common.errors import (
        EngineError,
        FileFormatError,
        InputError,
        ScantlingError,
        SolverTimeout,
        UnsupportedModelError,
    )
    from .evaluation.compare import evaluate
    from .planning.explanation import InfeasibleError
    from .planning.plan import Plan
    from .planning.program import Program
    from .sensitivity.profile import Profile
    from .sensitivity.profile_model import profile

__version__ = "0.2.0"
__all__ = [
    "EngineError",
    "FileFormatError",
    "InfeasibleError",
    "InputError",
    "Plan",
    "Profile",
    "Program",
    "ScantlingError",
    "SolverTimeout",
    "UnsupportedModelError",
    "__version__",
    "check",
    "evaluate",
    "profile",
]
_PLACES = {
    "EngineError": "common.errors",
    "FileFormatError": "common.errors",
    "InfeasibleError": "planning.explanation",
    "InputError": "common.errors",
    "Plan": "planning.plan",
    "Profile": "sensitivity.profile",
    "Program": "planning.program",
    "ScantlingError": "common.errors",
    "SolverTimeout": "common.errors",
    "UnsupportedModelError": "common.errors",
    "check": "backends.check:check_checkpoint",
    "evaluate": "evaluation.compare",
    "profile": "sensitivity.profile_model",
}  # module, and the name there where it differs


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, there = _PLACES[name].partition(":")
    found = getattr(import_module(f".{module}", __name__), there or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
