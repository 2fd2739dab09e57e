"""An engine profile becomes rules: pairs of a layer and a format that it does not load are closed, fused layers tied.

Knows nothing about engines but what their profiles say.
"""

from collections import defaultdict

from ..common.errors import ScantlingError
from ..solver.rules import Allow, Tie
from .constraint import LoweredConstraint
from .constraints.inference_engines import EngineProfile, Shape, fits, objections
from .layer_table import LayerTable
from .lowering import Lowering

ENGINE_ORIGIN = "engine "


def lower_engine_rules(lowering: Lowering, engine: EngineProfile) -> list[LoweredConstraint]:
    """State what an engine asks.

    Args:
        lowering: of the profile.
        engine: the engine.

    Returns:
        One statement for each rule that concerns a layer.

    Raises:
        ScantlingError: a layer is left without any format, or fused layers without a common one.
    """
    origin = f"{ENGINE_ORIGIN}{engine.name}"
    try:
        return _closed(lowering.layers, engine, origin) + _ties(lowering, engine, origin)
    except ScantlingError as error:
        raise ScantlingError(f"{origin}: {error}") from error


def _closed(layers: LayerTable, engine: EngineProfile, origin: str) -> list[LoweredConstraint]:
    closed: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    known: dict[tuple[Shape, str], list[str]] = {}
    for index, layer in enumerate(layers.records):
        shape = Shape(layer.kind, layer.out_features, layer.in_features)
        refused: dict[str, list[str]] = {}
        for offer in layers.formats[index]:
            why = known.setdefault((shape, offer), objections(engine, shape, offer))
            if why:
                refused[offer] = why
                for reason in why:
                    closed[reason][index].add(offer)
        if len(refused) == len(layers.formats[index]):
            raise ScantlingError(
                f"it loads {layer.name} [{layer.out_features}, {layer.in_features}] in none of its formats "
                f"({_by_reason(refused)}). Profile the model with such formats: {engine.suggest}."
            )
    _require_choice(layers, engine, closed)
    statements = []
    for reason, refused_by_layer in closed.items():
        name = f"{origin}: {reason}"
        allowed = tuple(
            (index, tuple(p for p, offer in enumerate(layers.formats[index]) if offer not in refused))
            for index, refused in refused_by_layer.items()
        )
        says = "closes " + ", ".join(sorted(set.union(*refused_by_layer.values())))
        statements.append(
            LoweredConstraint(name, origin, says, tuple(refused_by_layer), (Allow(name, allowed, origin),))
        )
    return statements


def _by_reason(refused: dict[str, list[str]]) -> str:
    offers: dict[str, list[str]] = defaultdict(list)
    for offer, why in refused.items():
        offers["; ".join(why)].append(offer)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in offers.items())


def _require_choice(layers: LayerTable, engine: EngineProfile, closed: dict[str, dict[int, set[str]]]) -> None:
    left = [set(formats) for formats in layers.formats]
    for refused_by_layer in closed.values():
        for index, refused in refused_by_layer.items():
            left[index] -= refused
    decided = layers.decided(range(len(left)))
    if decided and all(len(left[index]) == 1 for index in decided):
        rest = sorted(set.union(*(left[index] for index in decided)))
        raise ScantlingError(
            f"it leaves nothing to decide: of the profile's formats it loads only {', '.join(rest)} in these layers "
            f"({'; '.join(closed)}). Profile the model with such formats: {engine.suggest}."
        )


def _ties(lowering: Lowering, engine: EngineProfile, origin: str) -> list[LoweredConstraint]:
    layers = lowering.layers
    statements = []
    for tie in engine.ties:
        fitting = [index for index, layer in enumerate(layers.records) if fits(tie.kinds, layer.kind)]
        units = tuple(
            index
            for group in layers.groups(layers.decided(fitting), tie.per).values()
            if len(group) > 1
            for index in group
        )
        if units:
            name = f"{origin}: {tie.why}"
            groups = lowering.tied_groups(units, tie.per)
            statements.append(LoweredConstraint(name, origin, "", units, (Tie(name, groups, origin),)))
    return statements
