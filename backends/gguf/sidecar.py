"""What stands beside a GGUF file that ``apply`` wrote: where it came from, its size, and what it should compute.

Knows nothing about engines.
"""

import json
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...common.errors import FileFormatError
from ...common.files import file_sha256, whole_file
from ...common.records import Finite, Record
from ...sensitivity.sequential_rounding import ORIGINAL_INPUTS
from ..engine_worker import EIGHT_BIT_INPUTS
from ..manifest import Expectations, Manifest, WrittenCheckpoint
from .source import open_gguf

BACKEND: Final = "gguf"
ENGINE: Final = "llama.cpp"
_KEY = "scantling_gguf"


class GgufSidecar(Record):
    """The metadata of the file beside a GGUF file.

    Attributes:
        scantling_version: that wrote it.
        model_source: where the model was loaded from.
        model_sha256: of its weights.
        plan_sha256: of the plan.
        architecture: llama.cpp's word.
        num_blocks: of the model.
        plan_bytes: what the plan predicts for all tensors.
        tensor_bytes: of all tensors in the file, without padding.
        file_bytes: of the file, as laid out before the first weight was rounded.
        file_sha256: of the file.
        negative_log_likelihood_nats: of the check's tokens in the plan in memory, mean per predicted token.
        arithmetic_noise: how far llama.cpp's roundings of inputs move the log-probabilities, relative to their spread.
    """

    scantling_version: str
    model_source: str
    model_sha256: str
    plan_sha256: str
    architecture: str
    num_blocks: int
    plan_bytes: int
    tensor_bytes: int
    file_bytes: int
    file_sha256: str
    negative_log_likelihood_nats: Finite
    arithmetic_noise: Finite


def is_gguf(path: Path) -> bool:
    """Tell by its name whether a checkpoint is a GGUF file."""
    return path.suffix == ".gguf" and not path.is_dir()


def sidecar_path(file: Path) -> Path:
    """Say where the check of a GGUF file lies: beside it.

    Returns:
        The path.

    >>> print(sidecar_path(Path("model.gguf")))
    model.gguf.check.safetensors
    """
    return file.with_name(f"{file.name}.check.safetensors")


def manifest_of(file: Path, sidecar: GgufSidecar) -> Manifest:
    """Give the manifest of a GGUF file."""
    return Manifest(
        scantling_version=sidecar.scantling_version,
        backend=BACKEND,
        model_source=sidecar.model_source,
        model_sha256=sidecar.model_sha256,
        plan_sha256=sidecar.plan_sha256,
        rounding_inputs=ORIGINAL_INPUTS,
        float_dtype="",
        num_blocks=sidecar.num_blocks,
        plan_bytes=sidecar.plan_bytes,
        tensor_bytes=sidecar.tensor_bytes,
        files={file.name: sidecar.file_bytes},
    )


def write_sidecar(file: Path, sidecar: GgufSidecar, token_ids: Tensor, logits: Tensor) -> None:
    """Write the check of a GGUF file, whole or not at all.

    Args:
        file: the GGUF file.
        sidecar: what it says of it.
        token_ids: that the plan in memory ran on, int64 [tokens].
        logits: after its last positions, float32 [positions, vocabulary].
    """
    with whole_file(sidecar_path(file)) as partial:
        tensors = {"token_ids": token_ids, "logits": logits}
        save_file(tensors, partial, metadata={_KEY: sidecar.model_dump_json()})


def read_gguf(file: Path) -> WrittenCheckpoint:
    """Read the check of a GGUF file, and hold the file against it.

    Returns:
        The checkpoint.

    Raises:
        FileFormatError: the file is not GGUF, there is no check beside it, the check is damaged, or the file was
            changed or cut off.
    """
    open_gguf(file)
    path = sidecar_path(file)
    if not path.is_file():
        raise FileFormatError(
            f"{file} has no {path.name} beside it, so what it should compute is unknown. Write it with: "
            "scantling apply --backend gguf"
        )
    try:
        with safe_open(path, framework="np") as opened:
            sidecar = GgufSidecar.model_validate(json.loads((opened.metadata() or {})[_KEY]))
            tokens, logits = opened.get_tensor("token_ids"), opened.get_tensor("logits")
    except (SafetensorError, OSError, ValueError, KeyError, ValidationError) as error:
        raise FileFormatError(f"{path} is damaged: {error}. Write the model again.") from error
    found = file.stat().st_size
    if found != sidecar.file_bytes:
        raise FileFormatError(f"{file} has {found:,} bytes, {sidecar.file_bytes:,} were written. Write it again.")
    if file_sha256(file) != sidecar.file_sha256:
        raise FileFormatError(f"{file} was changed after it was written. Write it again.")
    noise = {EIGHT_BIT_INPUTS: sidecar.arithmetic_noise}
    expected = Expectations(tokens, logits, noise, sidecar.negative_log_likelihood_nats)
    return WrittenCheckpoint(file, manifest_of(file, sidecar), expected)
