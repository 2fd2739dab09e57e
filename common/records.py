"""Records as JSON files: written whole or not at all, and read back with errors in words.

Knows nothing about what any record says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ScantlingError
from .files import whole_file

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """A piece of a file: unknown keys are refused and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def with_renamed_keys(raw: Any, renamed: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Give keys of an older file their names of today, at any depth.

    Args:
        raw: as parsed.
        renamed: new names by old ones.

    Returns:
        The same with new names.
    """
    if isinstance(raw, dict):
        return {renamed.get(key, key): with_renamed_keys(value, renamed) for key, value in raw.items()}
    return [with_renamed_keys(value, renamed) for value in raw] if isinstance(raw, list | tuple) else raw


class VersionedRecord(Record):
    """A whole file, which says its version; one of the version before is read by the names that it had.

    Attributes:
        version_key: the field that holds the version.
        version: that is written.
        renamed_keys: of the version before, at any depth: new names by old ones.
    """

    version_key: ClassVar[str]
    version: ClassVar[int]
    renamed_keys: ClassVar[Mapping[str, str]]

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, raw: Any) -> Any:  # noqa: ANN401
        if isinstance(raw, dict) and raw.get(cls.version_key) == cls.version - 1:
            return {**with_renamed_keys(raw, cls.renamed_keys), cls.version_key: cls.version}
        return raw


Kind = TypeVar("Kind", bound=Record)


def write_record(record: Record, path: Path) -> None:
    """Write a record, whole or not at all.

    Args:
        record: the record.
        path: the file, replaced where it exists.
    """
    with whole_file(path) as partial:
        partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_record(kind: type[Kind], path: Path, what: str, command: str) -> Kind:
    """Read a record.

    Args:
        kind: of record.
        path: the file.
        what: it is called and of which version, such as ``comparison of version 1``.
        command: that writes such a file.

    Returns:
        What it says.

    Raises:
        ScantlingError: there is no such file, or it is not such a record.
    """
    called = what.partition(" of version")[0]
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ScantlingError(f"there is no {called} {path}. Write one with: {command} -o {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ScantlingError(f"cannot read the {called} {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ScantlingError(
            f"{path} is not a {what}: {where}: {first['msg']}. Make it anew with: {command}"
        ) from error
