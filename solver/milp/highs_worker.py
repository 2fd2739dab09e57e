"""The process in which cvxpy and HiGHS run: requests on standard input, replies on standard output, one per line.

Knows nothing about layers or files.
"""

import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import cvxpy
import highspy
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .base import SolverSettings, Status
from .highs import REPLY, REQUEST, SolveReply, SolveRequest

STATUS_MAP = {
    cvxpy.OPTIMAL: Status.OPTIMAL,
    cvxpy.INFEASIBLE: Status.INFEASIBLE,
    cvxpy.USER_LIMIT: Status.FEASIBLE,
}
_LARGEST_OBJECTIVE = 1e6
_DUAL_TOLERANCE = 1e-7  # of a reduced cost, HiGHS's default
_PRIMAL_TOLERANCE = 1e-9


@dataclass(frozen=True)
class _ScaledObjective:
    """An objective whose value is (true value − offset) · scale, and the constraints that define it."""

    expression: Any
    constraints: list[Any]
    offset: float = 0.0
    scale: float = 1.0


def solve_here(request: SolveRequest) -> SolveReply:
    """Search for the best choice in this process."""
    starts = np.array(request.starts)
    groups = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    taken = cvxpy.Variable(len(groups), boolean=True)
    one_each = sparse.csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))))
    constraints: list[Any] = [one_each @ taken == 1, *_rules(request, taken, groups)]
    if request.slack_prices is None:
        constraints += [row @ taken <= bound for row, bound in _scaled_rows(request)]
        objective = _cost_objective(request, taken, starts, groups)
    else:
        objective = _slack_objective(request, taken)
    problem = cvxpy.Problem(cvxpy.Minimize(objective.expression), constraints + objective.constraints)
    status = _run(problem, request.settings)
    if status not in {Status.OPTIMAL, Status.FEASIBLE} or taken.value is None:
        return SolveReply((Status.UNKNOWN if status is Status.FEASIBLE else status).name)
    chosen = [
        int(first + part.argmax()) for first, part in zip(starts, np.split(taken.value, starts[1:-1]), strict=False)
    ]
    highs_info: Any = problem.solver_stats.extra_stats
    resolution = len(groups) * _DUAL_TOLERANCE / objective.scale
    reached = float((np.array(request.costs)[:, chosen].sum(axis=1) + np.array(request.constants)).max())
    bound = float(highs_info.mip_dual_bound) / objective.scale + objective.offset - resolution
    return SolveReply(status.name, chosen, bound if request.slack_prices else min(bound, reached), resolution)


def _cost_objective(
    request: SolveRequest, taken: cvxpy.Variable, starts: NDArray[np.int64], groups: NDArray[np.int64]
) -> _ScaledObjective:
    """State the largest of the cost vectors, shifted and scaled so that the largest objective is 1e6.

    HiGHS takes a reduced cost within 1e-7 of zero for zero, which over all options is the resolution of the reply.

    Args:
        request: the program.
        taken: the binaries, [options].
        starts: first option of every group.
        groups: the group of every option.

    Returns:
        The objective.
    """
    costs = np.array(request.costs)
    least = np.minimum.reduceat(costs, starts[:-1], axis=1)
    shifted = costs - least[:, groups]
    constants = np.array([math.fsum([*row, constant]) for row, constant in zip(least, request.constants, strict=True)])
    offset = float(constants.min())
    largest = float((np.maximum.reduceat(shifted, starts[:-1], axis=1)).sum(axis=1).max() + (constants - offset).max())
    scale = _LARGEST_OBJECTIVE / (largest or 1.0)
    if len(shifted) == 1:
        return _ScaledObjective((shifted[0] * scale) @ taken, [], offset, scale)
    ceiling = cvxpy.Variable()
    below = [
        (vector * scale) @ taken + (constant - offset) * scale <= ceiling
        for vector, constant in zip(shifted, constants, strict=True)
    ]
    return _ScaledObjective(ceiling, below, offset, scale)


def _slack_objective(request: SolveRequest, taken: cvxpy.Variable) -> _ScaledObjective:
    """State the price of exceeding rows."""
    slack = cvxpy.Variable(len(request.amounts), nonneg=True)
    rows = [
        np.array(amounts, dtype=float) @ taken - slack[k] <= float(bound)
        for k, (amounts, bound) in enumerate(zip(request.amounts, request.at_most, strict=True))
    ]
    return _ScaledObjective(np.array(request.slack_prices, dtype=float) @ slack, rows)


def _scaled_rows(request: SolveRequest) -> list[tuple[NDArray[np.float64], float]]:
    """Divide each row by the common divisor of its amounts, and raise the bound by half a step.

    Sums are integers, so the half step changes no answer and keeps rounding errors away from the bound.

    Args:
        request: the program.

    Returns:
        Each row and its bound.
    """
    rows = []
    for amounts, bound in zip(request.amounts, request.at_most, strict=True):
        divisor = math.gcd(*amounts) or 1
        steps = np.array([amount // divisor for amount in amounts], dtype=float)
        rows.append((steps, bound // divisor + 0.5))
    return rows


def _rules(request: SolveRequest, taken: cvxpy.Variable, groups: NDArray[np.int64]) -> list[Any]:
    """Orders by the rank of each width, and one indicator per format for every limit on distinct formats."""
    ranks = np.unique(request.bits, return_inverse=True)[1].astype(float)
    constraints: list[Any] = []
    for finer, coarser in request.orders:
        constraints.append((ranks * (groups == finer)) @ taken >= (ranks * (groups == coarser)) @ taken)
    numbers = np.array(request.formats)
    for limit in request.distinct:
        options = np.flatnonzero(np.isin(groups, limit.groups))
        column = np.unique(numbers[options], return_inverse=True)[1]
        used = cvxpy.Variable(int(column.max()) + 1, boolean=True)
        select = sparse.csr_array(
            (np.ones(len(options)), (np.arange(len(options)), options)), (len(options), len(groups))
        )
        assign = sparse.csr_array((np.ones(len(options)), (np.arange(len(options)), column)))
        constraints += [select @ taken <= assign @ used, np.ones(used.size) @ used <= limit.at_most]
    return constraints


def _run(problem: cvxpy.Problem, settings: SolverSettings) -> Status:
    highspy.Highs.resetGlobalScheduler(True)  # or a number of threads other than the first one's is an error
    try:
        problem.solve(  # type: ignore[no-untyped-call]
            solver=cvxpy.HIGHS,
            time_limit=settings.time_limit_seconds,
            threads=settings.num_threads,
            random_seed=settings.seed,
            mip_rel_gap=settings.relative_gap,
            mip_abs_gap=0.0,
            mip_feasibility_tolerance=_PRIMAL_TOLERANCE,
            primal_feasibility_tolerance=_PRIMAL_TOLERANCE,
        )
    except cvxpy.error.SolverError:
        return Status.UNKNOWN  # HiGHS found nothing in the time it had
    return STATUS_MAP.get(problem.status, Status.UNKNOWN)


def main() -> None:
    """Answer every request; what HiGHS itself prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        replies.write(REPLY.dump_json(solve_here(REQUEST.validate_json(line))) + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
