"""Shell patterns over names of layers and formats; the one place that defines their meaning.

    *            any characters, possibly none; dots are ordinary, so ``*.mlp.*`` reaches every depth
    ?            one character
    [abc] [a-z]  one of these characters; ``[!abc]`` any other
    {a,b}        either; an alternative may be empty, hold patterns, and hold braces again
    {0..31}      the whole numbers 0 to 31; also beside others, ``{0..3,31}``
    [*]          a literal star; likewise for ?, [, { and }

A pattern must match the whole name: ``mlp`` matches no layer, ``*.mlp.*`` does. Case matters.

A pattern becomes a nondeterministic automaton (Thompson 1968) that runs on sets of states, and nothing is expanded:
time grows with pattern × name, whatever the braces.

Knows nothing about models.
"""

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from .errors import InputError

MAX_CHARACTERS: Final = 1000
MAX_DEPTH: Final = 20
MAX_NUMBERS: Final = 10_000
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")


@dataclass(frozen=True)
class _OneOf:
    """A transition over one character: one in the set, or, if ``negated``, one outside it."""

    characters: frozenset[str]
    negated: bool = False

    def accepts(self, character: str) -> bool:
        return (character in self.characters) is not self.negated


_ANY = _OneOf(frozenset(), negated=True)


@dataclass
class _Automaton:
    """States are numbers; ``steps`` consume one character, ``jumps`` none."""

    steps: list[list[tuple[_OneOf, int]]] = field(default_factory=list)
    jumps: list[list[int]] = field(default_factory=list)

    def new_state(self) -> int:
        self.steps.append([])
        self.jumps.append([])
        return len(self.steps) - 1

    def step(self, start: int, over: _OneOf) -> int:
        end = self.new_state()
        self.steps[start].append((over, end))
        return end

    def closure(self, states: Sequence[int]) -> frozenset[int]:
        found, waiting = set(states), list(states)
        while waiting:
            for target in self.jumps[waiting.pop()]:
                if target not in found:
                    found.add(target)
                    waiting.append(target)
        return frozenset(found)


class _Compiler:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.num_numbers = text, 0, 0
        self.automaton = _Automaton()

    def fault(self, why: str) -> InputError:
        return InputError(f"the pattern {self.text[:80]!r} {why}.")

    def sequence(self, state: int, depth: int) -> int:
        """Read up to the end, or, inside braces, up to a comma or the closing brace."""
        if depth > MAX_DEPTH:
            raise self.fault(f"nests braces more than {MAX_DEPTH} deep. Write it flatter")
        while self.at < len(self.text):
            character = self.text[self.at]
            if depth and character in ",}":
                return state
            self.at += 1
            if character == "*":
                loop = self.automaton.new_state()
                self.automaton.jumps[state].append(loop)
                self.automaton.steps[loop].append((_ANY, loop))
                state = loop
            elif character == "?":
                state = self.automaton.step(state, _ANY)
            elif character == "[":
                state = self.automaton.step(state, self.characters())
            elif character == "{":
                state = self.alternatives(state, depth + 1)
            elif character == "}":
                raise self.fault("closes a brace that was not opened. Write [}] for the character itself")
            else:
                state = self.automaton.step(state, _OneOf(frozenset(character)))
        if depth:
            raise self.fault("opens a brace that is not closed. Close it, or write [{] for the character itself")
        return state

    def characters(self) -> _OneOf:
        start = self.at
        negated = self.text.startswith("!", start)
        first = start + negated
        end = self.text.find("]", first + 1)  # a bracket in first place is a character
        if end < 0:
            raise self.fault("opens a bracket that is not closed. Close it, or write [[] for the character itself")
        self.at = end + 1
        members: set[str] = set()
        inside, at = self.text[first:end], 0
        while at < len(inside):
            if at + 2 < len(inside) and inside[at + 1] == "-":
                low, high = inside[at], inside[at + 2]
                if not 0 <= ord(high) - ord(low) < MAX_CHARACTERS:
                    raise self.fault(
                        f"has the characters {low}-{high}, which is not a range. Write the lower one first"
                    )
                members.update(map(chr, range(ord(low), ord(high) + 1)))
                at += 3
            else:
                members.add(inside[at])
                at += 1
        return _OneOf(frozenset(members), negated)

    def alternatives(self, state: int, depth: int) -> int:
        end = self.automaton.new_state()
        while True:
            numbers = _RANGE.match(self.text, self.at)
            if numbers and self.text[numbers.end() : numbers.end() + 1] in {",", "}"}:
                self.at = numbers.end()
                self.numbers(state, end, int(numbers[1]), int(numbers[2]))
            else:
                start = self.automaton.new_state()
                self.automaton.jumps[state].append(start)
                self.automaton.jumps[self.sequence(start, depth)].append(end)
            self.at += 1
            if self.text[self.at - 1] == "}":
                return end

    def numbers(self, state: int, end: int, low: int, high: int) -> None:
        if high < low:
            raise self.fault(f"has the range {low}..{high}, which is empty. Write the smaller number first")
        self.num_numbers += high - low + 1
        if self.num_numbers > MAX_NUMBERS:
            raise self.fault(f"ranges over more than {MAX_NUMBERS:,} numbers. Write * instead")
        for number in range(low, high + 1):
            at = state
            for digit in str(number):
                at = self.automaton.step(at, _OneOf(frozenset(digit)))
            self.automaton.jumps[at].append(end)


