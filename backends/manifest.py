"""What a checkpoint says of itself: which plan it is of, how it was rounded, and the size of every file.

Knows nothing about tensors.
"""

from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from ..common.errors import ScantlingError
from ..common.records import Record

MANIFEST_FILE: Final = "scantling_checkpoint.json"
PLAN_FILE: Final = "scantling_plan.json"
CHECK_FILE: Final = "scantling/check.safetensors"
NOISE: Final = "noise_"
NARROW_TYPES: Final = ("float16", "bfloat16")
CARD_FILE: Final = "README.md"


class Manifest(Record):
    """The file ``scantling_checkpoint.json``.

    Attributes:
        checkpoint_version: of this layout.
        scantling_version: that wrote it.
        backend: the format of the checkpoint.
        model_source: where the original was loaded from.
        model_sha256: of the original's weights.
        plan_sha256: of the plan's file in the checkpoint.
        rounding_inputs: ``corrected``, ``quantized`` or ``original``: what the layers were rounded against.
        float_dtype: of all parameters that are not integers.
        num_blocks: of the model.
        plan_bytes: what the plan predicts for codes, scales, zero points and the 16-bit rest.
        tensor_bytes: of all tensors of the model in this backend's layout.
        files: bytes of every file but this one.
    """

    checkpoint_version: Literal[1] = 1
    scantling_version: str
    backend: str
    model_source: str
    model_sha256: str
    plan_sha256: str
    rounding_inputs: str
    float_dtype: str
    num_blocks: int
    plan_bytes: int
    tensor_bytes: int
    files: dict[str, int]

    def text(self) -> str:
        """Write the file.

        Returns:
            JSON.
        """
        return self.model_dump_json(indent=1) + "\n"

    @property
    def folder_bytes(self) -> int:
        """Bytes of all files of the folder, this one included."""
        return sum(self.files.values()) + len(self.text().encode())


def read_manifest(folder: Path) -> Manifest:
    """Read what a checkpoint says of itself.

    Args:
        folder: the checkpoint.

    Returns:
        The manifest.

    Raises:
        ScantlingError: it is not a checkpoint of ours, or the file is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ScantlingError(
            f"{folder} has no {MANIFEST_FILE}: it is no finished checkpoint of scantling. "
            "Write one with: scantling apply"
        )
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ScantlingError(f"{path} is damaged: {str(error).splitlines()[0]}. Write the checkpoint again.") from error


def wrong_sizes(folder: Path, manifest: Manifest) -> list[str]:
    """Compare the files of a checkpoint with what the manifest says.

    Args:
        folder: the checkpoint.
        manifest: its own.

    Returns:
        What differs, in words; nothing where all is as predicted.
    """
    wrong = []
    found = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST_FILE, None)
    for name, num_bytes in manifest.files.items():
        if name not in found:
            wrong.append(f"{name} is missing")
        elif found[name] != num_bytes:
            wrong.append(f"{name} has {found[name]:,} bytes, {num_bytes:,} were written")
    return wrong + [f"{name} was added" for name in sorted(set(found) - set(manifest.files))]
