"""From an instance to a proven solution: several objectives in turn, robust objectives, limits on distinct formats.

Knows nothing about layers or files.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..common.errors import SolverError
from .compilation import Direction, compile_instance
from .core import CoreAnswer
from .format_cases import solve_by_cases
from .instance import LOSS, Instance
from .milp.base import MilpSolver, SolverSettings, Status
from .rules import Limit, LossLimit, Rule
from .verify import violations

_MAX_DIRECTIONS = 200
_TIE_SHARE = 1e-9


@dataclass(frozen=True)
class Proof:
    """What is proven about one objective.

    Attributes:
        name: ``loss_increase`` or a row's name.
        value: of the choice, summed without the solver: nats per token, or integer steps.
        bound: no choice within the limits (and no worse in the earlier objectives) has less.
        resolution: how far the solver's numbers may be from the true costs, over a whole plan.
    """

    name: str
    value: float
    bound: float
    resolution: float

    @property
    def gap(self) -> float:
        """How much better another choice could be at most."""
        return self.value - self.bound


@dataclass(frozen=True)
class Solution:
    """The answer to an instance.

    Attributes:
        status: what is known; with several objectives, the weakest.
        choice: the index of the format that each unit takes; None without a plan.
        proofs: one per objective, in order.
        seconds: wall time from the instance to the answer.
        solver: name and version.
        core_options: binaries in the last core searched; 0 if presolve proved the answer alone.
    """

    status: Status
    choice: tuple[int, ...] | None
    proofs: tuple[Proof, ...]
    seconds: float
    solver: str
    core_options: int


def solve(
    instance: Instance, solver: MilpSolver, settings: SolverSettings, start: tuple[int, ...] | None = None
) -> Solution:
    """Find the best choice of an instance, prove it, and check it without the solver.

    With several objectives, each next one is minimised among the choices that are equally good in the earlier ones:
    exactly for rows, within 1e-9 of the loss increase and the solver's resolution.

    Args:
        instance: the program.
        solver: searches what presolve leaves.
        settings: limits of the search, over everything.
        start: a choice that is likely to be good, such as the plan of a similar budget.

    Returns:
        The solution; infeasibility and the end of the time limit are statuses, not exceptions.

    Raises:
        SolverError: the solver returned a choice that breaks a rule.
    """
    began = time.perf_counter()
    rules: tuple[Rule, ...] = instance.rules
    proofs: list[Proof] = []
    statuses: list[Status] = []
    choice, core_options = start, 0
    for name in instance.minimise:
        left = settings.time_limit_seconds - (time.perf_counter() - began)
        stage = replace(instance, minimise=(name,), rules=rules)
        answer = _solve_stage(stage, solver, replace(settings, time_limit_seconds=max(left, 0.0)), choice)
        statuses.append(answer.status)
        if answer.choice is None:
            break
        choice, core_options = answer.choice, max(core_options, answer.core_options)
        value = instance.objective(name, choice)
        proofs.append(Proof(name, value, min(answer.bound, value), answer.resolution))
        rules = (*rules, _at_optimum(instance, name, value, answer.resolution))
    found = None if statuses[0] in {Status.INFEASIBLE, Status.UNKNOWN} else choice
    if found is not None:
        _require_valid(instance, found, solver)
    status = statuses[0] if found is None else max(statuses, key=_weakness)
    return Solution(status, found, tuple(proofs), time.perf_counter() - began, solver.name, core_options)


def _require_valid(instance: Instance, choice: Sequence[int], solver: MilpSolver) -> None:
    broken = violations(instance, choice)
    if broken:
        raise SolverError(f"{solver.name} returned a plan that breaks its own limits: {'; '.join(broken)}")


def _weakness(status: Status) -> int:
    return [Status.OPTIMAL, Status.FEASIBLE, Status.UNKNOWN, Status.INFEASIBLE].index(status)


def _at_optimum(instance: Instance, name: str, value: float, resolution: float) -> Rule:
    """Hold an objective at its optimum while the next one is minimised."""
    if name != LOSS:
        return Limit(f"{name} at its optimum", name, at_most=round(value))
    largest = sum(max(map(abs, costs)) for domain in instance.domains for costs in domain.loss_increase_nats)
    # A compiled limit on the loss errs on the safe side, by less than the last term.
    room = _TIE_SHARE * abs(value) + 4 * resolution + largest * 2.0**-36
    return LossLimit("loss increase at its optimum", value + room)


def _solve_stage(
    instance: Instance, solver: MilpSolver, settings: SolverSettings, start: tuple[int, ...] | None
) -> CoreAnswer:
    """Minimise one objective, adding directions until the robust loss is met exactly."""
    # The loss with k standard errors is the maximum of infinitely many linear functions, one per direction. The answer
    # for finitely many of them bounds the optimum from below and proposes a choice; the direction of that choice's own
    # standard error is then added (Kelley 1960), until the choice costs what its bound says.
    began = time.perf_counter()
    directions: list[Direction] = []
    best: CoreAnswer | None = None
    bound, resolution = -math.inf, 0.0
    while True:
        left = settings.time_limit_seconds - (time.perf_counter() - began)
        form = compile_instance(instance, directions)
        if form is None:
            return CoreAnswer(Status.INFEASIBLE)
        answer = solve_by_cases(form, solver, replace(settings, time_limit_seconds=max(left, 0.0)), start)
        if not instance.loss.standard_errors or answer.choice is None:
            return answer if best is None or answer.status is Status.INFEASIBLE else replace(best, bound=bound)
        start, bound = answer.choice, max(bound, answer.bound)
        objective = instance.objective(instance.minimise[0], answer.choice)
        resolution = max(resolution, answer.resolution)
        if not violations(instance, answer.choice) and (best is None or objective < best.objective):
            best = replace(answer, objective=objective)
        if best is not None:
            best = replace(best, resolution=resolution)
            slack = settings.relative_gap * abs(best.objective) + 2 * resolution + _TIE_SHARE * abs(bound)
            proven = best.objective - bound <= slack
            if proven or left <= 0 or len(directions) >= _MAX_DIRECTIONS or answer.status is not Status.OPTIMAL:
                status = Status.OPTIMAL if proven and answer.status is Status.OPTIMAL else Status.FEASIBLE
                return replace(best, status=status, bound=min(bound, best.objective))
        elif left <= 0 or len(directions) >= _MAX_DIRECTIONS:
            return CoreAnswer(Status.UNKNOWN, bound=bound)
        directions.extend(_directions(instance, answer.choice))


def _directions(instance: Instance, choice: Sequence[int]) -> list[Direction]:
    """Return the directions of the choice's own deviations."""
    parts = []
    for domain in instance.domains:
        chosen = [deviations[index] for deviations, index in zip(domain.deviations_nats, choice, strict=True)]
        parts.append([math.fsum(samples) for samples in zip(*chosen, strict=True)])
    if instance.loss.over_domains == "mean":
        candidates = [[value for part in parts for value in part]]
    else:
        candidates = [
            [value if own == index else 0.0 for own, part in enumerate(parts) for value in part]
            for index in range(len(parts))
        ]
    found = []
    for vector in candidates:
        norm = math.hypot(*vector)
        if norm > 0:
            found.append(tuple(value / norm for value in vector))
    return found