class Pattern:
    """A compiled pattern.

    >>> Pattern("model.layers.{0..2,11}.*").matches("model.layers.11.mlp.up_proj")
    True
    >>> Pattern("int{4,8}-*").matches("int3-g64")
    False
    """

    def __init__(self, text: str) -> None:
        """Compile a pattern.

        Args:
            text: the pattern.

        Raises:
            InputError: it is empty, too long, or not well formed.
        """
        if not text or len(text) > MAX_CHARACTERS:
            raise InputError(
                f"the pattern {text[:40]!r} has {len(text):,} characters. Write one of 1 to {MAX_CHARACTERS:,}."
            )
        self.text = text
        compiler = _Compiler(text)
        start = compiler.automaton.new_state()
        self._accepting = compiler.sequence(start, 0)
        self._automaton = compiler.automaton
        self._start = compiler.automaton.closure([start])
        self._known: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def matches(self, name: str) -> bool:
        """Tell whether the pattern matches the whole name."""
        states = self._start
        for character in name:
            after = self._known.get((states, character))
            if after is None:
                after = self._automaton.closure([
                    target
                    for state in states
                    for over, target in self._automaton.steps[state]
                    if over.accepts(character)
                ])
                if len(self._known) < 100_000:
                    self._known[states, character] = after
            states = after
            if not states:
                return False
        return self._accepting in states


@lru_cache(maxsize=1000)
def compiled(text: str) -> Pattern:
    """Compile a pattern, or return it from the cache."""
    return Pattern(text)


def _without_numbers(name: str) -> str:
    return re.sub(r"[0-9]+", "0", name)


def nearest(text: str, names: Sequence[str], how_many: int = 3) -> list[str]:
    """Find the names that a mistaken pattern may have meant.

    Args:
        text: the pattern that matched nothing.
        names: all names.
        how_many: the largest number of suggestions.

    Returns:
        The nearest names, one of each family of numbered names; the first ones if none is near.
    """
    families: dict[str, str] = {}
    for name in names:
        families.setdefault(_without_numbers(name), name)
    meant = _without_numbers(re.sub(r"[*?{}\[\]]", "", text[:200]))
    found = difflib.get_close_matches(meant, list(families)[:5000], how_many, 0.3)
    return [families[family] for family in found] or list(families.values())[:how_many]


def matching(patterns: Sequence[str], names: Sequence[str], what: str = "layer") -> list[int]:
    """Find the names that match at least one of some patterns.

    Args:
        patterns: each must match a name.
        names: the names.
        what: the kind of name, for messages.

    Returns:
        Positions of names, ascending.

    Raises:
        InputError: a pattern matches no name; the message suggests the nearest ones.
    """
    found: set[int] = set()
    for text in patterns:
        pattern = compiled(text)
        fitting = [index for index, name in enumerate(names) if pattern.matches(name)]
        if not fitting:
            raise InputError(
                f"the pattern {text!r} matches no {what}. The nearest: {', '.join(nearest(text, names))}. "
                "A pattern must match the whole name: * stands for any part of it."
            )
        found.update(fitting)
    return sorted(found)


def shorten(names: Sequence[str]) -> str:
    """Summarise many numbered names as patterns that match exactly these, separated by commas.

    Args:
        names: the names.

    Returns:
        The patterns.

    >>> shorten(["layers.0.mlp", "layers.1.mlp", "layers.2.mlp", "layers.7.mlp", "head"])
    'layers.{0..2,7}.mlp, head'
    """
    groups: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name in names:
        groups[re.sub(r"[0-9]+", "{}", name)].append(tuple(map(int, re.findall("[0-9]+", name))))
    tails: dict[str, list[str]] = defaultdict(list)  # what follows the first number, by what leads up to it
    for template, numbers in groups.items():
        columns = [sorted(set(column)) for column in zip(*numbers, strict=True)]
        whole = math.prod(map(len, columns)) == len(set(numbers))
        for row in [columns] if whole else [[[n] for n in row] for row in numbers]:
            pieces, parts = template.split("{}"), [_ranges(column) for column in row]
            rest = [*pieces[1:2], *(text for pair in zip(parts[1:], pieces[2:], strict=True) for text in pair)]
            tails["".join([pieces[0], *parts[:1]])].append("".join(rest))
    return ", ".join(text for head, found in tails.items() for text in _joined(head, found))


def _joined(head: str, tails: Sequence[str]) -> list[str]:
    if len(tails) > 1 and all(tail.startswith(".") for tail in tails):
        return [f"{head}.{{{','.join(tail[1:] for tail in tails)}}}"]
    return [head + tail for tail in tails]


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    if len(numbers) == 1:
        return str(numbers[0])
    return "{" + ",".join(f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs) + "}"
