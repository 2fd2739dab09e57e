"""From a plan to a GGUF file for llama.cpp: every tensor in its planned type, written beside and renamed when whole.

Layers are rounded against the inputs of the original model, as llama-quantize rounds with an importance matrix; the
file's size is known to the byte before the first weight is rounded. Beside the file stands another one, for ``check``:
the log-probabilities that the plan in memory gives on a few tokens.

Knows nothing about the command line.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ... import __version__
from ...common.errors import InputError, StorageError
from ...common.files import file_sha256, require_writable, whole_file
from ...common.progress import Progress
from ...models.install import inputs_rounded
from ...models.layers import Layer, ModelStructure, find_layers, matrix_of
from ...models.loading import LoadedModel
from ...planning.plan import Plan
from ...quantization.formats import FloatFormat, Format
from ...quantization.ggml import PackedMatrix
from ...quantization.gguf_types import FLOAT_TYPES, GgufFormat
from ...quantization.grid import CastMatrix, Rounded
from ...quantization.imatrix import write_imatrix
from ...quantization.methods import rounding_method
from ...sensitivity.profile import Profile
from ...sensitivity.round_model import RoundingTask
from ...sensitivity.sequential_rounding import ORIGINAL_INPUTS
from ..arithmetic_noise import arithmetic_noise, relative_difference
from ..manifest import Manifest
from ..writer import ApplyJob, ApplySettings, Records, formats_of
from .layout import GgufLayout, fill_header, fill_tensor, lay_out_gguf
from .llama_quantize import command_line, tensor_types, validate_emission
from .sidecar import BACKEND, ENGINE, GgufSidecar, manifest_of, sidecar_path, write_sidecar
from .source import GgufSource, row_order, source_of

CHECK_TOKENS: Final = 256
CHECK_POSITIONS: Final = 8


@dataclass(frozen=True)
class GgufWriter:
    """Writes GGUF files."""

    name: str = BACKEND
    engines: tuple[str, ...] = (ENGINE,)
    default_inputs: str = ORIGINAL_INPUTS
    options: frozenset[str] = frozenset({"write_imatrix", "emit"})
    streams_weights: bool = False

    def validate(self, plan: Plan, profile: Profile, settings: ApplySettings, output: Path) -> None:
        """Refuse what can be refused before the model is loaded.

        Raises:
            InputError: other inputs than the original ones, integer formats, or a command that cannot be emitted.
            StorageError: the output exists, or cannot be written.
        """
        validate_emission(settings.emit, settings.write_imatrix, str(profile.record.rounding["method"]))
        if settings.inputs not in {None, ORIGINAL_INPUTS}:
            raise InputError(
                "the backend gguf rounds against original inputs, as llama-quantize does, not against "
                f"{settings.inputs!r} ones. Use --inputs original, or leave it out."
            )
        for layer, target in formats_of(plan).items():
            if not isinstance(target, GgufFormat | FloatFormat):
                raise InputError(
                    f"the plan has {layer} in {target.name}, which GGUF has no type for. Profile with GGUF types, such "
                    "as --formats IQ4_NL,Q5_0,Q8_0,float16."
                )
        for path in (output, sidecar_path(output)):
            if path.exists():
                raise StorageError(f"{path} exists already. Remove it or give another name.")
        require_writable(output, plan.stored_bytes)

    @contextmanager
    def open(self, job: ApplyJob, progress: Progress) -> Iterator["OpenGguf"]:
        """Lay the file out to the last byte, beside its place.

        Yields:
            The checkpoint; nothing is kept of it when the block ends by an error.
        """
        del progress
        with tempfile.TemporaryDirectory(dir=job.output.absolute().parent, prefix=".scantling-") as work:
            laid_out = _lay_out(job, Path(work))
            with whole_file(job.output) as partial, partial.open("wb") as opened:
                fill_header(laid_out.layout, opened)
                _copy_unplanned(laid_out, opened)
                yield OpenGguf(job, laid_out, opened)


@dataclass(frozen=True)
class _LaidOutFile:
    """All that is known before the first weight is rounded: the names and row orders are by layer."""

    source: GgufSource
    layout: GgufLayout
    names: Mapping[str, str]
    orders: Mapping[str, Tensor | None]
    task: RoundingTask


@dataclass(frozen=True)
class OpenGguf:
    """A GGUF file that is being filled.

    Attributes:
        job: what is written.
        laid_out: what goes where.
        opened: the file.
        importance: that tensors were rounded with, by tensor; grows with every piece.
    """

    job: ApplyJob
    laid_out: _LaidOutFile
    opened: BinaryIO
    importance: dict[str, Tensor] = field(default_factory=dict)

    @property
    def task(self) -> RoundingTask:
        """What is rounded, in which types."""
        return self.laid_out.task

    def finished(self, piece: int) -> Records | None:
        """Give None: nothing is kept of a file that was not finished."""
        del piece
        return None

    def write(self, piece: int, records: Records) -> None:
        """Write the tensors of a piece, with the file's order of rows."""
        del piece
        names, layout = self.laid_out.names, self.laid_out.layout
        for layer, record in records.items():
            fill_tensor(layout, self.opened, names[layer], _in_file_order(record, self.laid_out.orders[layer]))
            if isinstance(record, PackedMatrix) and record.importance is not None:
                self.importance[names[layer]] = record.importance

    def finish(self) -> Manifest:
        """Write the importance matrix, where it is wanted, and the file for ``check``."""
        job, layout = self.job, self.laid_out.layout
        self.opened.flush()
        self._write_imatrix()
        sequence = self.task.token_ids[0, :CHECK_TOKENS].clone()
        logits, noise = _logits_and_noise(job.loaded.model, sequence, job.formats)
        sidecar = GgufSidecar(
            scantling_version=__version__,
            model_source=job.loaded.source,
            model_sha256=job.loaded.sha256,
            plan_sha256=_plan_sha256(job.plan),
            architecture=self.laid_out.source.architecture,
            num_blocks=self.task.structure.num_blocks,
            plan_bytes=job.plan.stored_bytes,
            tensor_bytes=layout.tensor_bytes,
            file_bytes=layout.file_bytes,
            file_sha256=file_sha256(Path(self.opened.name)),
            negative_log_likelihood_nats=_negative_log_likelihood_nats(logits, sequence),
            arithmetic_noise=noise,
        )
        write_sidecar(job.output, sidecar, sequence, logits[-CHECK_POSITIONS:].contiguous())
        return manifest_of(job.output, sidecar).model_copy(update={"emitted": self._emitted()})

    def _write_imatrix(self) -> None:
        path, profile = self.job.settings.write_imatrix, self.job.profile
        if path is not None:
            num_sequences, num_tokens = profile.rounding_token_ids.shape
            write_imatrix(path, self.importance, num_sequences * num_tokens, num_tokens, profile.record.text_source)

    def _emitted(self) -> str | None:
        settings = self.job.settings
        if settings.emit is None or settings.write_imatrix is None:
            return None
        types = tensor_types(self.laid_out.layout)
        return command_line(types, self.job.output, settings.write_imatrix, self.job.loaded.source)


