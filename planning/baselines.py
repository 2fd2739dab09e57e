"""What a plan is put beside: uniform formats, and the naive plan of the plan's own size.

A plan of 3.4 bits has no uniform of its size. Its naive counterpart of the same bytes mixes the two uniform formats
next to it, spread evenly over the layers in their order, without a look at any price: a layer l takes the wider format
as long as

    Σ extra(i) over the widened layers i ≤ l   ≤   (room / Σ extra) · Σ extra(i) over all layers i ≤ l

extra being what the wider format takes more, and room what the plan takes more than the narrower uniform. It never
takes more than the plan, and less by at most one layer's extra. Where a uniform is within 0.1 % of the plan, it is the
counterpart.

Knows nothing about measurement.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ..common.errors import OutOfRangeError
from ..quantization.formats import IntegerFormat, parse_format
from ..sensitivity.profile import Profile, decided_layers, uniform_formats
from ..sensitivity.profile_record import LayerRecord
from .constraints.inference_engines import EngineProfile, Shape, engine_names, load_engine_profile, objections

SAME_BYTES = "same-bytes"
SAME_BITS = "same-bits"
NEAREST = "nearest"
SAME = 0.001  # a uniform this close to the plan's size is its counterpart, be it a little larger
SIZED = (SAME_BYTES, SAME_BITS, NEAREST)


Amount = Callable[[LayerRecord, str], Fraction]


@dataclass(frozen=True)
class Baseline:
    """One set of formats beside a plan.

    Attributes:
        name: short, for tables.
        formats: of every layer.
        says: exactly what it is; empty for a plan.
        answers: what it was looked for as: of the same bytes, the nearest.
        is_plan: whether it is a plan itself.
    """

    name: str
    formats: dict[str, str]
    says: str = ""
    answers: tuple[str, ...] = ()
    is_plan: bool = False

    @property
    def describe(self) -> str:
        """What it is and what it was looked for as."""
        return "; ".join(part for part in (self.says, *self.answers) if part)


def baselines(profile: Profile, plan_formats: Mapping[str, str], targets: Sequence[str]) -> tuple[Baseline, ...]:
    """Find what a plan is put beside.

    Args:
        profile: of the model.
        plan_formats: the plan's format of every layer.
        targets: formats, widths, ``same-bytes``, ``same-bits`` or ``nearest``.

    Returns:
        Different sets of formats; one that answers several targets says so.

    Raises:
        InputError: a target that the profile cannot give; the message says which.
    """
    found: list[Baseline] = []
    for target in targets:
        for baseline in _baselines_of(profile, plan_formats, target):
            twin = next((index for index, other in enumerate(found) if other.formats == baseline.formats), None)
            if twin is None:
                found.append(baseline)
            else:
                answers = dict.fromkeys((*found[twin].answers, *baseline.answers))
                found[twin] = replace(found[twin], answers=tuple(answers))
    return tuple(found)


def naive_counterpart(profile: Profile, plan_formats: Mapping[str, str]) -> Baseline | None:
    """Find what the plan's bytes buy without a program: a uniform, or a mix of two; None where none is as small."""
    try:
        return baselines(profile, plan_formats, [SAME_BYTES])[0]
    except OutOfRangeError:
        return None


def _baselines_of(profile: Profile, plan_formats: Mapping[str, str], target: str) -> list[Baseline]:
    if target == SAME_BYTES:
        return [_even(profile, plan_formats, "bytes", _stored_bytes(profile))]
    if target == SAME_BITS:
        return [
            _even(
                profile, plan_formats, "bits", lambda layer, name: Fraction(parse_format(name).bits) * layer.num_weights
            )
        ]
    if target == NEAREST:
        return _nearest_deployable(profile, plan_formats)
    formats = uniform_formats(profile, target)
    name = formats[decided_layers(profile)[0].name]
    profile.predict(formats)  # refuses a format that some layer is not offered
    return [_uniform(profile, name)]


def _uniform(profile: Profile, name: str, *answers: str) -> Baseline:
    says = f"{name} in every layer that the program decides"
    return Baseline(f"uniform {name}", uniform_formats(profile, name), says, answers)


def uniform_names(profile: Profile) -> list[str]:
    """List the formats that every decided layer is offered.

    Args:
        profile: the profile.

    Returns:
        Their names, smallest first.
    """
    decided = decided_layers(profile)
    offered = [
        name
        for position, name in enumerate(profile.record.formats)
        if decided and all(position in layer.formats for layer in decided)
    ]
    return sorted(offered, key=lambda name: profile.stored_bytes(uniform_formats(profile, name)))


