"""Records as JSON files: written whole or not at all, and validated when read back.

Knows nothing about particular records.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .errors import FileFormatError
from .files import whole_file

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """Part of a file: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def with_renamed_keys(raw: Any, renamed: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Give keys of an older file their current names, at any depth.

    Args:
        raw: the parsed file.
        renamed: current names by old ones.

    Returns:
        The same values under the current names.

    Raises:
        PydanticCustomError: a key is given under both names; a ValueError, so that validators may raise it.
    """
    if isinstance(raw, list | tuple):
        return [with_renamed_keys(value, renamed) for value in raw]
    if not isinstance(raw, dict):
        return raw
    twice = next((old for old, new in renamed.items() if old in raw and new in raw), None)
    if twice is not None:
        message = f"the key {twice!r} is the old name of {renamed[twice]!r}, which is given too. Keep one."
        raise PydanticCustomError("given_twice", "{message}", {"message": message})
    return {renamed.get(key, key): with_renamed_keys(value, renamed) for key, value in raw.items()}


class VersionedRecord(Record):
    """A whole file that states its version; a file of the previous version is read by its old key names.

    Attributes:
        version_key: the field that holds the version.
        version: the version that is written.
        renamed_keys: current names by those of the previous version, at any depth.
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
    """Write a record, whole or not at all; an existing file is replaced."""
    with whole_file(path) as partial:
        partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_record(kind: type[Kind], path: Path, what: str, command: str) -> Kind:
    """Read a record.

    Args:
        kind: the class of the record.
        path: the file.
        what: its name and version in messages, such as ``comparison of version 1``.
        command: the command that writes such a file.

    Returns:
        The record.

    Raises:
        FileFormatError: the file does not exist, or is no such record.
    """
    name = what.partition(" of version")[0]
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileFormatError(f"there is no {name} {path}. Write one with: {command} -o {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read the {name} {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FileFormatError(
            f"{path} is not a {what}: {where}: {first['msg']}. Make it again with: {command}"
        ) from error
