"""Rules about choices, lowered: allowed formats, pins, ties, orders, distinct formats, an inference engine's rules.

They concern the layers that the program decides; layers with a single format are left out.

Knows nothing about limits.
"""

from collections import defaultdict
from collections.abc import Mapping

from ..common.errors import InputError
from ..common.patterns import matching
from ..sensitivity.calibration.expert_coverage import FEWEST_TOKENS
from ..sensitivity.expert_imputation import siblings_by_coverage
from ..solver.rules import Allow, Distinct, Order, Tie
from .constraint import LoweredConstraint, PinToPlan, with_origin
from .constraints.inference_engines import EngineProfile, Shape, fits, objections
from .constraints.rules import AllowRule, DistinctRule, OrderRule, Per, TieRule
from .layer_table import LayerTable

MAX_PAIRS = 200_000
ENGINE_ORIGIN = "engine "
PROFILE_ORIGIN = "profile"
_UNKNOWN_PRICE = f"experts reached by fewer than {FEWEST_TOKENS} calibration tokens, no sibling measured"


def lower_allow(layers: LayerTable, rule: AllowRule, origin: str) -> LoweredConstraint:
    """Restrict the formats of layers."""
    units = layers.matched_decided(rule.layers)
    known = layers.profile.record.formats
    allowed = set(known)
    words = []
    if rule.format is not None:
        if rule.format not in known:
            raise InputError(f"the profile has no format {rule.format!r}. It has: {', '.join(known)}.")
        allowed, words = {rule.format}, [f"format {rule.format}"]
    if rule.formats is not None:
        allowed = {known[index] for index in matching(rule.formats, known, "format of the profile")}
        words.append(f"formats {', '.join(sorted(allowed, key=known.index))}")
    if rule.min_bits is not None:
        allowed = {name for name in allowed if layers.bits_of[name] >= rule.min_bits}
        words.append(f"at least {rule.min_bits:g} bits")
    if rule.max_bits is not None:
        allowed = {name for name in allowed if layers.bits_of[name] <= rule.max_bits}
        words.append(f"at most {rule.max_bits:g} bits")
    says = f"{', '.join(words)} on {', '.join(rule.layers)}"
    return LoweredConstraint(
        name=rule.name or says,
        origin=origin,
        says=says,
        layers=units,
        rules=(_allow(layers, rule.name or says, origin, dict.fromkeys(units, allowed)),),
        left_out=_num_single(layers, rule.layers, units),
    )


def lower_pin_to_plan(layers: LayerTable, pin: PinToPlan, origin: str) -> LoweredConstraint:
    """Keep another plan's formats."""
    units = layers.matched_decided(pin.layers)
    allowed = {}
    for index in units:
        name = layers.names[index]
        wanted = pin.formats.get(name)
        if wanted not in layers.formats[index]:
            raise InputError(
                f"{pin.plan_name} has {name} in {wanted}, which this profile does not offer. "
                f"It offers {', '.join(layers.formats[index])}."
            )
        allowed[index] = {wanted}
    says = f"the formats of {pin.plan_name} on {', '.join(pin.layers)}"
    rules = (_allow(layers, says, origin, allowed),)
    return LoweredConstraint(says, origin, says, units, rules, (), _num_single(layers, pin.layers, units))


def _allow(layers: LayerTable, name: str, origin: str, allowed: Mapping[int, set[str]]) -> Allow:
    """Allow each layer some formats by name; some layer must lose a format, and none all of them."""
    pairs, without = [], []
    for index, names in allowed.items():
        offered = layers.formats[index]
        positions = tuple(position for position, offer in enumerate(offered) if offer in names)
        if not positions:
            without.append(index)
        elif len(positions) < len(offered):
            pairs.append((index, positions))
    if without:
        raise InputError(
            f"the rule leaves no format for {layers.listed(without)}, offered in "
            f"{', '.join(layers.formats[without[0]])}. Widen the rule, or profile the model in such a format."
        )
    if not pairs:
        raise InputError(
            "the rule has no effect: all that the profile offers there is allowed by it. Remove or tighten it."
        )
    return Allow(name, tuple(pairs), origin)


