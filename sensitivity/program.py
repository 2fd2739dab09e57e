"""From a profile to the program, and from the engine's choice to a plan.

Knows nothing about tensors or engines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..backends.formats import parse_format
from ..solver.engine import Engine, SearchSettings, Status
from ..solver.errors import ScantlingError
from ..solver.instance import Instance, Limit, Option, Unit
from ..solver.plan import Assignment, Certificate, LimitUse, Plan, average_bits
from ..solver.quantities import show_bytes
from ..solver.verify import violations
from .profile import LayerRecord, Profile

STORED_BYTES = "stored_bytes"
AVERAGE_BITS = "bit_weights"


@dataclass(frozen=True)
class Budget:
    """What a plan may take; at least one limit.

    Attributes:
        stored_bytes: of the whole checkpoint's tensors, parameters outside the program included.
        average_bits: Σ bits · weights / Σ weights over the layers that the program decides; scales and zero points are
            not counted.
    """

    stored_bytes: int | None = None
    average_bits: float | None = None


def decided_layers(profile: Profile) -> list[LayerRecord]:
    """List the layers with more than one format.

    Args:
        profile: the profile.

    Returns:
        The layers that the program decides.
    """
    return [layer for layer in profile.record.layers if len(layer.formats) > 1]


def build_instance(profile: Profile, budget: Budget) -> Instance:
    """State the program of a profile and a budget.

    A layer with one format is a unit with one option, so that all bytes are in the row.

    Args:
        profile: the profile.
        budget: the limits.

    Returns:
        The instance.

    Raises:
        ScantlingError: no limit, or one outside the range of possible plans; the message says the range.
    """
    num_weights = sum(layer.num_weights for layer in decided_layers(profile))
    limits = []
    if budget.stored_bytes is not None:
        limits.append(Limit(STORED_BYTES, budget.stored_bytes - profile.record.other_bytes))
    if budget.average_bits is not None:
        if not math.isfinite(budget.average_bits):
            raise ScantlingError(f"average bits of {budget.average_bits} cannot be met. Give a number such as 3.5.")
        limits.append(Limit(AVERAGE_BITS, math.floor(budget.average_bits * num_weights)))
    if not limits:
        raise ScantlingError("no budget was given. Give --memory, such as 60MiB, or --average-bits, such as 3.5.")
    names = [limit.name for limit in limits]
    units = tuple(
        Unit(layer.name, tuple(_options(profile, index, names))) for index, layer in enumerate(profile.record.layers)
    )
    instance = Instance(units, tuple(limits))
    _refuse_out_of_range(profile, instance, budget)
    return instance


def _options(profile: Profile, index: int, rows: Sequence[str]) -> list[Option]:
    layer = profile.record.layers[index]
    options = []
    for target, stored_bytes in zip(layer.formats, layer.stored_bytes, strict=True):
        name = profile.record.formats[target]
        bits = parse_format(name).bits if len(layer.formats) > 1 else 0
        amounts = {STORED_BYTES: stored_bytes, AVERAGE_BITS: bits * layer.num_weights}
        options.append(Option(name, profile.loss_increase_nats(index, target), tuple(amounts[row] for row in rows)))
    return options


def _refuse_out_of_range(profile: Profile, instance: Instance, budget: Budget) -> None:
    num_weights = sum(layer.num_weights for layer in decided_layers(profile))
    for k, limit in enumerate(instance.limits):
        smallest, largest = instance.smallest_amount(k), instance.largest_amount(k)
        if smallest <= limit.at_most <= largest:
            continue
        side = "below the smallest" if limit.at_most < smallest else "above the largest"
        if limit.name == STORED_BYTES:
            other = profile.record.other_bytes
            kept = [layer for layer in profile.record.layers if len(layer.formats) == 1]
            kept_bytes = other + sum(layer.stored_bytes[0] for layer in kept)
            undecided = ", ".join([*dict.fromkeys(layer.kind for layer in kept), "norms and biases"])
            raise ScantlingError(
                f"the memory budget of {show_bytes(limit.at_most + other)} is {side} plan. Plans of this profile take "
                f"{show_bytes(smallest + other)} to {show_bytes(largest + other)}, of which {show_bytes(kept_bytes)} "
                f"are not decided by the program ({undecided} in "
                "16 bits; scantling profile --include takes embedding and head in)."
            )
        raise ScantlingError(
            f"an average of {budget.average_bits:g} bits is {side} plan. Plans of this profile have "
            f"{smallest / num_weights:g} to {largest / num_weights:g} bits per weight."
        )


@dataclass(frozen=True)
class Origin:
    """Where a profile lies.

    Attributes:
        path: the file.
        sha256: of the file.
    """

    path: Path
    sha256: str


def solve(profile: Profile, origin: Origin, budget: Budget, engine: Engine, settings: SearchSettings) -> Plan:
    """Find the plan with the smallest predicted loss increase within a budget.

    Args:
        profile: the profile.
        origin: where it lies, for the record.
        budget: the limits.
        engine: solves the program.
        settings: limits of the search.

    Returns:
        The plan with its certificate, checked without the engine.

    Raises:
        ScantlingError: the budget is out of range, no plan meets all limits, or none was found in time.
    """
    instance = build_instance(profile, budget)
    outcome = engine.solve(instance, settings)
    if outcome.choice is None or outcome.bound_nats is None:
        raise ScantlingError(f"no plan: {outcome.status.value}.")
    objective = instance.loss_increase_nats(outcome.choice)
    wrong = violations(instance, outcome.choice, objective)
    if wrong:
        raise ScantlingError(f"{outcome.engine} returned a plan that breaks its own limits: {'; '.join(wrong)}")
    assert outcome.status in {Status.OPTIMAL, Status.FEASIBLE}
    certificate = Certificate(
        status=outcome.status.name,  # type: ignore[arg-type]
        objective_nats=objective,
        bound_nats=outcome.bound_nats,
        resolution_nats=outcome.resolution_nats,
        solve_seconds=outcome.solve_seconds,
        engine=outcome.engine,
        seed=settings.seed,
        num_units=len(decided_layers(profile)),
        num_options=sum(len(layer.formats) for layer in decided_layers(profile)),
    )
    names = {unit.name: unit.options[index].format for unit, index in zip(instance.units, outcome.choice, strict=True)}
    limits = tuple(
        _limit_use(profile, limit, instance.amount(k, outcome.choice)) for k, limit in enumerate(instance.limits)
    )
    return _plan(profile, origin, names, limits, certificate)


def _limit_use(profile: Profile, limit: Limit, used: int) -> LimitUse:
    other = profile.record.other_bytes if limit.name == STORED_BYTES else 0
    return LimitUse(name=limit.name, at_most=limit.at_most + other, used=used + other)


def _plan(
    profile: Profile, origin: Origin, formats: dict[str, str], limits: tuple[LimitUse, ...], certificate: Certificate
) -> Plan:
    predicted, error = profile.predict(formats)
    assignments = []
    for index, layer in enumerate(profile.record.layers):
        target = profile.format_index[formats[layer.name]]
        assignments.append(
            Assignment(
                layer=layer.name,
                kind=layer.kind,
                block=layer.block,
                format=formats[layer.name],
                bits=parse_format(formats[layer.name]).bits,
                num_weights=layer.num_weights,
                stored_bytes=layer.stored_bytes[layer.formats.index(target)],
                loss_increase_nats=profile.loss_increase_nats(index, target),
                decided=len(layer.formats) > 1,
            )
        )
    return Plan(
        scantling_version=__version__,
        model_source=profile.record.model_source,
        model_sha256=profile.record.model_sha256,
        profile_path=str(origin.path),
        profile_sha256=origin.sha256,
        loss_increase_nats=predicted,
        loss_increase_standard_error_nats=error,
        stored_bytes=profile.stored_bytes(formats),
        other_bytes=profile.record.other_bytes,
        average_bits=average_bits([(a.bits, a.num_weights) for a in assignments if a.decided]),
        limits=limits,
        certificate=certificate,
        assignments=tuple(assignments),
    )


def uniform_formats(profile: Profile, target: str) -> dict[str, str]:
    """Give one format to all layers that the program decides; the others keep theirs.

    Args:
        profile: the profile.
        target: a format's name, or a width such as ``3``, which means the first format of that width in the profile.

    Returns:
        The format of every layer.

    Raises:
        ScantlingError: the profile has no such format.
    """
    available = profile.record.formats
    if target.isdigit():
        matching = [name for name in available if parse_format(name).bits == int(target)]
    else:
        matching = [name for name in available if name == target]
    if not matching:
        raise ScantlingError(f"the profile has no uniform {target!r}. It has the formats: {', '.join(available)}.")
    return {
        layer.name: matching[0] if len(layer.formats) > 1 else available[layer.formats[0]]
        for layer in profile.record.layers
    }