def engines_that_load(profile: Profile, formats: Mapping[str, str]) -> list[str]:
    """List the known engines that load every layer of a model in these formats.

    Args:
        profile: says the layers' shapes.
        formats: one and the same for all decided layers, so that no engine's ties are broken.

    Returns:
        Their names.
    """
    profiles = [load_engine_profile(name) for name in engine_names()]
    return [engine.name for engine in profiles if _loads(engine, profile, formats)]


def _loads(engine: EngineProfile, profile: Profile, formats: Mapping[str, str]) -> bool:
    return not any(
        objections(engine, Shape(layer.kind, layer.out_features, layer.in_features), formats[layer.name])
        for layer in profile.record.layers
    )


def _nearest_deployable(profile: Profile, plan_formats: Mapping[str, str]) -> list[Baseline]:
    size = profile.stored_bytes(dict(plan_formats))
    below: Baseline | None = None
    above: Baseline | None = None
    for name in uniform_names(profile):
        formats = uniform_formats(profile, name)
        engines = engines_that_load(profile, formats) if isinstance(parse_format(name), IntegerFormat) else []
        if not engines:
            continue
        fits = profile.stored_bytes(formats) <= size
        side = "the largest not above" if fits else "the smallest above"
        answer = f"{side} the plan's bytes among uniform formats that a known engine loads ({', '.join(engines)})"
        if fits:
            below = _uniform(profile, name, answer)
        elif above is None:
            above = _uniform(profile, name, answer)
    found = [baseline for baseline in (below, above) if baseline is not None]
    if not found:
        raise OutOfRangeError(
            f"no known engine ({', '.join(engine_names())}) loads a uniform format of this profile in every layer. Its "
            f"formats: {', '.join(profile.record.formats)}. Name one with --uniform."
        )
    return found


def _stored_bytes(profile: Profile) -> Amount:
    return lambda layer, name: Fraction(layer.stored_bytes[layer.formats.index(profile.format_index[name])])


def _even(profile: Profile, plan_formats: Mapping[str, str], counted: str, amount: Amount) -> Baseline:
    decided = decided_layers(profile)
    size = sum((amount(layer, plan_formats[layer.name]) for layer in decided), Fraction(0))
    totals = {name: sum((amount(layer, name) for layer in decided), Fraction(0)) for name in uniform_names(profile)}
    closest = min(totals, key=lambda name: abs(totals[name] - size), default=None)
    if closest is not None and abs(totals[closest] - size) <= SAME * size:
        return _uniform(profile, closest, f"the plan's {counted} {float(totals[closest] / size - 1):+.2%}")
    fitting = [name for name, total in totals.items() if total <= size]
    if not fitting:
        raise OutOfRangeError(
            f"no uniform format has as few {counted} as the plan, so it has no naive counterpart of the same "
            f"{counted}. Compare it with --uniform NAME: {', '.join(totals) or 'none is offered in every layer'}."
        )
    narrow = max(fitting, key=lambda name: totals[name])
    wider = [
        name
        for name, total in totals.items()
        if total > size and all(amount(layer, name) >= amount(layer, narrow) for layer in decided)
    ]
    if not wider:
        return _uniform(profile, narrow, f"no wider than the plan's {counted}, and no format is wider")
    wide = min(wider, key=lambda name: totals[name])
    extras = [amount(layer, wide) - amount(layer, narrow) for layer in decided]
    formats = uniform_formats(profile, narrow)
    share, taken, passed = Fraction(size - totals[narrow]) / sum(extras, Fraction(0)), Fraction(0), Fraction(0)
    widened = []
    for layer, extra in zip(decided, extras, strict=True):
        passed += extra
        if taken + extra <= share * passed:
            taken += extra
            widened.append(layer.name)
    formats |= dict.fromkeys(widened, wide)
    if not widened:
        return _uniform(profile, narrow, f"the most within the plan's {counted}")
    return Baseline(
        f"even {narrow}/{wide}",
        formats,
        f"{wide} in {len(widened)} of {len(decided)} layers, spread evenly, {narrow} in the others, no price looked at",
        (f"the plan's {counted} {float((totals[narrow] + taken) / size - 1):+.2%}",),
    )
