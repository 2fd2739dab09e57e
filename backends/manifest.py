"""What a checkpoint says of itself: its plan, how it was rounded, the size of every file, and what it should compute.

Knows nothing about how checkpoints are written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..common.records import Record


class Manifest(Record):
    """What is known of a checkpoint before its first weight is rounded.

    Attributes:
        checkpoint_version: of this record.
        scantling_version: that wrote it.
        backend: the checkpoint's format.
        model_source: where the original was loaded from.
        model_sha256: of the original's weights.
        plan_sha256: of the plan.
        rounding_inputs: what layers were rounded against: ``corrected``, ``quantized`` or ``original`` inputs.
        float_dtype: of every parameter that is not an integer; empty where each has its own.
        num_blocks: of the model.
        plan_bytes: what the plan predicts for codes, scales, zero points and the 16-bit rest.
        tensor_bytes: of all tensors of the model in this format.
        files: bytes of every file, without the one that holds this record.
        emitted: the command of another tool that makes the same file, where one was asked for; not stored.
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
    emitted: str | None = Field(default=None, exclude=True)

    @property
    def num_files(self) -> int:
        """How many files the checkpoint has."""
        return len(self.files)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(self.files.values())


@dataclass(frozen=True)
class Expectations:
    """What the plan in memory computed when the checkpoint was written.

    Attributes:
        token_ids: the sequence that it ran on, int64 [tokens].
        logits: after the last positions, float32 [positions, vocabulary].
        noise: how far an arithmetic's roundings move the log-probabilities, relative to their spread; by arithmetic.
        negative_log_likelihood_nats: of the sequence, mean per predicted token; None where it was not kept.
    """

    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    noise: Mapping[str, float]
    negative_log_likelihood_nats: float | None = None


@dataclass(frozen=True)
class WrittenCheckpoint:
    """A finished checkpoint whose files are as they were written."""

    path: Path
    manifest: Manifest
    expected: Expectations
