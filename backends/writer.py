"""The seam of backends: one object for each way of writing a checkpoint, from the first refusal to the last file.

Knows nothing about any format.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..common.progress import Progress
from ..models.loading import LoadedModel
from ..planning.plan import Plan
from ..quantization.formats import Format, parse_format
from ..quantization.grid import Rounded
from ..sensitivity.profile import Profile
from ..sensitivity.round_model import RoundingTask
from .manifest import Manifest

LARGEST_SHARD_BYTES = 4 * 2**30
Records = dict[str, Rounded]


@dataclass(frozen=True)
class ApplySettings:
    """How a plan is written.

    Attributes:
        backend: by name.
        inputs: what layers are rounded against: ``quantized``, ``corrected`` or ``original`` inputs; None for the
            backend's default.
        largest_shard_bytes: of tensors in one file, where the backend writes several.
        write_imatrix: where the importance matrix of the rounding goes; only some backends have one.
        emit: the tool whose command for the same file is wanted; only some backends know any.
    """

    backend: str
    inputs: str | None = None
    largest_shard_bytes: int = LARGEST_SHARD_BYTES
    write_imatrix: Path | None = None
    emit: str | None = None


@dataclass(frozen=True)
class ApplyJob:
    """A plan and all that is needed to write it.

    Attributes:
        loaded: the model; its weights become the quantized ones.
        profile: of this model.
        plan: solved from this profile.
        settings: how it is written; ``settings.inputs`` is known.
        output: the folder or file to write.
    """

    loaded: LoadedModel
    profile: Profile
    plan: Plan
    settings: ApplySettings
    output: Path

    @property
    def inputs(self) -> str:
        """What the layers are rounded against."""
        assert self.settings.inputs is not None
        return self.settings.inputs

    @property
    def formats(self) -> dict[str, Format]:
        """The format of every layer, by name."""
        return formats_of(self.plan)


def formats_of(plan: Plan) -> dict[str, Format]:
    """Give the format of every layer of a plan, by name."""
    return {layer: parse_format(target) for layer, target in plan.formats().items()}


class OpenCheckpoint(Protocol):
    """A checkpoint that is laid out and being filled.

    The pieces are numbered as ``round_in_order`` numbers them: embedding, blocks, head.
    """

    @property
    def task(self) -> RoundingTask:
        """What is rounded, in which formats."""
        ...

    def finished(self, piece: int) -> Records | None:
        """Read a piece that an earlier, stopped run has written; None where it has not."""
        ...

    def write(self, piece: int, records: Records) -> None:
        """Write a piece, unless an earlier run has."""
        ...

    def finish(self) -> Manifest:
        """Run the rounded model on the check's tokens, and write what is still missing."""
        ...


class CheckpointWriter(Protocol):
    """A backend: writes checkpoints of one format."""

    @property
    def name(self) -> str:
        """The backend's name on the command line."""
        ...

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that ``scantling check`` can load it in, the default first."""
        ...

    @property
    def default_inputs(self) -> str:
        """What layers are rounded against unless the user says otherwise."""
        ...

    @property
    def options(self) -> frozenset[str]:
        """The fields of ``ApplySettings`` that only some backends take, and this one does."""
        ...

    @property
    def streams_weights(self) -> bool:
        """Whether weights may lie in a scratch file, a block in memory at a time."""
        ...

    def validate(self, plan: Plan, profile: Profile, settings: ApplySettings, output: Path) -> None:
        """Refuse what can be refused before the model is loaded.

        Raises:
            InputError: the settings make no sense, or the format cannot express the plan.
            StorageError: the output cannot be written.
        """
        ...

    def open(self, job: ApplyJob, progress: Progress) -> AbstractContextManager[OpenCheckpoint]:
        """Lay the checkpoint out to the last byte; when the block ends well it stands in its place."""
        ...
