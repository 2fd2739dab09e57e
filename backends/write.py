"""From a plan to a checkpoint, with any backend: final rounding, a piece at a time, each written when it is rounded.

Knows nothing about the command line or about formats.
"""

from dataclasses import replace
from os import PathLike
from pathlib import Path

from ..common.errors import InputError
from ..common.progress import Progress, silent
from ..common.units import parse_bytes
from ..models.loading import LoadedModel, load_model
from ..planning.plan import Plan
from ..planning.plan_profile import profile_for
from ..sensitivity.profile import Profile
from ..sensitivity.sequential_rounding import round_in_order
from .manifest import Manifest
from .registry import WRITERS, writer_named
from .writer import ApplyJob, ApplySettings, CheckpointWriter

_OPTIONS = ("write_imatrix", "emit")  # that only some backends take


def export_plan(
    plan: Plan,
    output: Path | str,
    *,
    backend: str,
    inputs: str | None = None,
    shard: int | str = "4GiB",
    in_memory: bool = False,
    write_imatrix: Path | str | None = None,
    emit: str | None = None,
    model: str | PathLike[str] | LoadedModel | None = None,
    profile: Profile | Path | str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Write the checkpoint of a plan, whole or not at all; a folder's stopped run goes on where it ended.

    Args:
        plan: the plan.
        output: the folder to write; of the backend ``gguf``, the file. It must not exist.
        backend: ``gptq``, ``compressed-tensors``, ``auto-gptq``, ``fake`` (float32) or ``gguf``.
        inputs: what layers are rounded against: ``quantized`` inputs (the default of folders), ``corrected`` ones, or
            ``original`` ones (all that ``gguf`` takes).
        shard: bytes of tensors in one file, as a number or as ``4GiB``.
        in_memory: hold all weights in memory. Otherwise they lie in a scratch file beside the output, 4 bytes each,
            and memory holds a block at a time; ``gguf`` always holds them in memory.
        write_imatrix: where to write the importance matrix that the file was rounded with; ``gguf`` only.
        emit: ``llama-quantize`` to get, as ``Manifest.emitted``, its command for the same file; ``gguf`` only.
        model: the model, loaded already (it becomes the quantized one), or its place where it has moved.
        profile: the profile or its file, where that has moved since the plan was solved.
        trust_remote_code: whether Python code that comes with the model may run.
        progress: shows how far the work is; None shows nothing.

    Returns:
        What was written; its sizes were known before the first weight was rounded.

    Raises:
        InputError: the options make no sense, or the backend cannot express the plan.
        FileFormatError: the profile cannot be read.
        StorageError: the output exists, or the disk refused it.
        UnsupportedModelError: the model cannot be written in this format.
        MissingDependencyError: the backend needs a library that is not installed.
    """
    settings = ApplySettings(
        backend,
        inputs,
        parse_bytes(shard) if isinstance(shard, str) else shard,
        None if write_imatrix is None else Path(write_imatrix),
        emit,
    )
    writer, output, progress = _writer_for(settings), Path(output), progress or silent
    found = profile_for(plan, profile)
    writer.validate(plan, found, settings, output)
    scratch = output.absolute().parent if writer.streams_weights and not in_memory else None
    if isinstance(model, LoadedModel):
        return apply_plan(model, found, plan, settings, output, progress)
    (loaded,) = (
        load_model(source, trust_remote_code=trust_remote_code, scratch=scratch)
        for source in progress([str(model or plan.model_source)], "loading the model")
    )
    return apply_plan(loaded, found, plan, settings, output, progress)


def apply_plan(
    loaded: LoadedModel, profile: Profile, plan: Plan, settings: ApplySettings, output: Path, progress: Progress
) -> Manifest:
    """Write the checkpoint of a plan with a model that is loaded already.

    Args:
        loaded: the model; its weights become the quantized ones.
        profile: of this model.
        plan: solved from this profile.
        settings: backend and rounding.
        output: the folder or file; it must not exist.
        progress: shows how far the work is.

    Returns:
        What was written.
    """
    writer = _writer_for(settings)
    job = ApplyJob(loaded, profile, plan, replace(settings, inputs=settings.inputs or writer.default_inputs), output)
    with writer.open(job, progress) as checkpoint:
        rounded = round_in_order(checkpoint.task, progress, inputs=job.inputs, finished=checkpoint.finished)
        for piece, records in rounded:
            checkpoint.write(piece, records)
        return checkpoint.finish()


def _writer_for(settings: ApplySettings) -> CheckpointWriter:
    """Find the backend, and refuse options that only others take."""
    writer = writer_named(settings.backend)
    for option in _OPTIONS:
        if getattr(settings, option) is not None and option not in writer.options:
            takers = [name for name, other in WRITERS.items() if option in other.options]
            raise InputError(
                f"--{option.replace('_', '-')} is for --backend {' or '.join(takers)}, not for {writer.name}. "
                "Leave it out."
            )
    return writer
