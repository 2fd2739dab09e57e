"""A checkpoint that is being written: beside its final place, a piece at a time, and never mistaken for a finished one.

The work lies in ``.NAME.unfinished`` beside the folder NAME: the request that it answers, the numbers of the pieces
that are on the disk, and the folder ``checkpoint``, which is renamed to NAME in one step when everything is in it. A
run that was stopped at any moment is resumed by the same request after the last whole piece.

Knows nothing about models.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..common.errors import StorageError
from ..common.files import require_absent, require_writable, whole_file
from .shards import Shard, ShardFiles

_REQUEST = "request.json"
_FINISHED = "finished"
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class ResumableWriter:
    """The work on one checkpoint.

    Attributes:
        folder: where the finished checkpoint goes.
        work: where it is assembled.
        files: the shards.
    """

    folder: Path
    work: Path
    files: ShardFiles

    def finished_pieces(self) -> set[int]:
        """Read the numbers of the pieces that are on the disk."""
        lines = (self.work / _FINISHED).read_text(encoding="utf-8").split("\n")
        return {int(line) for line in lines[:-1]}  # whatever follows the last newline was cut off

    def write_piece(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a piece's tensors, then note that they are on the disk."""
        self.files.write(tensors)
        with (self.work / _FINISHED).open("a", encoding="utf-8") as opened:
            opened.write(f"{number}\n")
            opened.flush()
            os.fsync(opened.fileno())

    def finish(self, further: Mapping[str, bytes]) -> None:
        """Add the small files, by name, and move the checkpoint to its place."""
        checkpoint = self.work / _CHECKPOINT
        for name, content in further.items():
            (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
            with (checkpoint / name).open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        require_absent(self.folder)
        checkpoint.rename(self.folder)
        shutil.rmtree(self.work, ignore_errors=True)


def work_folder(folder: Path) -> Path:
    """Say where a checkpoint is assembled: in a hidden sibling of its folder."""
    return folder.absolute().with_name(f".{folder.absolute().name}.unfinished")


@contextmanager
def open_resumable_writer(folder: Path, request: str, shards: Sequence[Shard]) -> Iterator[ResumableWriter]:
    """Begin a checkpoint, or resume where a stopped run of the same request ended.

    Args:
        folder: where it goes; it must not exist.
        request: all that decides the tensors, as text.
        shards: the layout.

    Yields:
        The work. It is kept when the block ends by an error, for the next run to resume.

    Raises:
        StorageError: the folder exists, the work of another request is in the way, another process is writing it, or
            the disk refused a write.
    """
    require_absent(folder)
    require_writable(folder, 0)
    work = work_folder(folder)
    files = ShardFiles(work / _CHECKPOINT, shards)
    begun = False
    try:
        if not (work / _REQUEST).is_file():
            _begin(work, request, files)
        begun = True
        with (work / _REQUEST).open(encoding="utf-8") as opened:
            _require_free(opened.fileno(), work)
            if opened.read() != request or not files.are_allocated():
                raise StorageError(
                    f"{work} holds an unfinished checkpoint of another plan, model or setting. Finish that one with "
                    "its own command, or remove the folder."
                )
            yield ResumableWriter(folder, work, files)
    except OSError as error:
        kept = "No half-written folder was left."
        if begun:
            kept = (
                f"The work so far is kept in {work}: free some space and run the same command to go on, or remove it."
            )
        raise StorageError(f"cannot write {folder}: {error.strerror or error}. {kept}") from error


def _begin(work: Path, request: str, files: ShardFiles) -> None:
    """Make the work folder; the request is written last, so without it the folder holds nothing worth keeping."""
    shutil.rmtree(work, ignore_errors=True)
    try:
        files.folder.mkdir(parents=True)
        require_writable(work, sum(shard.num_bytes for shard in files.shards))
        files.allocate()
        (work / _FINISHED).touch()
        with whole_file(work / _REQUEST) as partial:
            partial.write_text(request, encoding="utf-8")
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _require_free(descriptor: int, work: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(f"another process is writing {work} now. Wait for it, or give another folder.") from error