def _num_single(layers: LayerTable, patterns: tuple[str, ...] | None, units: tuple[int, ...]) -> int:
    return len(layers.matched(patterns)) - len(units)


def lower_tie(layers: LayerTable, rule: TieRule, origin: str) -> LoweredConstraint:
    """Give layers of each group the same format."""
    units = layers.matched_decided(rule.layers)
    per = "" if rule.per == "all" else f" per {rule.per}"
    says = f"same format{per} on {', '.join(rule.layers)}"
    rules = (Tie(rule.name or says, _tied_groups(layers, units, rule.per), origin),)
    left_out = _num_single(layers, rule.layers, units)
    return LoweredConstraint(rule.name or says, origin, says, units, rules, (), left_out)


def _tied_groups(layers: LayerTable, units: tuple[int, ...], per: Per) -> tuple[tuple[int, ...], ...]:
    """Find the groups of at least two layers, each with a common format."""
    groups = tuple(group for group in layers.groups(units, per).values() if len(group) > 1)
    if not groups:
        raise InputError("the rule has no effect: it ties no layer to another. Match more layers, or change per.")
    for group in groups:
        if not layers.common_formats(group):
            first = group[0]
            other = next((unit for unit in group if not layers.common_formats([first, unit])), group[-1])
            raise InputError(
                f"layers that are tied have no common format: {layers.listed(group)}. For instance "
                f"{layers.names[first]} is offered in {', '.join(layers.formats[first])}, "
                f"{layers.names[other]} in {', '.join(layers.formats[other])}. Profile them alike."
            )
    return groups


def lower_order(layers: LayerTable, rule: OrderRule, origin: str) -> LoweredConstraint:
    """Give finer layers at least the bits of coarser ones."""
    finer, coarser = (
        layers.groups(layers.matched_decided(patterns), rule.per)
        for patterns in (rule.layers, rule.at_least_as_fine_as)
    )
    num_pairs = sum(len(group) * len(coarser.get(key, ())) for key, group in finer.items())
    if num_pairs > MAX_PAIRS:
        raise InputError(f"the rule orders {num_pairs:,} pairs of layers; the most is {MAX_PAIRS:,}. Add per: block.")
    pairs = tuple((u, v) for key, group in finer.items() for u in group for v in coarser.get(key, ()) if u != v)
    if not pairs:
        raise InputError("the rule has no effect: it orders no two layers. Match more layers, or change per.")
    per = "" if rule.per == "all" else f" per {rule.per}"
    says = f"{', '.join(rule.layers)} at least as fine as {', '.join(rule.at_least_as_fine_as)}{per}"
    concerned = tuple(sorted({unit for pair in pairs for unit in pair}))
    name = rule.name or says
    return LoweredConstraint(name, origin, says, concerned, (Order(name, pairs, origin),))


def lower_distinct(layers: LayerTable, rule: DistinctRule, origin: str) -> LoweredConstraint:
    """Bound the number of different formats in each group."""
    units = layers.matched_decided(rule.layers)
    most = rule.distinct_formats
    says = f"at most {most} different format{'s' if most > 1 else ''}"
    says += "" if rule.per == "all" else f" per {rule.per}"
    says += "" if rule.layers is None else f" on {', '.join(rule.layers)}"
    name = rule.name or says
    rules = []
    for key, group in layers.groups(units, rule.per).items():
        offered = {offer for index in group for offer in layers.formats[index]}
        if min(len(offered), len(group)) > most:
            rules.append(Distinct(name if key == "all" else f"{name} ({key})", group, most, origin))
    if not rules:
        raise InputError(
            f"the rule has no effect: no {'choice' if rule.per == 'all' else rule.per} could have more than {most}"
            " different formats. Lower the number or remove the rule."
        )
    left_out = _num_single(layers, rule.layers, units)
    return LoweredConstraint(name, origin, says, units, tuple(rules), (), left_out)


