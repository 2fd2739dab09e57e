"""The program on OR-Tools' CP-SAT, which searches over exact integers.

Knows nothing about layers or files.
"""

import time
from dataclasses import dataclass
from importlib.metadata import version

from ortools.sat.python import cp_model

from .engine import Outcome, SearchSettings, Status, integer_costs
from .instance import Instance

STATUS_MAP = {
    cp_model.OPTIMAL: Status.OPTIMAL,
    cp_model.FEASIBLE: Status.FEASIBLE,
    cp_model.INFEASIBLE: Status.INFEASIBLE,
    cp_model.UNKNOWN: Status.UNKNOWN,
}


@dataclass(frozen=True)
class CpSat:
    """CP-SAT (Perron and Didier, OR-Tools)."""

    def solve(self, instance: Instance, settings: SearchSettings) -> Outcome:
        """Search for the best choice.

        Args:
            instance: the program.
            settings: limits of the search.

        Returns:
            The outcome.
        """
        start = time.perf_counter()
        costs = integer_costs(instance)
        model = cp_model.CpModel()
        taken = [[model.new_bool_var("") for _ in unit.options] for unit in instance.units]
        for literals in taken:
            model.add_exactly_one(literals)
        literals_flat = [literal for literals in taken for literal in literals]
        for k, limit in enumerate(instance.limits):
            amounts = [option.amounts[k] for unit in instance.units for option in unit.options]
            model.add(cp_model.LinearExpr.weighted_sum(literals_flat, amounts) <= limit.at_most)
        costs_flat = [cost for unit_costs in costs.costs for cost in unit_costs]
        model.minimize(cp_model.LinearExpr.weighted_sum(literals_flat, costs_flat))

        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = settings.time_limit_seconds
        solver.parameters.random_seed = settings.seed
        solver.parameters.num_workers = settings.num_threads
        status = STATUS_MAP[solver.solve(model)]
        choice = None
        bound_nats = None
        if status in {Status.OPTIMAL, Status.FEASIBLE}:
            choice = tuple([bool(solver.value(x)) for x in literals].index(True) for literals in taken)
            bound_nats = min(costs.bound_nats(solver.best_objective_bound), instance.loss_increase_nats(choice))
        return Outcome(
            status=status,
            choice=choice,
            bound_nats=bound_nats,
            resolution_nats=costs.resolution_nats,
            solve_seconds=time.perf_counter() - start,
            engine=f"CP-SAT {version('ortools')}",
        )
