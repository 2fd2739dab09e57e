"""A checkpoint that is being written: beside its final place, a part at a time, and never taken for a finished one.

The work lies in ``.NAME.unfinished`` beside the folder NAME: the request that it answers, the numbers of the parts that
are on the disk, and the folder ``checkpoint``, which is renamed to NAME in one step when everything is in it. A run
that was stopped at any moment is taken up by the same request after the last whole part.

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

from ..common.errors import ScantlingError
from ..common.files import require_absent, require_writable, whole_file
from .shards import Shard, ShardFiles

_REQUEST = "request.json"
_FINISHED = "finished"
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class ResumableWriter:
    """The work on one checkpoint.

    Attributes:
        folder: where the checkpoint shall stand.
        work: where it is put together.
        files: the shards.
    """

    folder: Path
    work: Path
    files: ShardFiles

    def finished_pieces(self) -> set[int]:
        """Read which parts are on the disk.

        Returns:
            Their numbers.
        """
        lines = (self.work / _FINISHED).read_text(encoding="utf-8").split("\n")
        return {int(line) for line in lines[:-1]}  # what follows the last line's end was cut off

    def write_piece(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Put a part's tensors onto the disk, then note that they are there.

        Args:
            number: of the part.
            tensors: by name.
        """
        self.files.write(tensors)
        with (self.work / _FINISHED).open("a", encoding="utf-8") as opened:
            opened.write(f"{number}\n")
            opened.flush()
            os.fsync(opened.fileno())

    def finish(self, further: Mapping[str, bytes]) -> None:
        """Add the small files and move the checkpoint to its place.

        Args:
            further: contents by file name.
        """
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
    """Say where a checkpoint is put together.

    Args:
        folder: where it shall stand.

    Returns:
        A hidden sibling.
    """
    return folder.absolute().with_name(f".{folder.absolute().name}.unfinished")


@contextmanager
def open_resumable_writer(folder: Path, request: str, shards: Sequence[Shard]) -> Iterator[ResumableWriter]:
    """Begin a checkpoint, or take up where a stopped run of the same request ended.

    Args:
        folder: where it shall stand; it must not exist yet.
        request: all that decides the tensors, as text.
        shards: the layout.

    Yields:
        The work. It is kept when the block ends by an error, for the next run to take up.

    Raises:
        ScantlingError: the folder exists, another request's work is in the way, another process is at it, or the disk
            refused a write.
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
                raise ScantlingError(
                    f"{work} holds an unfinished checkpoint of another plan, model or setting. Finish that one by its "
                    "own command, or remove the folder."
                )
            yield ResumableWriter(folder, work, files)
    except OSError as error:
        kept = "No half-written folder was left."
        if begun:
            kept = f"What is done is kept in {work}: free some space and run the same command to go on, or remove it."
        raise ScantlingError(f"cannot write {folder}: {error.strerror or error}. {kept}") from error


def _begin(work: Path, request: str, files: ShardFiles) -> None:
    """Make the work folder; the request is written last, so that without it the folder holds nothing of worth."""
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
        raise ScantlingError(f"another process is writing {work} now. Wait for it, or give another folder.") from error