def lower_coverage(layers: LayerTable) -> list[LoweredConstraint]:
    """Keep experts without any price, their own or a measured sibling's, in their finest formats."""
    unknown = [index for rare, measured in siblings_by_coverage(layers.records) if not measured for index in rare]
    if not unknown:
        return []
    rule = Allow(_UNKNOWN_PRICE, tuple((index, _finest(layers, index)) for index in unknown), PROFILE_ORIGIN)
    return [LoweredConstraint(_UNKNOWN_PRICE, PROFILE_ORIGIN, "as fine as offered", tuple(unknown), (rule,))]


def _finest(layers: LayerTable, index: int) -> tuple[int, ...]:
    """Find the positions of a layer's widest formats."""
    bits = [layers.bits_of[name] for name in layers.formats[index]]
    return tuple(position for position, width in enumerate(bits) if width == max(bits))


def lower_engine(layers: LayerTable, engine: EngineProfile) -> list[LoweredConstraint]:
    """Lower an inference engine's rules: close the formats that it does not load, tie the layers that it fuses.

    Args:
        layers: of the profile.
        engine: the engine.

    Returns:
        One for each rule that concerns a layer.

    Raises:
        ScantlingError: a layer is left without any format, or fused layers without a common one.
    """
    origin = f"{ENGINE_ORIGIN}{engine.name}"
    closed = with_origin(origin, _closed_formats, layers, engine, origin)
    return closed + with_origin(origin, _fused_layers, layers, engine, origin)


def _closed_formats(layers: LayerTable, engine: EngineProfile, origin: str) -> list[LoweredConstraint]:
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
            raise InputError(
                f"it loads {layer.name} [{layer.out_features}, {layer.in_features}] in none of its formats "
                f"({_by_reason(refused)}). Profile the model with such formats: {engine.suggest}."
            )
    _require_choice(layers, engine, closed)
    lowered = []
    for reason, refused_by_layer in closed.items():
        name = f"{origin}: {reason}"
        allowed = tuple(
            (index, tuple(p for p, offer in enumerate(layers.formats[index]) if offer not in refused))
            for index, refused in refused_by_layer.items()
        )
        says = "closes " + ", ".join(sorted(set.union(*refused_by_layer.values())))
        lowered.append(LoweredConstraint(name, origin, says, tuple(refused_by_layer), (Allow(name, allowed, origin),)))
    return lowered


def _by_reason(refused: Mapping[str, list[str]]) -> str:
    offers: dict[str, list[str]] = defaultdict(list)
    for offer, why in refused.items():
        offers["; ".join(why)].append(offer)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in offers.items())


def _require_choice(layers: LayerTable, engine: EngineProfile, closed: Mapping[str, Mapping[int, set[str]]]) -> None:
    left = [set(formats) for formats in layers.formats]
    for refused_by_layer in closed.values():
        for index, refused in refused_by_layer.items():
            left[index] -= refused
    decided = layers.decided(range(len(left)))
    if decided and all(len(left[index]) == 1 for index in decided):
        rest = sorted(set.union(*(left[index] for index in decided)))
        raise InputError(
            f"it leaves nothing to decide: of the profile's formats it loads only {', '.join(rest)} in these layers "
            f"({'; '.join(closed)}). Profile the model with such formats: {engine.suggest}."
        )


def _fused_layers(layers: LayerTable, engine: EngineProfile, origin: str) -> list[LoweredConstraint]:
    lowered = []
    for tie in engine.ties:
        fitting = [index for index, layer in enumerate(layers.records) if fits(tie.kinds, layer.kind)]
        groups = layers.groups(layers.decided(fitting), tie.per).values()
        units = tuple(index for group in groups if len(group) > 1 for index in group)
        if units:
            name = f"{origin}: {tie.why}"
            rules = (Tie(name, _tied_groups(layers, units, tie.per), origin),)
            lowered.append(LoweredConstraint(name, origin, "", units, rules))
    return lowered
