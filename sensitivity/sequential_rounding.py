"""The final rounding of one assignment, block by block from the first to the last.

By now every layer's format is known, so a layer can be rounded against the inputs x̂ that it will really have: those
from the quantized layers before it (as in Frantar et al. 2022). Inside a block the layers are taken in the order in
which they run: q, k, v; then the layer that they feed; and so on. The profile cannot do this, since it prices every
format of a layer before any is chosen: its prices are for rounding against the original inputs x.

A layer can also compensate for errors of the layers before it, by giving on x̂ the outputs that the original gives on x
(the aim of Li et al. 2025, arXiv 2504.02692, reached here in another way). Since

    E ‖Ŵx̂ − Wx‖² = E ‖(Ŵ − W*) x̂‖² + a constant,        W* = W + W E[(x − x̂) x̂ᵀ] E[x̂ x̂ᵀ]⁻¹,

it suffices to round W* in place of W. The inverse is damped by a share of the mean diagonal, which pulls W* towards W.

Knows nothing about losses or files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.progress import Progress
from ..models.layers import Layer, blocks_of, install_matrix, matrix_of
from ..models.loading import LoadedModel
from ..quantization.formats import FloatFormat, parse_format
from ..quantization.gptq import without_dead_inputs
from ..quantization.grid import Rounded
from .calibration.backward_pass import InputGroup
from .calibration.block_inputs import InputCovariance, input_covariances, inputs_of, stages
from .calibration.capture import BlockCall, enter_blocks, run_block
from .profile import Profile
from .round_model import RoundingTask, profiled_task, round_assignments, round_ends, round_group, validate_groups

ORIGINAL_INPUTS = "original"
QUANTIZED_INPUTS = "quantized"
CORRECTED_INPUTS = "corrected"
CORRECTION_DAMPING = 0.05
Records = dict[str, Rounded]
Finished = Callable[[int], Records | None]


def nothing_finished(_unit: int) -> Records | None:
    """Say that no unit was rounded before."""
    return None


def round_in_order(
    task: RoundingTask, progress: Progress, *, inputs: str = QUANTIZED_INPUTS, finished: Finished = nothing_finished
) -> Iterator[tuple[int, Records]]:
    """Round a model with one format a layer; the quantized values stay in the model.

    The embedding is unit 0, the blocks are units 1 to n, and a head that is not tied to the embedding is unit n + 1.

    Args:
        task: what to round, with one format a layer; its model is changed.
        progress: shows how far the pass is.
        inputs: what layers are rounded against: ``original`` inputs; ``quantized`` ones; or ``corrected``, quantized
            inputs with the outputs of the original model as the target.
        finished: gives the records of a unit that an earlier run rounded, else None.

    Yields:
        The number of each unit with its records by layer.
    """
    validate_inputs(inputs)
    model, structure = task.loaded.model, task.structure
    validate_groups(structure.layers, task.formats)
    embedding, *head = [layer for layer in structure.layers if layer.block is None]
    blocks = blocks_of(model, structure)
    original_head = _round_end(task, head, progress) if inputs == ORIGINAL_INPUTS else {}
    original = [] if inputs == QUANTIZED_INPUTS else enter_blocks(model, structure, task.token_ids)
    records = finished(0) or _round_end(task, [embedding], progress)
    _install(model, records)
    yield 0, records
    quantized = [] if inputs == ORIGINAL_INPUTS else enter_blocks(model, structure, task.token_ids)
    for index in progress(list(range(len(blocks))), "final rounding"):
        layers = [layer for layer in structure.layers if layer.block == index]
        streams = _Streams(original[index] if original else None, quantized[index] if quantized else None)
        records, leaving = _round_block(task, blocks[index], layers, streams, finished(index + 1))
        _advance(original, index, leaving.original)
        _advance(quantized, index, leaving.quantized)
        yield index + 1, records
    if head:
        records = finished(len(blocks) + 1) or original_head or _round_end(task, head, progress)
        _install(model, records)
        yield len(blocks) + 1, records


def round_as_shipped(
    loaded: LoadedModel,
    profile: Profile,
    assignments: Mapping[str, Mapping[str, str]],
    inputs: str,
    progress: Progress,
) -> dict[str, Records]:
    """Round a model as its checkpoint is written, for several assignments by name; the model keeps its own values."""
    validate_inputs(inputs)
    if inputs == ORIGINAL_INPUTS:
        return round_assignments(loaded, profile, assignments, progress)
    task = profiled_task(loaded, profile, {}, progress)
    modules = {layer.name: loaded.model.get_submodule(layer.name) for layer in task.structure.layers}
    own = {name: matrix_of(module) for name, module in modules.items()}
    rounded: dict[str, Records] = {}
    for name, formats in assignments.items():
        wanted = {layer: [parse_format(target)] for layer, target in formats.items()}
        try:
            parts = [records for _, records in round_in_order(replace(task, formats=wanted), progress, inputs=inputs)]
        finally:
            for layer, module in modules.items():
                install_matrix(module, own[layer])
        rounded[name] = {layer: record for records in parts for layer, record in records.items()}
    return rounded


def _round_end(task: RoundingTask, layers: Sequence[Layer], progress: Progress) -> Records:
    """Round the embedding or the head against the head's inputs in the model as it is now."""
    rounded = round_ends(replace(task, structure=replace(task.structure, layers=tuple(layers))), progress)
    return {name: _only(records) for name, records in rounded.items()}


