"""The flags of the command line as one program.

Knows nothing about how flags are parsed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..common.errors import InputError
from ..sensitivity.profile import Profile
from .plan import read_plan
from .program import Program
from .python_constraints import run_constraints_py


@dataclass(frozen=True)
class ProgramOptions:
    """The flags as the user wrote them, by the names of their options; None or empty where not given.

    Attributes:
        pin_from: ``PLAN:PATTERN`` each.
        constraints: constraint files.
        constraints_py: ``FILE:FUNCTION``.
    """

    memory: str | None = None
    checkpoint_size: str | None = None
    average_bits: str | None = None
    power: str | None = None
    energy: str | None = None
    speed: str | None = None
    max_loss: str | None = None
    hardware: str | None = None
    context: int | None = None
    batch: int | None = None
    kv_bits: float | None = None
    rate: str | None = None
    engine: str | None = None
    minimize: tuple[str, ...] = ()
    robust: float | None = None
    domains: Literal["mean", "worst"] | None = None
    pin_from: tuple[str, ...] = ()
    safety_factor: float | None = None
    constraints: tuple[Path, ...] = ()
    constraints_py: str | None = None


def program_from_options(profile: Profile, options: ProgramOptions) -> Program:
    """Make a program of flags: constraint files come first, then flags, then the user's own Python."""
    program = Program(profile)
    for path in options.constraints:
        program = program.read(path)
    program = _with_use(program, options)
    for flag, key, bound in (
        ("--memory", "memory", options.memory),
        ("--checkpoint-size", "stored_bytes", options.checkpoint_size),
        ("--average-bits", "average_bits", options.average_bits),
        ("--power", "power", options.power),
        ("--energy", "energy", options.energy),
        ("--max-loss", "loss_increase", options.max_loss),
    ):
        if bound is not None:
            program = program.limit(key, at_most=bound, origin=flag)
    if options.speed is not None:
        program = program.limit("speed", at_least=options.speed, origin="--speed")
    for spelled in options.pin_from:
        program = _pin_from(program, spelled)
    if options.minimize:
        program = program.minimize(*options.minimize, origin="--minimize")
    if options.robust is not None or options.domains is not None:
        flags = "--robust" if options.robust is not None else "--domains"
        program = program.robust(float(options.robust or 0), options.domains or "mean", origin=flags)
    if options.safety_factor is not None:
        program = program.safety(options.safety_factor, "--safety-factor")
    if options.constraints_py is not None:
        program = run_constraints_py(program, options.constraints_py)
    return program


def _with_use(program: Program, options: ProgramOptions) -> Program:
    if options.engine is not None:
        program = program.engine(options.engine, "--engine")
    if options.hardware is not None:
        program = program.hardware(options.hardware, "--hardware")
    for flag, key in (("--context", "context"), ("--batch", "batch"), ("--kv-bits", "kv_bits"), ("--rate", "rate")):
        if getattr(options, key) is not None:
            program = program.workload(flag, **{key: getattr(options, key)})
    return program


def _pin_from(program: Program, spelled: str) -> Program:
    file_name, _, pattern = spelled.rpartition(":")
    if not file_name or not pattern:
        raise InputError(f"--pin-from {spelled}: write PLAN:PATTERN, such as plan.json:*.v_proj.")
    plan = read_plan(Path(file_name))
    return program.pin_from(plan, pattern, plan_name=file_name, origin=f"--pin-from {spelled}")
