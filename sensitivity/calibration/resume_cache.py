"""The resume cache: a folder beside an unfinished profile, with one file for every finished piece of work.

Every file is whole or absent, so that whatever a killed process leaves can be used by the next one. The folder records
the settings that it belongs to, and is removed when the profile is written.

Knows nothing about models or estimators.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...common.errors import FileFormatError, InputError, StorageError
from ...common.files import whole_file

_PURPOSE = "purpose.json"
Purpose = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class ResumeCache:
    """A folder of finished pieces."""

    folder: Path

    def has(self, name: str) -> bool:
        """Tell whether a piece is finished."""
        return self._file(name).is_file()

    def load(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a finished piece; refuse one that is damaged."""
        try:
            return load_file(self._file(name))
        except (SafetensorError, OSError, ValueError) as error:
            raise FileFormatError(
                f"{self._file(name)} is damaged ({error}). Remove the folder {self.folder} and begin again."
            ) from error

    def load_one(self, name: str, key: str) -> Tensor:
        """Read one tensor of a finished piece."""
        with safe_open(self._file(name), framework="pt") as opened:
            found: Tensor = opened.get_tensor(key)
        return found

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a piece, whole or not at all."""
        with whole_file(self._file(name)) as partial:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial)

    def remove(self, name: str) -> None:
        """Remove a piece that is no longer needed, if it exists."""
        self._file(name).unlink(missing_ok=True)

    def remember(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Read a piece if it is finished; else compute and save it."""
        if not self.has(name):
            self.save(name, compute())
        return self.load(name)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def resume_cache_folder(profile_path: Path) -> Path:
    """Name the folder beside a profile that holds its resume cache.

    Args:
        profile_path: the profile's file.

    Returns:
        The folder.

    >>> resume_cache_folder(Path("some/model.safetensors")).name
    'model.safetensors.parts'
    """
    return profile_path.with_name(f"{profile_path.name}.parts")


def discard_resume_cache(profile_path: Path) -> None:
    """Remove the resume cache of a finished profile."""
    shutil.rmtree(resume_cache_folder(profile_path), ignore_errors=True)


def open_resume_cache(folder: Path, purpose: Purpose) -> ResumeCache:
    """Open a resume cache, or begin one.

    Args:
        folder: its folder.
        purpose: everything that decides the pieces' values.

    Returns:
        The cache.

    Raises:
        InputError: the folder holds pieces that other settings made.
        FileFormatError: it holds something else.
        StorageError: it cannot be created.
    """
    file = folder / _PURPOSE
    if folder.is_dir() and any(folder.iterdir()):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileFormatError(
                f"{folder} is where the unfinished profile would be kept, but it holds other files: it does not say "
                "which profile they belong to. Remove it, or give the profile another name."
            ) from error
        wanted = dict(purpose)
        if found != wanted:
            differs = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            key = differs[0]
            raise InputError(
                f"{folder} holds an unfinished profile that was begun with other settings: {key} was "
                f"{found.get(key)!r} and is {wanted.get(key)!r} now. Continue with the old settings, remove the "
                "folder, or give the profile another name."
            )
        return ResumeCache(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create the folder {folder}: {error.strerror}.") from error
    with whole_file(file) as partial:
        partial.write_text(json.dumps(dict(purpose), indent=1), encoding="utf-8")
    return ResumeCache(folder)
