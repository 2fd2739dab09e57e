"""What stands beside a GGUF file that ``apply`` wrote: where it came from, its size, and what it should compute.

Knows nothing about engines.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from ..common.errors import ScantlingError
from ..common.files import file_sha256
from ..common.records import Finite, Record

_KEY = "scantling_gguf"


class GgufManifest(Record):
    """What ``apply`` says of a GGUF file.

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


def check_path(file: Path) -> Path:
    """Say where the check of a GGUF file lies.

    Args:
        file: the GGUF file.

    Returns:
        Beside it.

    >>> print(check_path(Path("model.gguf")))
    model.gguf.check.safetensors
    """
    return file.with_name(f"{file.name}.check.safetensors")


def read_gguf_manifest(file: Path) -> tuple[GgufManifest, NDArray[np.int64], NDArray[np.float32]]:
    """Read the check of a GGUF file, and hold the file against it.

    Args:
        file: the GGUF file.

    Returns:
        The manifest, the check's tokens, and the logits of its last positions in the plan in memory.

    Raises:
        ScantlingError: there is no check beside the file, it is damaged, or the file was changed or cut off.
    """
    path = check_path(file)
    if not path.is_file():
        raise ScantlingError(
            f"{file} has no {path.name} beside it, so it is not known what it should compute. Write it with: "
            "scantling apply --backend gguf"
        )
    try:
        with safe_open(path, framework="np") as opened:
            manifest = GgufManifest.model_validate(json.loads((opened.metadata() or {})[_KEY]))
            tokens, logits = opened.get_tensor("token_ids"), opened.get_tensor("logits")
    except (SafetensorError, OSError, ValueError, KeyError, ValidationError) as error:
        raise ScantlingError(f"{path} is damaged: {error}. Write the model again.") from error
    found = file.stat().st_size
    if found != manifest.file_bytes:
        raise ScantlingError(f"{file} has {found:,} bytes, {manifest.file_bytes:,} were written. Write it again.")
    if file_sha256(file) != manifest.file_sha256:
        raise ScantlingError(f"{file} was changed after it was written. Write it again.")
    return manifest, tokens, logits
