"""The backends by name, and who reads a finished checkpoint.

Knows nothing about what any of them writes.
"""

from pathlib import Path

from ..common.errors import InputError
from .auto_gptq import AutoGptqBackend
from .compressed_tensors import PackQuantizedBackend
from .fake import FakeBackend
from .folder import FolderWriter
from .folder_manifest import read_folder
from .gguf.sidecar import is_gguf, read_gguf
from .gguf.writer import GgufWriter
from .gptq import GptqBackend
from .manifest import WrittenCheckpoint
from .writer import CheckpointWriter

_WRITERS: tuple[CheckpointWriter, ...] = (
    FolderWriter(FakeBackend()),
    FolderWriter(GptqBackend()),
    FolderWriter(PackQuantizedBackend()),
    FolderWriter(AutoGptqBackend()),
    GgufWriter(),
)
WRITERS = {writer.name: writer for writer in _WRITERS}


def writer_named(name: str) -> CheckpointWriter:
    """Find a backend by the name that the user writes.

    Returns:
        The backend.

    Raises:
        InputError: there is none of that name.
    """
    if name not in WRITERS:
        raise InputError(f"{name!r} is not a backend. Known: {', '.join(WRITERS)}.")
    return WRITERS[name]


def read_checkpoint(path: Path) -> WrittenCheckpoint:
    """Read what a finished checkpoint says of itself, and hold its files against that.

    Returns:
        The checkpoint.

    Raises:
        FileFormatError: it is not a finished checkpoint of scantling, or it was changed.
    """
    return read_gguf(path) if is_gguf(path) else read_folder(path)
