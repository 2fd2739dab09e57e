"""The files with which a checkpoint folder says what it is, and reading them back.

Knows nothing about models.
"""

from pathlib import Path
from typing import Final

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from ..common.errors import FileFormatError
from ..common.files import file_sha256
from .manifest import Expectations, Manifest, WrittenCheckpoint

MANIFEST_FILE: Final = "scantling_checkpoint.json"
PLAN_FILE: Final = "scantling_plan.json"
CHECK_FILE: Final = "scantling/check.safetensors"
CARD_FILE: Final = "README.md"
NOISE: Final = "noise_"
NARROW_TYPES: Final = ("float16", "bfloat16")


class FolderManifest(Manifest):
    """The manifest of a folder, itself one of the files: ``scantling_checkpoint.json``."""

    def text(self) -> str:
        """Give the file's text, which is JSON."""
        return self.model_dump_json(indent=1) + "\n"

    @property
    def num_files(self) -> int:
        """How many files the folder has, this one included."""
        return len(self.files) + 1

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of all files of the folder, this one included."""
        return sum(self.files.values()) + len(self.text().encode())


def read_manifest(folder: Path) -> FolderManifest:
    """Read the manifest of a checkpoint folder.

    Returns:
        The manifest.

    Raises:
        FileFormatError: the folder is not a checkpoint of scantling, or the file is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise FileFormatError(
            f"{folder} has no {MANIFEST_FILE}: it is not a finished scantling checkpoint. "
            "Write one with: scantling apply"
        )
    try:
        return FolderManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise FileFormatError(
            f"{path} is damaged: {str(error).splitlines()[0]}. Write the checkpoint again."
        ) from error


def wrong_sizes(folder: Path, manifest: Manifest) -> list[str]:
    """Describe where the files of a folder differ from its manifest; empty where all are as predicted."""
    wrong = []
    found = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST_FILE, None)
    for name, num_bytes in manifest.files.items():
        if name not in found:
            wrong.append(f"{name} is missing")
        elif found[name] != num_bytes:
            wrong.append(f"{name} has {found[name]:,} bytes, {num_bytes:,} were written")
    return wrong + [f"{name} was added" for name in sorted(set(found) - set(manifest.files))]


def read_folder(folder: Path) -> WrittenCheckpoint:
    """Read what a checkpoint folder says of itself, and hold its files against that.

    Returns:
        The checkpoint.

    Raises:
        FileFormatError: it is not a finished checkpoint of scantling, or it was changed.
    """
    manifest = read_manifest(folder)
    wrong = wrong_sizes(folder, manifest)
    if wrong:
        raise FileFormatError(f"{folder} is not as it was written: {'; '.join(wrong[:3])}. Write it again.")
    if file_sha256(folder / PLAN_FILE) != manifest.plan_sha256:
        raise FileFormatError(f"{folder / PLAN_FILE} was changed after the checkpoint was written. Write it again.")
    return WrittenCheckpoint(folder, manifest, _expectations(folder))


def _expectations(folder: Path) -> Expectations:
    try:
        with safe_open(folder / CHECK_FILE, framework="np") as opened:
            noise = {name: float(opened.get_tensor(f"{NOISE}{name}")) for name in NARROW_TYPES}
            return Expectations(opened.get_tensor("token_ids"), opened.get_tensor("logits"), noise)
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{folder / CHECK_FILE} is damaged: {error}. Write the checkpoint again.") from error
