"""From a plan to a GGUF file for llama.cpp: every tensor in its planned type, written beside and renamed when whole.

Layers are rounded against the inputs of the original model, as llama-quantize rounds with an importance matrix; the
file's size is known to the byte before the first weight is rounded. Beside the file stands another one, for ``check``:
the log-probabilities that the plan in memory gives on a few tokens.

Knows nothing about the command line.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from .. import __version__
from ..common.errors import ScantlingError
from ..common.files import file_sha256, require_writable, whole_file
from ..common.progress import Progress
from ..models.install import inputs_rounded
from ..models.layers import Layer, ModelStructure, find_layers, matrix_of
from ..models.loading import LoadedModel
from ..planning.plan import Plan
from ..quantization.formats import FloatFormat, Format, parse_format
from ..quantization.ggml import PackedMatrix
from ..quantization.gguf_types import FLOAT_TYPES, GgufFormat
from ..quantization.grid import CastMatrix, Rounded
from ..quantization.imatrix import write_imatrix
from ..quantization.methods import rounding_method
from ..sensitivity.profile import Profile
from ..sensitivity.round_model import RoundingTask
from ..sensitivity.sequential_rounding import ORIGINAL_INPUTS, round_in_order
from .arithmetic_noise import arithmetic_noise, relative_difference
from .gguf_layout import GgufLayout, fill_header, fill_tensor, lay_out_gguf
from .gguf_manifest import GgufManifest, check_path
from .gguf_source import GgufSource, row_order, source_of

GGUF_BACKEND = "gguf"
CHECK_TOKENS = 256
CHECK_POSITIONS = 8


@dataclass(frozen=True)
class _Job:
    """All that is known before the first weight is rounded."""

    source: GgufSource
    layout: GgufLayout
    names: dict[str, str]
    orders: dict[str, Tensor | None]
    task: RoundingTask


def validate_gguf_settings(plan: Plan, inputs: str, file: Path) -> None:
    """Refuse what can be refused before the model is loaded.

    Args:
        plan: the plan.
        inputs: what layers shall be rounded against.
        file: the output.

    Raises:
        ScantlingError: other inputs than the original ones, integer formats, or an output that exists already.
    """
    if inputs != ORIGINAL_INPUTS:
        raise ScantlingError(
            f"the backend gguf rounds against original inputs, as llama-quantize does, not {inputs!r} ones. "
            "Say --inputs original, or leave it out."
        )
    for layer, target in plan.formats().items():
        if not isinstance(parse_format(target), GgufFormat | FloatFormat):
            raise ScantlingError(
                f"{layer} is {target} in this plan, which GGUF has no type for. Profile with types of GGUF, such as "
                "--formats IQ4_NL,Q5_0,Q8_0,float16."
            )
    for path in (file, check_path(file)):
        if path.exists():
            raise ScantlingError(f"{path} exists already. Remove it or give another name.")
    require_writable(file, plan.stored_bytes)


def apply_gguf(
    loaded: LoadedModel, profile: Profile, plan: Plan, files: tuple[Path, Path | None], progress: Progress
) -> GgufManifest:
    """Write the GGUF file of a plan, whole or not at all.

    Args:
        loaded: the model; its weights become the quantized ones.
        profile: of this model.
        plan: solved from this profile.
        files: the file to write, and where its importance matrix shall go, if anywhere.
        progress: shows how far the work is.

    Returns:
        What was written.
    """
    file, imatrix = files
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".scantling-") as work:
        job = _prepare(loaded, profile, plan, Path(work))
        importance = _write_tensors(job, file, progress)
    if imatrix is not None:
        num_sequences, num_tokens = profile.rounding_token_ids.shape
        write_imatrix(imatrix, importance, num_sequences * num_tokens, num_tokens, profile.record.text_source)
    sequence = job.task.token_ids[0, :CHECK_TOKENS].clone()
    formats = {layer: parse_format(target) for layer, target in plan.formats().items()}
    logits, noise = _logits_and_noise(loaded.model, sequence, formats)
    manifest = GgufManifest(
        scantling_version=__version__,
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        plan_sha256=_plan_sha256(plan),
        architecture=job.source.architecture,
        num_blocks=job.task.structure.num_blocks,
        plan_bytes=plan.stored_bytes,
        tensor_bytes=job.layout.tensor_bytes,
        file_bytes=job.layout.file_bytes,
        file_sha256=file_sha256(file),
        negative_log_likelihood_nats=_negative_log_likelihood_nats(logits, sequence),
        arithmetic_noise=noise,
    )
    with whole_file(check_path(file)) as partial:
        tensors = {"token_ids": sequence, "logits": logits[-CHECK_POSITIONS:].contiguous()}
        save_file(tensors, partial, metadata={"scantling_gguf": manifest.model_dump_json()})
    return manifest


def _write_tensors(job: _Job, file: Path, progress: Progress) -> dict[str, Tensor]:
    """Round and write layer after layer; give the importance that each tensor was rounded with."""
    importance: dict[str, Tensor] = {}
    with whole_file(file) as partial, partial.open("wb") as opened:
        fill_header(job.layout, opened)
        _copy_others(job, opened)
        for _, records in round_in_order(job.task, progress, inputs=ORIGINAL_INPUTS):
            for layer, record in records.items():
                fill_tensor(job.layout, opened, job.names[layer], _in_file_order(record, job.orders[layer]))
                if isinstance(record, PackedMatrix) and record.importance is not None:
                    importance[job.names[layer]] = record.importance
    return importance


def plan_types(formats: Mapping[str, Format], names: Mapping[str, str]) -> dict[str, GGMLQuantizationType]:
    """Give every planned tensor its type.

    Args:
        formats: by layer.
        names: of the layers' tensors.

    Returns:
        The types by tensor.
    """
    return {
        names[layer]: GGMLQuantizationType(target.type_id)
        if isinstance(target, GgufFormat)
        else FLOAT_TYPES[target.name]
        for layer, target in formats.items()
    }


def _prepare(loaded: LoadedModel, profile: Profile, plan: Plan, work: Path) -> _Job:
    structure = find_layers(loaded.model)
    profile.require_same_model(loaded.sha256, [layer.name for layer in structure.layers])
    formats = {layer: parse_format(target) for layer, target in plan.formats().items()}
    source = source_of(loaded.source, work)
    names = source.names(structure)
    orders = {layer.name: _order(loaded, layer, source, names[layer.name]) for layer in structure.layers}
    about = {"scantling.version": __version__, "scantling.plan_sha256": _plan_sha256(plan)}
    layout = lay_out_gguf(source, plan_types(formats, names), _copies_of_embedding(structure, source), about)
    task = RoundingTask(
        loaded,
        structure,
        torch.from_numpy(profile.rounding_token_ids),
        {name: [target] for name, target in formats.items()},
        rounding_method(profile.record.rounding),
    )
    return _Job(source, layout, names, orders, task)


def _order(loaded: LoadedModel, layer: Layer, source: GgufSource, name: str) -> Tensor | None:
    config = loaded.model.config
    heads = [getattr(config, key, None) or 0 for key in ("num_attention_heads", "num_key_value_heads")]
    return row_order(layer, matrix_of(loaded.model.get_submodule(layer.name)), source.matrix(name), heads)


def _copies_of_embedding(structure: ModelStructure, source: GgufSource) -> frozenset[str]:
    """Name the head of a tied model, which llama.cpp takes from the embedding where the file has none."""
    tied = any(layer.tied_name for layer in structure.layers)
    return frozenset({"output.weight"} & set(source.tensors)) if tied else frozenset()


def _plan_sha256(plan: Plan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def _copy_others(job: _Job, opened: BinaryIO) -> None:
    planned = set(job.names.values())
    for name in job.layout.tensors:
        if name not in planned:
            fill_tensor(job.layout, opened, name, job.source.tensors[name].data)


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
