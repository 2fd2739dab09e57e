"""From the solver's instance to a plan: solve, explain, prove, price.

Knows nothing about tensors, nor how any solver works.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .. import __version__
from ..common.errors import InputError, OutOfRangeError, SolverTimeout
from ..hardware.resources import BIT_WEIGHTS
from ..quantization.formats import parse_format
from ..sensitivity.profile import Profile, ProfileOrigin
from ..solver.infeasibility import explain_infeasibility
from ..solver.instance import LOSS, Instance
from ..solver.milp.base import MilpSolver, SolverSettings, Status
from ..solver.milp.registry import solver_named
from ..solver.rules import Limit, LossLimit, Rule
from ..solver.shadow_prices import LimitPrice, sensitivities
from ..solver.solve import Proof
from ..solver.solve import solve as solve_instance
from .explanation import NATS_PER_TOKEN, InfeasibleError, LimitUnit, explained
from .plan import Assignment, Certificate, LimitUse, Objective, Plan, average_bits, remembering

__all__ = ["ProfileOrigin", "Search", "choose_formats", "formats_or_none", "measure", "plan_of", "search_with", "solve"]
_SEEDS: Final = 2**31
_MOST_THREADS: Final = 10_000  # CP-SAT takes no more


@dataclass(frozen=True)
class Search:
    """A solver and how long it searches."""

    solver: MilpSolver
    settings: SolverSettings


def search_with(
    solver: str = "cpsat", time_limit: float = 60.0, threads: int = 1, seed: int = 0, gap: float = 0.0
) -> Search:
    """Choose a solver and its settings.

    Args:
        solver: ``cpsat`` or ``highs``.
        time_limit: seconds for each search.
        threads: for the solver; one repeats exactly.
        seed: of the solver's random choices.
        gap: stop at this proven gap, as a share of the objective; 0 for a proven optimum.

    Returns:
        The search.

    Raises:
        InputError: there is no such solver, or a setting makes no sense.
    """
    if not (math.isfinite(time_limit) and time_limit >= 0):
        raise InputError(f"the time limit must be a number of seconds, at least 0, got {time_limit:g}.")
    if not 1 <= threads <= _MOST_THREADS:
        raise InputError(f"threads must be between 1 and {_MOST_THREADS:,}, got {threads:,}.")
    if not 0 <= seed < _SEEDS:
        raise InputError(f"the seed must be between 0 and {_SEEDS - 1}, got {seed}.")
    if not 0 <= gap <= 1:
        raise InputError(f"the gap must be between 0 and 1, got {gap:g}. Write 0.01 for one percent.")
    return Search(solver_named(solver), SolverSettings(time_limit, seed, threads, gap))


def solve(
    profile: Profile, origin: ProfileOrigin | None, instance: Instance, solver: MilpSolver, settings: SolverSettings
) -> Plan:
    """Find the best plan of an instance, with its certificate and what its limits are worth.

    Args:
        profile: the profile that the instance was made from.
        origin: where it lies, for the record; None where it was not saved.
        instance: the program.
        solver: solves it.
        settings: limits of the search.

    Returns:
        The plan, checked without the solver.

    Raises:
        InfeasibleError: no plan meets all limits and rules.
        SolverTimeout: no plan was found in time.
        InputError: there is no limit, or the only one is above every plan.
    """
    _require_binding_limit(profile, instance)
    solution = solve_instance(instance, solver, settings)
    if solution.status is Status.INFEASIBLE:
        conflict = explain_infeasibility(instance, solver, settings)
        raise InfeasibleError(
            explained(conflict, instance, [measure(profile, instance, rule) for rule in instance.rules])
        )
    if solution.choice is None:
        raise SolverTimeout(f"no plan: {solution.status.value}. Give more with --time-limit.")
    found = sensitivities(instance, solution, solver, settings)
    certificate = Certificate(
        status="OPTIMAL" if solution.status is Status.OPTIMAL else "FEASIBLE",
        objectives=tuple(_objective(instance, proof) for proof in solution.proofs),
        solve_seconds=solution.seconds,
        solver=solution.solver,
        seed=settings.seed,
        num_units=found.num_units,
        num_options=sum(len(unit.formats) for unit in instance.units if len(unit.formats) > 1),
        num_core_options=solution.core_options,
        num_free_units=found.num_free_units,
    )
    return plan_of(profile, origin, instance, solution.choice, certificate, found.limits)


def choose_formats(instance: Instance, solver: MilpSolver, settings: SolverSettings) -> dict[str, str]:
    """Find the best formats of an instance, without writing a plan.

    Args:
        instance: the program.
        solver: solves it.
        settings: limits of the search.

    Returns:
        The format of every layer.

    Raises:
        InfeasibleError: no plan meets all limits and rules; without an explanation, which takes further solves.
    """
    formats = formats_or_none(instance, solver, settings)
    if formats is None:
        raise InfeasibleError
    return formats


def formats_or_none(instance: Instance, solver: MilpSolver, settings: SolverSettings) -> dict[str, str] | None:
    """Find the best formats of an instance, where it has a plan.

    Args:
        instance: the program.
        solver: solves it.
        settings: limits of the search.

    Returns:
        The format of every layer; None where it is proven that no plan meets all limits and rules.

    Raises:
        SolverTimeout: no plan was found in time.
    """
    found = solve_instance(instance, solver, settings)
    if found.status is Status.INFEASIBLE:
        return None
    if found.choice is None:
        raise SolverTimeout(f"no plan: {found.status.value}. Give more with --time-limit.")
    return {unit.name: unit.formats[index] for unit, index in zip(instance.units, found.choice, strict=True)}


def plan_of(
    profile: Profile,
    origin: ProfileOrigin | None,
    instance: Instance,
    choice: tuple[int, ...],
    certificate: Certificate,
    prices: Sequence[LimitPrice] = (),
) -> Plan:
    """Make a plan of a choice.

    Args:
        profile: the profile.
        origin: where it lies; None where it was not saved.
        instance: the program.
        choice: the index of the format that each unit takes.
        certificate: what is proven.
        prices: what the limits are worth, where that is known.

    Returns:
        The plan, which remembers the profile.
    """
    formats = {unit.name: unit.formats[index] for unit, index in zip(instance.units, choice, strict=True)}
    predicted, error = profile.predict(formats)
    assignments = tuple(_assignment(profile, index, name) for index, name in enumerate(formats.values()))
    price_of = {price.rule: price for price in prices}
    plan = Plan(
        scantling_version=__version__,
        model_source=profile.record.model_source,
        model_sha256=profile.record.model_sha256,
        profile_path="" if origin is None else str(origin.path),
        profile_sha256="" if origin is None else origin.sha256,
        loss_increase_nats=predicted,
        loss_increase_standard_error_nats=error,
        stored_bytes=profile.stored_bytes(formats),
        other_bytes=profile.record.other_bytes,
        average_bits=average_bits([(a.bits, a.num_weights) for a in assignments if a.decided]),
        limits=tuple(
            _limit_use(profile, instance, choice, rule, price_of.get(index))
            for index, rule in enumerate(instance.rules)
            if isinstance(rule, Limit | LossLimit)
        ),
        certificate=certificate,
        assignments=assignments,
        program=instance,
    )
    return remembering(plan, profile=profile)


def _assignment(profile: Profile, index: int, format_name: str) -> Assignment:
    layer, target = profile.record.layers[index], profile.format_index[format_name]
    return Assignment(
        layer=layer.name,
        kind=layer.kind,
        block=layer.block,
        format=format_name,
        bits=parse_format(format_name).bits,
        num_weights=layer.num_weights,
        stored_bytes=layer.stored_bytes[layer.formats.index(target)],
        loss_increase_nats=profile.loss_increase_nats(index, target),
        decided=layer.is_decided,
    )


def measure(profile: Profile, instance: Instance, rule: Rule) -> LimitUnit:
    """Give the unit of a limit; average bits are counted per weight of the layers that are averaged."""
    if not isinstance(rule, Limit):
        return NATS_PER_TOKEN
    row = instance.row(rule.row)
    if rule.row != BIT_WEIGHTS:
        return LimitUnit(row.measure, row.step)
    units = range(len(instance.units)) if rule.units is None else rule.units
    num_weights = sum(
        layer.num_weights
        for index, layer in enumerate(profile.record.layers)
        if index in units and any(row.amounts[index])
    )
    return LimitUnit("bits per weight", 1.0 / max(num_weights, 1))


def _limit_use(
    profile: Profile, instance: Instance, choice: tuple[int, ...], rule: Limit | LossLimit, price: LimitPrice | None
) -> LimitUse:
    counted = measure(profile, instance, rule)
    return LimitUse(
        name=rule.name,
        origin=rule.origin,
        measure=counted.name,
        step=counted.step,
        at_most=rule.at_most_nats if isinstance(rule, LossLimit) else rule.at_most,
        at_least=None if isinstance(rule, LossLimit) else rule.at_least,
        used=instance.used(rule, choice),
        price_per_step=None if price is None else price.price,
        has_effect=None if price is None else price.has_effect,
    )


def _objective(instance: Instance, proof: Proof) -> Objective:
    counted = (
        NATS_PER_TOKEN
        if proof.name == LOSS
        else LimitUnit(instance.row(proof.name).measure, instance.row(proof.name).step)
    )
    return Objective(
        name=proof.name,
        measure=counted.name,
        step=counted.step,
        value=proof.value,
        bound=proof.bound,
        resolution=proof.resolution,
    )


def _require_binding_limit(profile: Profile, instance: Instance) -> None:
    """Refuse an instance whose only limit is above every plan, since its user expects an effect."""
    limits = [rule for rule in instance.rules if isinstance(rule, Limit | LossLimit)]
    if not limits and instance.minimise == (LOSS,):
        raise InputError("no budget was given. Give --memory, such as 60MiB, or --average-bits, such as 3.5.")
    if len(limits) != 1 or instance.minimise != (LOSS,) or not isinstance(limits[0], Limit):
        return
    limit = limits[0]
    if limit.at_most is None:
        return
    smallest, largest = instance.span(limit)
    if limit.at_most > largest:
        counted = measure(profile, instance, limit)
        raise OutOfRangeError(
            f"{limit.name} of {counted.show(limit.at_most)} is above the largest plan, and there is no other "
            "limit. Plans of "
            f"this profile have {counted.show(smallest)} to {counted.show(largest)}."
        )