def _plan_sha256(plan: Plan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def plan_types(formats: Mapping[str, Format], names: Mapping[str, str]) -> dict[str, GGMLQuantizationType]:
    """Give every planned tensor its type.

    Args:
        formats: by layer.
        names: of the layers' tensors, by layer.

    Returns:
        The types by tensor.
    """
    return {
        names[layer]: GGMLQuantizationType(target.type_id)
        if isinstance(target, GgufFormat)
        else FLOAT_TYPES[target.name]
        for layer, target in formats.items()
    }


def _lay_out(job: ApplyJob, work: Path) -> _LaidOutFile:
    loaded, profile, formats = job.loaded, job.profile, job.formats
    structure = find_layers(loaded.model)
    profile.require_same_model(loaded.sha256, [layer.name for layer in structure.layers])
    source = source_of(loaded.source, work)
    names = source.names(structure)
    orders = {layer.name: _order(loaded, layer, source, names[layer.name]) for layer in structure.layers}
    about = {"scantling.version": __version__, "scantling.plan_sha256": _plan_sha256(job.plan)}
    layout = lay_out_gguf(source, plan_types(formats, names), _copies_of_embedding(structure, source), about)
    task = RoundingTask(
        loaded,
        structure,
        torch.from_numpy(profile.rounding_token_ids),
        {name: [target] for name, target in formats.items()},
        rounding_method(profile.record.rounding),
    )
    return _LaidOutFile(source, layout, names, orders, task)


def _order(loaded: LoadedModel, layer: Layer, source: GgufSource, name: str) -> Tensor | None:
    config = loaded.model.config
    heads = [getattr(config, key, None) or 0 for key in ("num_attention_heads", "num_key_value_heads")]
    return row_order(layer, matrix_of(loaded.model.get_submodule(layer.name)), source.matrix(name), heads)


def _copies_of_embedding(structure: ModelStructure, source: GgufSource) -> frozenset[str]:
    """Name the head of a tied model, which llama.cpp takes from the embedding where the file has none."""
    tied = any(layer.tied_name for layer in structure.layers)
    return frozenset({"output.weight"} & set(source.tensors)) if tied else frozenset()


def _copy_unplanned(laid_out: _LaidOutFile, opened: BinaryIO) -> None:
    planned = set(laid_out.names.values())
    for name in laid_out.layout.tensors:
        if name not in planned:
            fill_tensor(laid_out.layout, opened, name, laid_out.source.tensors[name].data)


def _in_file_order(record: Rounded, order: Tensor | None) -> NDArray[np.generic]:
    """Give a layer's bytes with the file's rows."""
    if isinstance(record, CastMatrix):
        rows = record.values.view(torch.int16)
    else:
        assert isinstance(record, PackedMatrix)
        rows = record.blocks
    return (rows if order is None else rows[order]).contiguous().numpy()


def _logits_and_noise(model: PreTrainedModel, sequence: Tensor, formats: Mapping[str, Format]) -> tuple[Tensor, float]:
    """Run the plan in memory with the inputs that llama.cpp multiplies, and without; its other sums are in 16 bits."""
    with torch.no_grad():
        exact = model(sequence.unsqueeze(0), use_cache=False).logits[0].float()
        with inputs_rounded(model, formats):
            rounded = model(sequence.unsqueeze(0), use_cache=False).logits[0].float()
    last = (np.asarray(logits[-CHECK_POSITIONS:].double().log_softmax(-1)) for logits in (rounded, exact))
    return rounded, relative_difference(*last) + arithmetic_noise(model, sequence, torch.float16, CHECK_POSITIONS)


def _negative_log_likelihood_nats(logits: Tensor, sequence: Tensor) -> float:
    log_probability = logits[:-1].log_softmax(-1).gather(1, sequence[1:, None])
    return -float(log_probability.mean(dtype=torch.float64))
