"""What a profile is made of while it is being made: a folder beside it, with one file for every piece of finished work.

Every file is whole or absent, so that a process that is killed at any moment leaves pieces that the next one can build
on. The folder says what it belongs to, and is removed when the profile stands.

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
    """A folder of finished pieces.

    Attributes:
        folder: where they are.
    """

    folder: Path

    def has(self, name: str) -> bool:
        """Tell whether a piece is finished."""
        return self._file(name).is_file()

    def load(self, name: str) -> dict[str, Tensor]:
        """Read a finished piece.

        Args:
            name: of the piece.

        Returns:
            Its tensors.

        Raises:
            FileFormatError: it is damaged.
        """
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
        """Remove a piece that nothing needs any more, if it is there."""
        self._file(name).unlink(missing_ok=True)

    def remember(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Read a piece where it is finished; else make and keep it."""
        if not self.has(name):
            self.save(name, compute())
        return self.load(name)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def resume_cache_folder(profile_path: Path) -> Path:
    """Say where the pieces of a profile are.

    Args:
        profile_path: the profile's file.

    Returns:
        The folder beside it.

    >>> parts_folder(Path("some/model.safetensors")).name
    'model.safetensors.parts'
    """
    return profile_path.with_name(f"{profile_path.name}.parts")


def discard_resume_cache(profile_path: Path) -> None:
    """Remove the pieces of a profile that is finished."""
    shutil.rmtree(resume_cache_folder(profile_path), ignore_errors=True)


def open_resume_cache(folder: Path, purpose: Purpose) -> ResumeCache:
    """Open a folder of pieces, or begin one.

    Args:
        folder: where.
        purpose: everything that decides the pieces' values.

    Returns:
        The pieces.

    Raises:
        ScantlingError: the folder holds pieces of another purpose, or cannot be made.
    """
    file = folder / _PURPOSE
    if folder.is_dir() and any(folder.iterdir()):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileFormatError(
                f"{folder} stands where the pieces of the profile shall be kept, and does not say whose they "
                "are. Remove it, or give the profile another name."
            ) from error
        wanted = dict(purpose)
        if found != wanted:
            differs = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            key = differs[0]
            raise InputError(
                f"{folder} holds the pieces of a profile that was begun with other settings: {key} was "
                f"{found.get(key)!r} and is {wanted.get(key)!r} now. Go on with the old settings, or remove "
                "the folder, or give the profile another name."
            )
        return ResumeCache(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}.") from error
    with whole_file(file) as partial:
        partial.write_text(json.dumps(dict(purpose), indent=1), encoding="utf-8")
    return ResumeCache(folder)
