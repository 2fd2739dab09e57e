"""The constraint file: limits, rules and objectives in YAML, and its JSON Schema.

Knows nothing about profiles: which layers a pattern matches is found later.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from ...common.errors import FileFormatError
from ...common.validation import describe, validated
from ...common.yaml_source import Place, SourceValue, read_yaml
from .rules import Constraints

SCHEMA_FILE: Final = "constraints.schema.json"
RENAMED_KEYS: Final = {"device": "hardware", "robust.load_cases": "domains"}  # since version 0.1


@dataclass(frozen=True)
class ConstraintFile:
    """A constraint file that was read.

    Attributes:
        constraints: its content.
        read: its values with their positions.
    """

    constraints: Constraints
    read: SourceValue

    def where(self, *place: str | int) -> str:
        """Give ``FILE:line:column`` of the value that keys and positions lead to."""
        where: Place = place
        return self.read.where(where)


def read_constraints(path: Path) -> ConstraintFile:
    """Read a constraint file.

    Args:
        path: the file.

    Returns:
        The constraints, with their positions.

    Raises:
        FileFormatError: it cannot be read, or has unknown keys or impossible values; one line for each fault, with
            file, line and column.
    """
    read = read_yaml(path)
    if not isinstance(read.value, dict):
        raise FileFormatError(
            f"{read.where(())}: a constraint file is a mapping of keys such as limits and rules, this is "
            f"{'a list' if isinstance(read.value, list) else repr(read.value)[:60]}. Begin with a key and a colon."
        )
    empty = [key for key, value in read.value.items() if value is None]
    if empty:
        raise FileFormatError(f"{read.where((empty[0],))}: {empty[0]!r} has no value. Give it one or remove the key.")
    for key, new in RENAMED_KEYS.items():
        outer, _, inner = key.rpartition(".")
        section = read.value.get(outer) if outer else read.value
        if isinstance(section, dict) and inner in section:
            where = read.where((outer, inner) if outer else (inner,))
            raise FileFormatError(f"{where}: the key {inner!r} is now {new!r}. Write that instead.")
    try:
        return ConstraintFile(validated(Constraints, read.value), read)
    except ValidationError as error:
        raise FileFormatError(describe(error, read, Constraints)) from error


def json_schema() -> dict[str, Any]:
    """Make the JSON Schema (draft 2020-12) of the constraint file from its records."""
    schema = Constraints.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "scantling constraint file"}


def schema_text() -> str:
    """Write the JSON Schema as it is published: JSON with an end of line."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def published_schema() -> str:
    """Read the JSON Schema that comes with the package."""
    return (Path(__file__).with_name(SCHEMA_FILE)).read_text(encoding="utf-8")
