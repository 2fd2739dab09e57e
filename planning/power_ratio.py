"""The plan of least power at full speed: a ratio of two sums, made a few programs with one sum each.

At full speed a plan draws P = (P0 t + c b / B) / t watts, which is no sum over layers. For any λ the sum
N(λ) = (P0 − λ) t + c b / B is negative where P < λ. So, from any λ (Dinkelbach 1967): find the plan of least N(λ), let
λ be its power, and go on until it no longer falls. Then the least N(λ) is zero, and no plan draws less than λ.

Knows nothing about how programs are solved.
"""

from fractions import Fraction
from typing import TYPE_CHECKING, Final

from ..common.errors import SolverError
from ..common.units import WATTS
from ..hardware.decode_laws import seconds_per_step, watts_at
from ..hardware.resources import POWER, ROW_OF
from ..solver.instance import Instance
from .solve import Search, formats_or_none

if TYPE_CHECKING:
    from .program import Program

_NANOWATTS: Final = 10**9
_MAX_STEPS: Final = 50


def minimizes_power_at_full_speed(program: "Program") -> bool:
    """Tell whether power is minimised and no rate given."""
    return program.work.rate is None and any(ROW_OF.get(name, name) == POWER for name in program.objectives)


def lower_with_least_power(program: "Program", search: Search) -> Instance:
    """Make a program's instance; of one that minimises power at full speed, that for the λ below which no plan draws.

    Args:
        program: the program.
        search: solves the programs on the way.

    Returns:
        The instance, to be solved; where there is no plan, one that shows it.

    Raises:
        SolverError: the power still fell after 50 programs.
        InputError: a constraint makes no sense, or a number of the hardware is missing.
    """
    if not minimizes_power_at_full_speed(program):
        return program.instance()
    hardware = program.rows.require_hardware("a power")
    watts = hardware.number("base_power", WATTS, "a power") + hardware.number("traffic_power", WATTS, "a power")
    lowest: Fraction | None = None
    for _ in range(_MAX_STEPS):
        instance = program.instance(full_speed_watts=watts)
        formats = formats_or_none(instance, search.solver, search.settings)
        if formats is None:
            return instance
        drawn = _power(program, formats)
        if lowest is not None and drawn >= lowest:
            return instance
        lowest, watts = drawn, Fraction(round(drawn * _NANOWATTS), _NANOWATTS)
    raise SolverError(
        f"the least power at full speed was not found in {_MAX_STEPS} steps. Give a rate, at which power is a sum."
    )


def _power(program: "Program", formats: dict[str, str]) -> Fraction:
    read = program.rows.read_bytes(formats)
    hardware = program.rows.require_hardware("a power")
    return watts_at(read, hardware, 1 / seconds_per_step(read, hardware))
