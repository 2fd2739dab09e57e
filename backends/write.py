"""From a plan to a checkpoint: final rounding, packing and writing, one part at a time.

Knows nothing about the command line or about engines.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..common.errors import ScantlingError
from ..common.files import require_absent, require_writable
from ..common.progress import Progress
from ..models.layers import Layer, find_layers
from ..models.loading import LoadedModel
from ..planning.plan import Plan
from ..quantization.formats import Format, parse_format
from ..quantization.gguf_types import GgufFormat
from ..quantization.grid import Rounded
from ..quantization.methods import rounding_method
from ..sensitivity.profile import Profile
from ..sensitivity.round_model import RoundingTask, scale_inputs_for
from ..sensitivity.sequential_rounding import QUANTIZED_INPUTS, round_in_order, validate_inputs
from .arithmetic_noise import arithmetic_noise
from .base import FLOAT_DTYPES, FormattedLayer, TensorSpec, validate_floats
from .contents import OTHERS, Contents, store_in_sixteen_bits
from .manifest import CARD_FILE, CHECK_FILE, MANIFEST_FILE, NARROW_TYPES, NOISE, PLAN_FILE, Manifest
from .model_card import model_card
from .registry import backend_named
from .resumable_writer import ResumableWriter, open_resumable_writer
from .shards import Shard, index_file, lay_out

CHECK_TOKENS = 64
CHECK_POSITIONS = 8
LARGEST_SHARD_BYTES = 4 * 2**30


@dataclass(frozen=True)
class ApplySettings:
    """How a plan is written.

    Attributes:
        backend: the checkpoint's format, by name.
        inputs: ``corrected``, ``quantized`` or ``original``: what the layers are rounded against.
        largest_shard_bytes: of tensors in one file.
    """

    backend: str
    inputs: str = QUANTIZED_INPUTS
    largest_shard_bytes: int = LARGEST_SHARD_BYTES


@dataclass(frozen=True)
class _Job:
    """All that is known before the first weight is rounded."""

    contents: Contents
    task: RoundingTask
    shards: list[Shard]
    check: Shard
    small_files: dict[str, bytes]
    manifest: Manifest


def validate_settings(settings: ApplySettings, folder: Path) -> None:
    """Refuse what can be refused before the model is loaded.

    Args:
        settings: how the plan is written.
        folder: where.
    """
    backend_named(settings.backend)
    validate_inputs(settings.inputs)
    require_absent(folder)
    require_writable(folder, 0)


def validate_plan(plan: Plan, profile: Profile, settings: ApplySettings) -> None:
    """Refuse a plan that its backend cannot express, as far as names, shapes and formats tell.

    Args:
        plan: the plan.
        profile: that it was solved from.
        settings: how it is written.
    """
    formats = {layer: parse_format(target) for layer, target in plan.formats().items()}
    require_no_gguf_types(formats, settings.backend)
    layers = [
        Layer(record.name, record.kind, record.block, record.out_features, record.in_features)
        for record in profile.record.layers
    ]
    if not any("experts." in layer.kind for layer in layers):  # how experts are kept, only the model tells
        backend_named(settings.backend).refuse([FormattedLayer(layer, formats[layer.name]) for layer in layers])


def apply_plan(
    loaded: LoadedModel, profile: Profile, plan: Plan, settings: ApplySettings, folder: Path, progress: Progress
) -> Manifest:
    """Write the checkpoint of a plan, whole or not at all; a run that was stopped is taken up again.

    Args:
        loaded: the model; its weights become the quantized ones.
        profile: of this model.
        plan: solved from this profile.
        settings: format and rounding.
        folder: where; it must not exist yet.
        progress: shows how far the work is.

    Returns:
        What was written; its sizes were computed before the first weight was rounded.
    """
    job = _prepare(loaded, profile, plan, settings, progress)
    request = json.dumps({"manifest": job.manifest.model_dump(mode="json"), "rounding": profile.record.rounding})
    with open_resumable_writer(folder, request, [*job.shards, job.check]) as writer:
        _write_parts(job, writer, settings, progress)
        further = {**job.small_files, MANIFEST_FILE: job.manifest.text().encode()}
        writer.finish(further)
    return job.manifest


def _prepare(loaded: LoadedModel, profile: Profile, plan: Plan, settings: ApplySettings, progress: Progress) -> _Job:
    """Lay everything out."""
    structure = find_layers(loaded.model)
    profile.require_same_model(loaded.sha256, [layer.name for layer in structure.layers])
    backend = backend_named(settings.backend)
    formats = {layer: parse_format(target) for layer, target in plan.formats().items()}
    require_no_gguf_types(formats, settings.backend)
    unscaled = Contents(loaded, structure, formats, backend)
    backend.refuse(unscaled.layers)
    if unscaled.dtype is not torch.float32:
        validate_floats(unscaled.layers, loaded.sixteen_bit_format)
    method, token_ids = rounding_method(profile.record.rounding), torch.from_numpy(profile.rounding_token_ids)
    offered = [parse_format(target) for target in profile.record.formats]
    scale_inputs_for(method, loaded, structure, (token_ids, offered), progress)
    loaded.offload_replaced_weights()
    contents = Contents(loaded, structure, formats, backend)  # the parameters outside the layers may have been replaced
    store_in_sixteen_bits(contents)
    task = RoundingTask(loaded, structure, token_ids, {name: [target] for name, target in formats.items()}, method)
    shards = lay_out(contents.all_specs(), settings.largest_shard_bytes)
    check = _check_shard(structure.layers[-1].out_features, profile)
    plan_text = plan.model_dump_json(indent=1).encode() + b"\n"
    small_files = contents.files() | {
        PLAN_FILE: plan_text,
        CARD_FILE: model_card(plan, contents.layers, settings.backend, settings.inputs).encode(),
        **{name: text.encode() for name, text in index_file(shards).items()},
    }
    sizes = {shard.file_name: shard.num_bytes for shard in [*shards, check]}
    manifest = Manifest(
        scantling_version=__version__,
        backend=settings.backend,
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        plan_sha256=hashlib.sha256(plan_text).hexdigest(),
        rounding_inputs=settings.inputs,
        float_dtype=str(contents.dtype).removeprefix("torch."),
        num_blocks=structure.num_blocks,
        plan_bytes=plan.stored_bytes,
        tensor_bytes=sum(shard.tensor_bytes for shard in shards),
        files=sizes | {name: len(content) for name, content in small_files.items()},
    )
    return _Job(contents, task, shards, check, small_files, manifest)


def require_no_gguf_types(formats: Mapping[str, Format], backend: str) -> None:
    """Refuse a plan for llama.cpp, which only ``fake`` can write as a folder.

    Args:
        formats: by layer.
        backend: its name.

    Raises:
        ScantlingError: a layer has a type of GGUF.
    """
    for layer, target in formats.items():
        if isinstance(target, GgufFormat) and backend != "fake":
            raise ScantlingError(
                f"{layer} is {target.name} in this plan, a type of llama.cpp. Use --backend gguf, or --backend fake."
            )


def _check_shard(vocabulary: int, profile: Profile) -> Shard:
    num_tokens = min(CHECK_TOKENS, profile.rounding_token_ids.shape[1])

    return Shard(
        CHECK_FILE,
        {
            "token_ids": TensorSpec(torch.int64, (num_tokens,)),
            "logits": TensorSpec(torch.float32, (min(CHECK_POSITIONS, num_tokens), vocabulary)),
            **{f"{NOISE}{name}": TensorSpec(torch.float32, ()) for name in NARROW_TYPES},
        },
    )


def _write_parts(job: _Job, writer: ResumableWriter, settings: ApplySettings, progress: Progress) -> None:
    """Round, pack and write what is not on the disk yet, and compute the logits that the checkpoint should give."""
    done = writer.finished_pieces()
    if OTHERS not in done:
        writer.write_piece(OTHERS, job.contents.pack_others())

    def finished(part: int) -> dict[str, Rounded] | None:
        if part not in done:
            return None
        return job.contents.unpack(part, writer.files.read(job.contents.specs(part)))

    for part, records in round_in_order(job.task, progress, inputs=settings.inputs, finished=finished):
        if part not in done:
            writer.write_piece(part, job.contents.pack(part, records))
        job.task.loaded.offload_replaced_weights()
    writer.files.write(_check_tensors(job))


def _check_tensors(job: _Job) -> dict[str, Tensor]:
    """Run the plan as it lies in memory on a few tokens, in float32 and with the roundings of narrower types."""
    model, num_positions = job.task.loaded.model, job.check.specs["logits"].shape[0]
    sequence = job.task.token_ids[0, : job.check.specs["token_ids"].shape[0]].clone()
    with torch.no_grad():
        logits = model(sequence.unsqueeze(0), use_cache=False).logits[0]
    noise = {
        f"{NOISE}{name}": torch.tensor(arithmetic_noise(model, sequence, FLOAT_DTYPES[name], num_positions))
        for name in NARROW_TYPES
    }
    return {"token_ids": sequence, "logits": logits[-num_positions:].float().contiguous(), **noise}
