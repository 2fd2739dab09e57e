"""From the engine's choice to a plan.

Knows nothing about tensors or engines.
"""

from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..backends.formats import parse_format
from ..solver.engine import Engine, SearchSettings, Status
from ..solver.errors import ScantlingError
from ..solver.instance import Instance
from ..solver.plan import Assignment, Certificate, LimitUse, Plan, average_bits
from ..solver.rules import Limit
from ..solver.verify import violations
from .profile import LayerRecord, Profile
from .rows import STORED_BYTES


def decided_layers(profile: Profile) -> list[LayerRecord]:
    """List the layers with more than one format.

    Args:
        profile: the profile.

    Returns:
        The layers that the program decides.
    """
    return [layer for layer in profile.record.layers if len(layer.formats) > 1]


@dataclass(frozen=True)
class Origin:
    """Where a profile lies.

    Attributes:
        path: the file.
        sha256: of the file.
    """

    path: Path
    sha256: str


def solve(profile: Profile, origin: Origin, instance: Instance, engine: Engine, settings: SearchSettings) -> Plan:
    """Find the plan with the smallest predicted loss increase within a budget.

    Args:
        profile: the profile.
        origin: where it lies, for the record.
        instance: the program.
        engine: solves the program.
        settings: limits of the search.

    Returns:
        The plan with its certificate, checked without the engine.

    Raises:
        ScantlingError: the budget is out of range, no plan meets all limits, or none was found in time.
    """
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
