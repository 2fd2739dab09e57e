"""Files that are either whole or absent.

Knows nothing about their content.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StorageError
from .units import render_bytes


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def require_writable(path: Path, num_bytes: int) -> None:
    """Refuse an output that could not be written, before the work that fills it.

    Args:
        path: the file or folder to be written.
        num_bytes: about how much space it will take.

    Raises:
        StorageError: its parent does not exist or is not writable, or the disk is too full.
    """
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StorageError(f"cannot write {path}: the folder {path.parent} does not exist. Create it first.")
    if not os.access(parent, os.W_OK):
        raise StorageError(f"cannot write {path}: the folder {path.parent} is not writable. Choose another.")
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise StorageError(
            f"cannot write {path}: it takes about {render_bytes(num_bytes)}, the disk has {render_bytes(free)} left. "
            "Free some space or choose another disk."
        )


def require_other_file(output: Path, given: Path) -> None:
    """Require an output not to be the very file that is read: it would be replaced, and lost."""
    if output.exists() and given.exists() and output.samefile(given):
        raise StorageError(f"{output} is the file to be read, and would be replaced. Choose another output.")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; rename it to ``path`` if the block succeeds, else remove it.

    Args:
        path: the final place of the file.

    Yields:
        The temporary path.

    Raises:
        StorageError: the parent folder does not exist, or the disk refused the write.
    """
    require_writable(path, 0)
    if path.is_dir():
        raise StorageError(f"cannot write the file {path}: it is a folder. Choose another name.")
    partial = _temporary_sibling(path)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}. No half-written file was left.") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``; rename it to ``path`` if the block succeeds, else remove it.

    Args:
        path: the final place of the folder; it must not exist yet.

    Yields:
        The temporary folder, empty.

    Raises:
        StorageError: ``path`` exists, its parent does not, or the disk refused the write.
    """
    require_absent(path)
    require_writable(path, 0)
    partial = _temporary_sibling(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        partial.rename(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}. No half-written folder was left."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_absent(path: Path) -> None:
    """Refuse an output folder that already exists.

    Args:
        path: the folder about to be written.

    Raises:
        StorageError: it exists.
    """
    if path.exists():
        raise StorageError(f"the output folder {path} exists already. Remove it or choose another name.")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
