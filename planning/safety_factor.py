"""Programs that require a factor of safety, handed over to evaluation/safety, which measures what the model bears.

This is the one place where planning calls a later room, by imports inside functions.

Knows nothing about how a factor is measured.
"""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..common.errors import InputError
from ..common.progress import Progress, silent, unreported
from .original_model import load_original
from .plan import Plan

if TYPE_CHECKING:
    from ..evaluation.safety.run import SafetySettings
    from ..models.loading import LoadedModel
    from .program import Program


class SafetyOptions(TypedDict, total=False):
    """How a factor of safety is determined.

    Attributes:
        safety_file: of ``scantling safety``, whose text and thresholds are taken; without one the usual ones.
        predicted_only: take the prediction from that file, and measure nothing.
        model: the original model, loaded or by name or path; without one that of the profile.
        trust_remote_code: run code that comes with the model.
        progress: shows how far the work is.
        report: is told what was tried, a line each.
    """

    safety_file: str | PathLike[str] | None
    predicted_only: bool
    model: "str | PathLike[str] | LoadedModel | None"
    trust_remote_code: bool
    progress: Progress | None
    report: Callable[[str], None] | None


def solve_with_safety(program: "Program", solve_once: "Callable[[Program], Plan]", options: SafetyOptions) -> Plan:
    """Solve a program, several times where it requires a factor of safety.

    Args:
        program: the program.
        solve_once: solves one that requires none.
        options: how the factor is found out.

    Returns:
        The plan; its claim says whether the factor was confirmed.

    Raises:
        TypeError: an option is none of ``SafetyOptions``.
        InputError: options do not fit together, or the profile was not saved, beside which measurements are kept.
    """
    unknown = options.keys() - SafetyOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"solve() got an unexpected keyword argument {min(unknown)!r}")
    path, predicted_only = options.get("safety_file"), options.get("predicted_only", False)
    if program.safety_factor is None:
        if path is not None or predicted_only:
            raise InputError("--safety and --predicted-only are for --safety-factor, which was not given.")
        return solve_once(program)
    from ..evaluation.safety.record import read_safety  # noqa: PLC0415
    from ..evaluation.safety.run import SafetySettings, settings_of  # noqa: PLC0415
    from ..evaluation.safety.solve_with_factor import solve_predicted  # noqa: PLC0415

    if program.profile.origin is None:
        raise InputError("measurements of a factor of safety are kept beside the profile: save the profile first.")
    safety = None if path is None else read_safety(Path(path))
    settings = SafetySettings() if safety is None else settings_of(safety, program.profile, program.profile.origin)
    if not predicted_only:
        return _solve_measured(program, solve_once, settings, options)
    if safety is None:
        raise InputError(
            "--predicted-only takes what the model bears from a safety file. Name it with --safety, or measure one "
            "with: scantling safety PLAN -o safety.json"
        )
    return solve_predicted(program, safety, solve_once)


def _solve_measured(
    program: "Program", solve_once: "Callable[[Program], Plan]", settings: "SafetySettings", options: SafetyOptions
) -> Plan:
    from ..evaluation.safety.run import cache_beside, safety_run  # noqa: PLC0415
    from ..evaluation.safety.solve_with_factor import solve_safely  # noqa: PLC0415

    profile, progress = program.profile, options.get("progress") or silent
    assert profile.origin is not None
    trust = options.get("trust_remote_code", False)
    model = load_original(options.get("model"), profile.record.model_source, progress, trust_remote_code=trust)
    run = safety_run(model, profile, profile.origin, settings, cache_beside(profile.origin.path), progress)
    return solve_safely(program, run, solve_once, options.get("report") or unreported)[0]
