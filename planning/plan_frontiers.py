"""The frontiers on which a plan is seen: the least predicted loss at every size, and at every power, under its rules.

Knows nothing about how they are drawn.
"""

from ..common.progress import Progress
from ..hardware.resources import POWER, STORED_BYTES
from ..quantization.formats import IntegerFormat, parse_format
from ..sensitivity.profile import Profile, uniform_formats
from ..solver.instance import LOSS, Instance
from ..solver.milp.base import MilpSolver, SolverSettings
from ..solver.rules import Limit, LossLimit
from .baselines import uniform_names
from .pareto import Frontier, FrontierRequest, sweep_frontier
from .plan import Plan


def frontiers_of(
    plan: Plan, profile: Profile, num_points: int, search: tuple[MilpSolver, SolverSettings], progress: Progress
) -> tuple[Frontier, ...]:
    """Solve the frontiers of a plan's program: against bytes, and against watts where it knows them.

    The plan's rules hold; its limits on the whole plan do not, or the frontier would end where the plan stands.

    Args:
        plan: the plan.
        profile: that it was solved from.
        num_points: of each; none are solved for 0.
        search: the solver and its settings.
        progress: is told of every point.

    Returns:
        The frontiers.
    """
    if num_points == 0:
        return ()
    program = _without_limits(plan.program)
    found = []
    for row in (STORED_BYTES, POWER):
        if row not in program.row_index:
            continue
        highest = _largest(plan, program, profile, row)
        step, measure = program.row(row).step, program.row(row).measure
        bound = f"{highest} B" if measure == "bytes" else f"{highest * step:.9g} W"
        sweep = FrontierRequest((row,), highest=(bound,), points=str(num_points))
        found.append(sweep_frontier(profile, program, sweep, *search, progress))
    return tuple(found)


def _without_limits(program: Instance) -> Instance:
    kept = [
        rule
        for rule in program.rules
        if not isinstance(rule, LossLimit) and not (isinstance(rule, Limit) and rule.units is None)
    ]
    return Instance(program.units, program.rows, program.domains, tuple(kept), program.loss, (LOSS,))


def _largest(plan: Plan, program: Instance, profile: Profile, row: str) -> int:
    """Give what the plan or the largest uniform of integers takes: beyond, there is nothing to see."""
    sizes = [program.amount(row, plan.choice())]
    sizes += [_amount(program, profile, name, row) for name in integer_uniforms(profile)]
    return max(sizes)


def integer_uniforms(profile: Profile) -> list[str]:
    """The integer formats that every decided layer is offered, smallest first."""
    return [name for name in uniform_names(profile) if isinstance(parse_format(name), IntegerFormat)]


def _amount(program: Instance, profile: Profile, name: str, row: str) -> int:
    formats = uniform_formats(profile, name)
    return program.amount(row, [unit.formats.index(formats[unit.name]) for unit in program.units])
