"""YAML from untrusted files: plain values only, each with its line and column, and nothing that could grow.

Mappings, lists, text, numbers, true, false and null are read. Anchors, aliases and tags (so nothing expands and nothing
is constructed), repeated keys, several documents, deep nesting and large files are refused; a large file is not even
read to its end. Words such as ``yes`` or ``12:30`` are text, as in YAML 1.2.

Knows nothing about what the values mean.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from .errors import FileFormatError

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 20
_TOO_DEEP: Final = f"values are nested more than {MAX_DEPTH} deep. Write them flatter."
MAX_VALUES: Final = 50_000
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)")
_WORDS: Final[dict[str, bool | float | None]] = {
    "": None, "~": None, "null": None, "true": True, "false": False,
    ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same events, ten times faster

Place = tuple[str | int, ...]
Value = str | int | float | bool | None | dict[str, Any] | list[Any]


@dataclass(frozen=True)
class SourceValue:
    """The content of a file, with positions.

    Attributes:
        path: the file.
        value: mappings with text keys, lists, text, int, float, bool and None.
        marks: line and column, from 1, of every value by its place; for a mapping's entry, those of its key.
    """

    path: Path
    value: Any
    marks: dict[Place, tuple[int, int]] = field(default_factory=dict)

    def mark(self, place: Place) -> tuple[int, int]:
        """Return line and column, from 1, of a place (keys and positions), or of the nearest enclosing one."""
        while place and place not in self.marks:
            place = place[:-1]
        return self.marks.get(place, (1, 1))

    def where(self, place: Place) -> str:
        """Return ``FILE:line:column`` of a place."""
        line, column = self.mark(place)
        return f"{self.path}:{line}:{column}"


def read_yaml(path: Path, max_bytes: int = MAX_BYTES) -> SourceValue:
    """Read a YAML file.

    Args:
        path: the file.
        max_bytes: larger files are refused.

    Returns:
        Its value with positions.

    Raises:
        FileFormatError: it cannot be read, or holds anything but plain values; the message has line and column.
    """
    try:
        with path.open("rb") as opened:
            raw = opened.read(max_bytes + 1)
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror}. Give the path of a YAML file.") from error
    if len(raw) > max_bytes:
        raise FileFormatError(
            f"{path} has more than {max_bytes:,} bytes, more than a hand-written file needs. Give a smaller one."
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FileFormatError(
            f"{path}:{line}: this is not UTF-8 text ({error.reason}). Save the file as UTF-8."
        ) from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> SourceValue:
    """Parse YAML text.

    Args:
        text: the text.
        path: its name in messages.

    Returns:
        Its value with positions.

    Raises:
        FileFormatError: it holds anything but plain values.
    """
    builder = _Builder(path)
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        tab = " Indent with spaces, not tabs." if "'\\t'" in str(error) or "\t" in _line(text, mark) else ""
        problem = error.problem or error.context
        if problem is not None and "nesting depth" in problem:  # PyYAML 6.0.4 has its own limit, above ours
            raise FileFormatError(f"{path}{at}: {_TOO_DEEP}") from error
        raise FileFormatError(f"{path}{at}: this is not YAML: {problem}.{tab}") from error
    except yaml.YAMLError as error:
        raise FileFormatError(f"{path}: this is not YAML: {' '.join(str(error).split())}.") from error
    if not builder.num_documents:
        raise FileFormatError(f"{path}:1:1: the file is empty. Write at least one key.")
    return SourceValue(path, builder.root, builder.marks)


def _events(text: str) -> Iterator[yaml.Event]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _position(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _line(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    return lines[mark.line] if mark is not None and mark.line < len(lines) else ""


@dataclass
class _Open:
    """A mapping or list that is not closed yet; ``key`` is the entry that the next value belongs to."""

    value: dict[str, Any] | list[Any]
    place: Place
    key: str | None = None


class _Builder:
    """Builds values from events, without recursion."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root: Any = None
        self.num_documents = 0
        self.num_values = 0
        self.open: list[_Open] = []
        self.marks: dict[Place, tuple[int, int]] = {}

    def fault(self, event: yaml.Event, why: str) -> FileFormatError:
        line, column = _position(event)
        return FileFormatError(f"{self.path}:{line}:{column}: {why}")

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.num_documents += 1
            if self.num_documents > 1:
                raise self.fault(event, "a second document begins here. Keep one in a file.")
        elif isinstance(event, yaml.NodeEvent):
            self.validate_size(event)
            if isinstance(event, yaml.ScalarEvent):
                self.scalar(event)
            else:
                value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
                place = self.put(event, value)
                self.open.append(_Open(value, place))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.open.pop()

    def validate_size(self, event: yaml.NodeEvent) -> None:
        self.num_values += 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self.fault(event, f"anchors and aliases (&{event.anchor}, *{event.anchor}) are not read. "
                              "Write the value out; a pattern that begins with * goes in quotes.")  # fmt: skip
        tag = getattr(event, "tag", None)
        if tag not in {None, "!"}:
            raise self.fault(event, f"tags such as {tag} are not read. Leave it out; quote text that begins with !.")
        if len(self.open) >= MAX_DEPTH:
            raise self.fault(event, _TOO_DEEP)
        if self.num_values > MAX_VALUES:
            raise self.fault(event, f"the file has more than {MAX_VALUES:,} values. Use patterns.")

    def scalar(self, event: yaml.ScalarEvent) -> None:
        top = self.open[-1] if self.open else None
        if top is None or isinstance(top.value, list) or top.key is not None:
            self.put(event, self.plain(event))
            return
        key = str(event.value)
        if key in top.value:
            line = self.marks[*top.place, key][0]
            raise self.fault(event, f"the key {key[:60]!r} was given in line {line} already. Keep one.")
        top.key = key
        self.marks[*top.place, key] = _position(event)

    def plain(self, event: yaml.ScalarEvent) -> Value:
        text = str(event.value)
        if event.style:  # quoted or a block
            return text
        if text.lower() in _WORDS and text in {text.lower(), text.capitalize(), text.upper()}:
            return _WORDS[text.lower()]
        if len(text) > 80 and (_INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)):
            raise self.fault(event, f"a number of {len(text):,} characters is not read. Write fewer digits.")
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) and not re.fullmatch(r"[-+]?0[0-9]+", text) else text

    def put(self, event: yaml.Event, value: Value) -> Place:
        mark = _position(event)
        if not self.open:
            self.root = value
            self.marks[()] = mark
            return ()
        top = self.open[-1]
        if isinstance(top.value, list):
            place: Place = (*top.place, len(top.value))
            self.marks[place] = mark
            top.value.append(value)
            return place
        if top.key is None:
            raise self.fault(event, "a key must be text. Write key: value.")
        place = (*top.place, top.key)
        top.value[top.key], top.key = value, None
        return place
