"""Checkpoint folders: safetensors files that are filled a piece at a time, and the small files beside them.

Knows nothing about any format: those are ``FolderFormat`` objects.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from .. import __version__
from ..common.errors import InputError
from ..common.files import require_absent, require_writable
from ..common.progress import Progress
from ..models.layers import Layer, ModelStructure, find_layers
from ..planning.plan import Plan
from ..quantization.formats import Format, parse_format
from ..quantization.gguf_types import GgufFormat
from ..quantization.methods import rounding_method
from ..sensitivity.profile import Profile
from ..sensitivity.round_model import RoundingTask, scale_inputs_for
from ..sensitivity.sequential_rounding import QUANTIZED_INPUTS, validate_inputs
from .arithmetic_noise import arithmetic_noise
from .contents import OTHERS, Contents, store_in_sixteen_bits
from .folder_format import FLOAT_DTYPES, FolderFormat, FormattedLayer, TensorSpec, validate_floats
from .folder_manifest import CARD_FILE, CHECK_FILE, MANIFEST_FILE, NARROW_TYPES, NOISE, PLAN_FILE, FolderManifest
from .manifest import Manifest
from .model_card import model_card
from .resumable_writer import ResumableWriter, open_resumable_writer
from .shards import Shard, index_file, lay_out
from .writer import ApplyJob, ApplySettings, Records, formats_of

CHECK_TOKENS: Final = 64
CHECK_POSITIONS: Final = 8


@dataclass(frozen=True)
class FolderWriter:
    """Writes folders of one format."""

    format: FolderFormat
    default_inputs: str = QUANTIZED_INPUTS
    options: frozenset[str] = frozenset()
    streams_weights: bool = True

    @property
    def name(self) -> str:
        """The format's."""
        return self.format.name

    @property
    def engines(self) -> tuple[str, ...]:
        """The format's."""
        return self.format.engines

    def validate(self, plan: Plan, profile: Profile, settings: ApplySettings, output: Path) -> None:
        """Refuse what names, shapes and formats tell before the model is loaded.

        Raises:
            InputError: the format cannot express the plan, or ``settings.inputs`` is not a kind of inputs.
            StorageError: the output exists, or cannot be written.
        """
        validate_inputs(settings.inputs or self.default_inputs)
        require_absent(output)
        require_writable(output, 0)
        formats = formats_of(plan)
        require_no_gguf_types(formats, self.name)
        layers = [
            Layer(record.name, record.kind, record.block, record.out_features, record.in_features)
            for record in profile.record.layers
        ]
        if not any("experts." in layer.kind for layer in layers):  # how experts are kept, only the model tells
            self.format.validate([FormattedLayer(layer, formats[layer.name]) for layer in layers])

    @contextmanager
    def open(self, job: ApplyJob, progress: Progress) -> Iterator["OpenFolder"]:
        """Lay the folder out to the last byte, or take up where a stopped run of the same request ended.

        Yields:
            The checkpoint; what is written of it is kept when the block ends by an error.
        """
        laid_out = _lay_out(job, self.format, progress)
        request = json.dumps({
            "manifest": laid_out.manifest.model_dump(mode="json"),
            "rounding": job.profile.record.rounding,
        })
        with open_resumable_writer(job.output, request, [*laid_out.shards, laid_out.check]) as writer:
            done = frozenset(writer.finished_pieces())
            if OTHERS not in done:
                writer.write_piece(OTHERS, laid_out.contents.pack_others())
            yield OpenFolder(laid_out, writer, done)


@dataclass(frozen=True)
class _LaidOut:
    """All that is known before the first weight is rounded."""

    contents: Contents
    task: RoundingTask
    shards: list[Shard]
    check: Shard
    small_files: dict[str, bytes]
    manifest: FolderManifest


@dataclass(frozen=True)
class OpenFolder:
    """A folder that is being filled.

    Attributes:
        laid_out: what goes where.
        writer: of the shards.
        done: the pieces that an earlier run has written.
    """

    laid_out: _LaidOut
    writer: ResumableWriter
    done: frozenset[int]

    @property
    def task(self) -> RoundingTask:
        """What is rounded, in which formats."""
        return self.laid_out.task

    def finished(self, piece: int) -> Records | None:
        """Read a piece that an earlier run has written; None where it has not."""
        if piece not in self.done:
            return None
        contents = self.laid_out.contents
        return contents.unpack(piece, self.writer.files.read(contents.specs(piece)))

    def write(self, piece: int, records: Records) -> None:
        """Pack and write a piece, unless an earlier run has."""
        if piece not in self.done:
            self.writer.write_piece(piece, self.laid_out.contents.pack(piece, records))
        self.task.loaded.offload_replaced_weights()

    def finish(self) -> Manifest:
        """Write what the check expects and the small files, and move the folder to its place."""
        manifest = self.laid_out.manifest
        self.writer.files.write(_check_tensors(self.laid_out))
        self.writer.finish({**self.laid_out.small_files, MANIFEST_FILE: manifest.text().encode()})
        return manifest


