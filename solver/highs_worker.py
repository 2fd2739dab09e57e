"""The process in which cvxpy and HiGHS run: requests come in on standard input, outcomes go out, one a line.

Knows nothing about layers or files.
"""

import math
import sys
import time
from importlib.metadata import version
from typing import Any

import cvxpy
import numpy as np
from scipy import sparse

from .engine import Outcome, SearchSettings, Status
from .highs import OUTCOME, REQUEST
from .instance import Instance

STATUS_MAP = {
    cvxpy.OPTIMAL: Status.OPTIMAL,
    cvxpy.INFEASIBLE: Status.INFEASIBLE,
    cvxpy.USER_LIMIT: Status.FEASIBLE,
}
_LARGEST_OBJECTIVE = 1e6
_DUAL_TOLERANCE = 1e-7  # of a reduced cost, HiGHS's default
_PRIMAL_TOLERANCE = 1e-9


def solve_here(instance: Instance, settings: SearchSettings) -> Outcome:
    """Search for the best choice in this process.

    Costs are shifted and scaled so that the largest objective is 1e6. HiGHS takes a reduced cost within 1e-7 of zero
    for zero, which over all options is the resolution that the outcome states.

    Args:
        instance: the program.
        settings: limits of the search.

    Returns:
        The outcome.
    """
    start = time.perf_counter()
    sizes = [len(unit.options) for unit in instance.units]
    costs = np.array([option.loss_increase_nats for unit in instance.units for option in unit.options])
    offsets = np.array([min(option.loss_increase_nats for option in unit.options) for unit in instance.units])
    shifted = costs - np.repeat(offsets, sizes)
    largest = float(np.sum([part.max() for part in np.split(shifted, np.cumsum(sizes)[:-1])])) or 1.0
    scale = _LARGEST_OBJECTIVE / largest
    resolution = len(costs) * _DUAL_TOLERANCE / scale

    taken = cvxpy.Variable(len(costs), boolean=True)
    units = np.repeat(np.arange(len(sizes)), sizes)
    one_each = sparse.csr_array((np.ones(len(costs)), (units, np.arange(len(costs)))))
    constraints = [one_each @ taken == 1]
    for k, limit in enumerate(instance.limits):
        amounts = [option.amounts[k] for unit in instance.units for option in unit.options]
        divisor = math.gcd(*amounts) or 1
        row = np.array([amount // divisor for amount in amounts], dtype=float)
        constraints.append(row @ taken <= float(limit.at_most // divisor))
    problem = cvxpy.Problem(cvxpy.Minimize((shifted * scale) @ taken), constraints)
    status = _run(problem, settings)
    choice, bound = None, None
    if status in {Status.OPTIMAL, Status.FEASIBLE}:
        if taken.value is None:
            status = Status.UNKNOWN
        else:
            choice = tuple(int(part.argmax()) for part in np.split(taken.value, np.cumsum(sizes)[:-1]))
            highs_info: Any = problem.solver_stats.extra_stats
            proven = float(highs_info.mip_dual_bound) / scale + math.fsum(offsets) - resolution
            bound = min(proven, instance.loss_increase_nats(choice))
    engine = f"cvxpy {version('cvxpy')} with HiGHS {version('highspy')}"
    return Outcome(status, choice, bound, resolution, time.perf_counter() - start, engine)


def _run(problem: cvxpy.Problem, settings: SearchSettings) -> Status:
    try:
        problem.solve(  # type: ignore[no-untyped-call]
            solver=cvxpy.HIGHS,
            time_limit=settings.time_limit_seconds,
            threads=settings.num_threads,
            random_seed=settings.seed,
            mip_rel_gap=0.0,
            mip_abs_gap=0.0,
            mip_feasibility_tolerance=_PRIMAL_TOLERANCE,
            primal_feasibility_tolerance=_PRIMAL_TOLERANCE,
        )
    except cvxpy.error.SolverError:
        return Status.UNKNOWN  # HiGHS found nothing in the time it had
    return STATUS_MAP.get(problem.status, Status.UNKNOWN)


def main() -> None:
    """Answer every request."""
    for line in sys.stdin.buffer:
        request = REQUEST.validate_json(line)
        outcome = solve_here(request.instance, request.settings)
        sys.stdout.buffer.write(OUTCOME.dump_json(outcome) + b"\n")


if __name__ == "__main__":
    main()
