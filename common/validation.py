"""Validates values from files as records, and explains faults with line and column.

Knows nothing about particular records.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from .errors import InputError
from .yaml_source import Place, SourceValue

MAX_MESSAGES: Final = 20
_Record = TypeVar("_Record", bound=BaseModel)
_TYPES: Final = {
    "string_type": "text", "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "bool_type": "true or false", "model_type": "a mapping, key: value",
    "model_attributes_type": "a mapping, key: value",
    "tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping, key: value",
    "finite_number": "a finite number",
}  # fmt: skip


def refusal(message: str) -> PydanticCustomError:
    """Return the exception to raise in a pydantic validator: what was wrong, the value, and the mend."""
    return PydanticCustomError("scantling", "{message}", {"message": message})


def check(validate: Callable[..., Any], *arguments: object) -> None:
    """Run a check of ours inside a pydantic validator.

    Args:
        validate: the check.
        arguments: its arguments.

    Raises:
        PydanticCustomError: the check raised an InputError.
    """
    try:
        validate(*arguments)
    except InputError as error:
        raise PydanticCustomError("scantling", "{message}", {"message": str(error)}) from error


def _text_or_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise refusal(f"{str(value)[:60]} is not a quantity. Write a number, with its unit if it has one.")
    return value


Quantity = Annotated[
    str | int | float, BeforeValidator(_text_or_number), WithJsonSchema({"type": ["string", "number"]})
]


def validated(record: type[_Record], value: object) -> _Record:
    """Validate a plain value from a file as a record, strictly: no text for a number, no number for true."""
    return record.model_validate_json(json.dumps(value), strict=True)


def describe(error: ValidationError, read: SourceValue, record: type[BaseModel]) -> str:
    """Explain what is wrong with a file.

    Args:
        error: the validation error of the record.
        read: the file.
        record: the expected record.

    Returns:
        One line per fault, with file, line and column.
    """
    lines: list[str] = []
    faults = [(tuple(_place(fault["loc"], read.value)), fault) for fault in error.errors(include_url=False)]
    for place, fault in sorted(faults, key=lambda found: read.mark(found[0])):
        line = f"{read.where(place)}: {_fault(fault, place, record)}"
        if line not in lines:
            lines.append(line)
    more = [f"… and {len(lines) - MAX_MESSAGES} more."] if len(lines) > MAX_MESSAGES else []
    return "\n".join(lines[:MAX_MESSAGES] + more)


def _place(location: tuple[int | str, ...], value: object) -> Iterator[int | str]:
    """Drop the parts of a record's path that are not in the file: the tags of unions."""
    for position, part in enumerate(location):
        entries = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(entries, Mapping) and part in entries:
            value = entries[part]
            yield part
        elif isinstance(value, Mapping) and position == len(location) - 1:
            yield part  # a key that is missing


def _fault(fault: ErrorDetails, place: Place, record: type[BaseModel]) -> str:
    kind, given = fault["type"], fault["input"]
    key = next((str(part) for part in reversed(place) if isinstance(part, str)), "the file")
    shown = repr(given) if len(repr(given)) <= 60 else repr(given)[:57] + "…"
    if kind == "scantling":
        return fault["msg"] if key == "the file" else f"{key}: {fault['msg']}"
    if kind == "extra_forbidden":
        known = _all_keys(record)
        near = difflib.get_close_matches(key, known, 1, 0.6)
        mend = f" Did you mean {near[0]}?" if near and near[0] != key else (
            " It belongs elsewhere: to another key, or to a rule of its own." if key in known else " Remove it."
        )  # fmt: skip
        return f"unknown key {key!r} here.{mend}"
    if kind == "missing":
        return f"the key {key!r} is missing. Add it."
    if kind in _TYPES:
        return f"{key}: {shown} is not {_TYPES[kind]}."
    return f"{key}: {shown}: {fault['msg']}."


def _all_keys(record: type[BaseModel]) -> list[str]:
    """List every key of a record's JSON Schema, at any depth."""
    schema = record.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    found: set[str] = set()
    for part in parts:
        for option in [part, *part.get("anyOf", [])]:
            found.update(option.get("properties", {}))
    return sorted(found)