@dataclass(frozen=True)
class _Streams:
    """The calls of a block in the original and in the quantized model; None for one that is not followed."""

    original: list[BlockCall] | None
    quantized: list[BlockCall] | None


def _advance(calls: list[list[BlockCall]], index: int, leaving: Sequence[BlockCall] | None) -> None:
    """Pass the hidden states that leave a block to the next one, and drop the block's calls."""
    if leaving is None:
        return
    calls[index] = []
    if index + 1 < len(calls):
        entering = zip(calls[index + 1], leaving, strict=True)
        calls[index + 1] = [replace(call, hidden=before.hidden) for call, before in entering]


def _round_block(
    task: RoundingTask, block: nn.Module, layers: Sequence[Layer], streams: _Streams, finished: Records | None
) -> tuple[Records, _Streams]:
    """Round a block, or take its finished records, and install them; also give its outputs."""
    seen = _leave(block, streams.original)
    if streams.quantized is None:
        records = finished or _round_stage(task, block, layers, streams.original or [])
    else:
        originals = None
        if streams.original is not None and finished is None:
            originals = [inputs_of(block, layers, call) for call in streams.original]
        records = finished or _round_stage_by_stage(task, block, layers, streams.quantized, originals)
    _install(task.loaded.model, records)
    return records, _Streams(seen, _leave(block, streams.quantized))


def validate_inputs(inputs: str) -> None:
    """Refuse an unknown kind of inputs to round against."""
    known = (CORRECTED_INPUTS, QUANTIZED_INPUTS, ORIGINAL_INPUTS)
    if inputs not in known:
        raise InputError(f"{inputs!r} is not a kind of inputs to round against. Known: {', '.join(known)}.")


def _only(records: Mapping[Any, Rounded]) -> Rounded:
    (record,) = records.values()
    return record


def _install(model: nn.Module, records: Records) -> None:
    for name, record in records.items():
        install_matrix(model.get_submodule(name), record.dequantize())


def _leave(block: nn.Module, calls: Sequence[BlockCall] | None) -> list[BlockCall] | None:
    if calls is None:
        return None
    with torch.no_grad():
        return [replace(call, hidden=run_block(block, call, call.hidden)) for call in calls]


def _round_stage(
    task: RoundingTask,
    block: nn.Module,
    layers: Sequence[Layer],
    calls: Sequence[BlockCall],
    originals: Sequence[Mapping[Layer, Tensor]] | None = None,
) -> Records:
    """Round layers against their present inputs, towards their original outputs where shifts are known."""
    records: Records = {}
    for covariance in input_covariances(block, layers, calls, originals):
        if covariance.shift is not None:
            _aim_at_original_outputs(task, covariance)
        group = InputGroup(covariance.layers, covariance.hessian())
        records |= {name: _only(of_layer) for name, of_layer in round_group(task, group).items()}
    return records


def correction(covariance: InputCovariance, damping: float) -> Tensor:
    """Compute the correction C of W* = W + W · C.

    Args:
        covariance: of the layer's inputs, with their shift.
        damping: the share of the mean diagonal of E[x̂ x̂ᵀ] that is added to the diagonal, λI.

    Returns:
        E[(x − x̂) x̂ᵀ] (E[x̂ x̂ᵀ] + λI)⁻¹, float32 [in, in].
    """
    assert covariance.shift is not None
    hessian = without_dead_inputs(covariance.hessian())
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)
    factor = torch.linalg.cholesky(hessian)
    solved: Tensor = torch.cholesky_solve(covariance.shift.double().t() / covariance.num_tokens, factor)
    return solved.t().float()


def _aim_at_original_outputs(task: RoundingTask, covariance: InputCovariance) -> None:
    """Put W* into the layers that will be quantized; those that stay in 16 bits are unchanged."""
    factor = correction(covariance, CORRECTION_DAMPING)
    for layer in covariance.layers:
        if not any(isinstance(target, FloatFormat) for target in task.formats[layer.name]):
            matrix = task.matrix(layer)
            install_matrix(task.loaded.model.get_submodule(layer.name), matrix + matrix @ factor)


def _round_stage_by_stage(
    task: RoundingTask,
    block: nn.Module,
    layers: Sequence[Layer],
    calls: Sequence[BlockCall],
    originals: Sequence[Mapping[Layer, Tensor]] | None,
) -> Records:
    """Round a block's layers in the order in which they run, each stage with the rounded ones before it installed."""
    records: Records = {}
    for stage in stages(block, layers, calls):
        rounded = _round_stage(task, block, stage, calls, originals)
        _install(task.loaded.model, rounded)
        records |= rounded
    return records