def require_no_gguf_types(formats: Mapping[str, Format], backend: str) -> None:
    """Refuse types of GGUF, which only ``fake`` can write as a folder.

    Raises:
        InputError: a layer has one.
    """
    for layer, target in formats.items():
        if isinstance(target, GgufFormat) and backend != "fake":
            raise InputError(
                f"the plan has {layer} in {target.name}, a type of llama.cpp. Use --backend gguf, or --backend fake."
            )


def _lay_out(job: ApplyJob, folder_format: FolderFormat, progress: Progress) -> _LaidOut:
    structure = find_layers(job.loaded.model)
    job.profile.require_same_model(job.loaded.sha256, [layer.name for layer in structure.layers])
    contents, task = _rounding_task(job, structure, folder_format, progress)
    shards = lay_out(contents.all_specs(), job.settings.largest_shard_bytes)
    check = _check_shard(structure.layers[-1].out_features, job.profile)
    plan_text = job.plan.model_dump_json(indent=1).encode() + b"\n"
    small_files = contents.files() | {
        PLAN_FILE: plan_text,
        CARD_FILE: model_card(job.plan, contents.layers, folder_format, job.inputs).encode(),
        **{name: text.encode() for name, text in index_file(shards).items()},
    }
    sizes = {shard.file_name: shard.num_bytes for shard in [*shards, check]}
    manifest = FolderManifest(
        scantling_version=__version__,
        backend=folder_format.name,
        model_source=job.loaded.source,
        model_sha256=job.loaded.sha256,
        plan_sha256=hashlib.sha256(plan_text).hexdigest(),
        rounding_inputs=job.inputs,
        float_dtype=str(contents.dtype).removeprefix("torch."),
        num_blocks=structure.num_blocks,
        plan_bytes=job.plan.stored_bytes,
        tensor_bytes=sum(shard.tensor_bytes for shard in shards),
        files=sizes | {name: len(content) for name, content in small_files.items()},
    )
    return _LaidOut(contents, task, shards, check, small_files, manifest)


def _rounding_task(
    job: ApplyJob, structure: ModelStructure, folder_format: FolderFormat, progress: Progress
) -> tuple[Contents, RoundingTask]:
    """Refuse what only the model tells, then scale its inputs where the rounding method wants that."""
    loaded, record, formats = job.loaded, job.profile.record, job.formats
    require_no_gguf_types(formats, folder_format.name)
    unscaled = Contents(loaded, structure, formats, folder_format)
    folder_format.validate(unscaled.layers)
    if unscaled.dtype is not torch.float32:
        validate_floats(unscaled.layers, loaded.sixteen_bit_format)
    method, token_ids = rounding_method(record.rounding), torch.from_numpy(job.profile.rounding_token_ids)
    offered = [parse_format(target) for target in record.formats]
    scale_inputs_for(method, loaded, structure, token_ids, offered, progress)
    loaded.offload_replaced_weights()
    # parameters outside the layers may have been replaced by now
    contents = Contents(loaded, structure, formats, folder_format)
    store_in_sixteen_bits(contents)
    wanted = {name: [target] for name, target in formats.items()}
    return contents, RoundingTask(loaded, structure, token_ids, wanted, method)


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


def _check_tensors(laid_out: _LaidOut) -> dict[str, Tensor]:
    """Run the plan as it lies in memory on a few tokens, in float32 and with the roundings of narrower types."""
    model, num_positions = laid_out.task.loaded.model, laid_out.check.specs["logits"].shape[0]
    sequence = laid_out.task.token_ids[0, : laid_out.check.specs["token_ids"].shape[0]].clone()
    with torch.no_grad():
        logits = model(sequence.unsqueeze(0), use_cache=False).logits[0]
    noise = {
        f"{NOISE}{name}": torch.tensor(arithmetic_noise(model, sequence, FLOAT_DTYPES[name], num_positions))
        for name in NARROW_TYPES
    }
    return {"token_ids": sequence, "logits": logits[-num_positions:].float().contiguous(), **noise}
