"""Engine profiles: what a plan must respect so that an inference engine loads its checkpoint, as data with sources.

Rules are about names of formats, kinds of layers and shapes. A kind is a layer's path inside its block, or
``embedding``, ``head``.

Knows nothing about what formats are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from ...common.errors import InputError
from ...common.patterns import compiled
from ...common.records import Record
from ...common.validation import describe, validated
from ...common.yaml_source import parse_yaml
from .rules import Patterns


class FormatRule(Record):
    """Layers of some kinds may take only these formats.

    Attributes:
        kinds: patterns of kinds; None for all.
        formats: patterns of the formats that the engine loads there.
        why: the rule in words.
        source: where it is from.
    """

    kinds: Patterns | None = None
    formats: Patterns
    why: str
    source: str


class ShapeRule(Record):
    """Some formats need matrices of some shapes.

    Attributes:
        formats: patterns of the formats.
        in_multiple_of: the input width is a multiple of this.
        out_multiple_of: the output width is a multiple of this.
        source: where it is from.
    """

    formats: Patterns
    in_multiple_of: Annotated[int, Field(ge=1)] = 1
    out_multiple_of: Annotated[int, Field(ge=1)] = 1
    source: str


class EngineTie(Record):
    """Layers that the engine stores or runs as one matrix, and which therefore take the same format.

    Attributes:
        kinds: patterns of kinds.
        per: within each ``parent`` module, or each ``block``.
        why: the rule in words.
        source: where it is from.
    """

    kinds: Patterns
    per: Literal["block", "parent"]
    why: str
    source: str


class EngineProfile(Record):
    """One engine with one checkpoint format.

    Attributes:
        name: as users write it.
        title: in words.
        version: of the engine, that the rules were checked against.
        checked: on which day, ISO 8601.
        how: what was tried and what was only read.
        suggest: formats to profile for it.
        formats: what it loads, where.
        shapes: what shapes formats need.
        ties: what goes together.
    """

    name: str
    title: str
    version: str
    checked: str
    how: str
    suggest: str
    formats: tuple[FormatRule, ...]
    shapes: tuple[ShapeRule, ...] = ()
    ties: tuple[EngineTie, ...] = ()


@dataclass(frozen=True)
class Shape:
    """What an engine profile needs to know about a layer.

    Attributes:
        kind: its path inside its block, or ``embedding``, ``head``.
        out_features: rows.
        in_features: columns.
    """

    kind: str
    out_features: int
    in_features: int


def fits(patterns: Sequence[str] | None, name: str) -> bool:
    """Tell whether a name matches one of some patterns; None matches all."""
    return patterns is None or any(compiled(text).matches(name) for text in patterns)


def objections(profile: EngineProfile, shape: Shape, format_name: str) -> list[str]:
    """List the rules by which an engine does not load a layer in a format; none where it does."""
    found = [
        rule.why for rule in profile.formats if fits(rule.kinds, shape.kind) and not fits(rule.formats, format_name)
    ]
    for rule in profile.shapes:
        if fits(rule.formats, format_name):
            if shape.in_features % rule.in_multiple_of:
                found.append(f"in_features must be a multiple of {rule.in_multiple_of}")
            if shape.out_features % rule.out_multiple_of:
                found.append(f"out_features must be a multiple of {rule.out_multiple_of}")
    return found


def engine_names() -> list[str]:
    """List the names of the engine profiles that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in (Path(__file__).with_name("engines")).iterdir())


def load_engine_profile(name: str) -> EngineProfile:
    """Give an engine profile.

    Args:
        name: one of ``engine_names()``; or an engine alone, such as ``vllm``, for the rules of all checkpoint formats
            that it is known by.

    Returns:
        The profile.

    Raises:
        InputError: there is none of that name.

    >>> load_engine_profile("vllm").title
    'vLLM, compressed-tensors checkpoint with several groups; vLLM, GPTQ checkpoint with per-module `dynamic` settings'
    """
    if name in engine_names():
        return _read(name)
    parts = [_read(known) for known in engine_names() if known.startswith(f"{name}-")]
    if not parts:
        raise InputError(f"{name!r} is not a known engine. Known: {', '.join(engine_names())}.")
    return EngineProfile(
        name=name,
        title="; ".join(part.title for part in parts),
        version="; ".join(dict.fromkeys(part.version for part in parts)),
        checked=min(part.checked for part in parts),
        how=" ".join(f"{part.name}: {part.how}" for part in parts),
        suggest=parts[-1].suggest,
        formats=_apart_from_sources([rule for part in parts for rule in part.formats]),
        shapes=_apart_from_sources([rule for part in parts for rule in part.shapes]),
        ties=_apart_from_sources([rule for part in parts for rule in part.ties]),
    )


_Sourced = TypeVar("_Sourced", FormatRule, ShapeRule, EngineTie)


def _apart_from_sources(rules: Sequence[_Sourced]) -> tuple[_Sourced, ...]:
    """Keep one of the rules that differ in nothing but their words."""
    kept: dict[str, _Sourced] = {}
    for rule in rules:
        kept.setdefault(rule.model_dump_json(exclude={"source", "why"}), rule)
    return tuple(kept.values())


def _read(name: str) -> EngineProfile:
    text = (Path(__file__).with_name("engines") / f"{name}.yaml").read_text(encoding="utf-8")
    read = parse_yaml(text, Path(f"{name}.yaml"))
    try:
        return validated(EngineProfile, read.value)
    except ValidationError as error:
        raise InputError(describe(error, read, EngineProfile)) from error
