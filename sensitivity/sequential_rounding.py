"""Final rounding of one assignment, block by block from the first to the last.

By then every layer's format is known, so a layer can be rounded against the inputs x̂ that it will really have: those
that the quantized layers before it give (Frantar et al. 2022 round this way). Inside a block the layers are taken in
the order in which they run: q, k, v; then what they feed; and so on. The profile cannot do this, since it prices every
format of a layer before any is chosen: its prices are of rounding against the original inputs x.

Beyond that a layer can make up for what the layers before it spoiled, by giving on x̂ what the original gave on x (the
aim of Li et al. 2025, arXiv 2504.02692, reached here by another way). Since

    E ‖Ŵx̂ − Wx‖² = E ‖(Ŵ − W*) x̂‖² + a constant,        W* = W + W E[(x − x̂) x̂ᵀ] E[x̂ x̂ᵀ]⁻¹,

it is enough to round W* in place of W. The inverse is damped by a share of the mean diagonal, which draws W* to W.

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
    """Say that nothing has been rounded before."""
    return None


def round_in_order(
    task: RoundingTask, progress: Progress, *, inputs: str = QUANTIZED_INPUTS, finished: Finished = nothing_finished
) -> Iterator[tuple[int, Records]]:
    """Round a model in the one format that is wanted of each layer; the quantized values stay in the model.

    The embedding is unit 0, the blocks are units 1 to n, and a head that is not tied to the embedding is unit n + 1.

    Args:
        task: what is rounded, with one format a layer; its model is changed.
        progress: shows how far the pass is.
        inputs: what a layer is rounded against: ``original`` inputs; ``quantized`` ones; or, ``corrected``, quantized
            ones with the outputs of the original model as the aim.
        finished: gives the records of a unit that an earlier run has rounded, or None.

    Yields:
        The number of a unit, and its records by layer.
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
        _move_on(original, index, leaving.original)
        _move_on(quantized, index, leaving.quantized)
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
    """Round a model as ``apply`` does, for several assignments; the model keeps its own values."""
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
    """Round the embedding or the head against what the model, as it stands, gives the head."""
    rounded = round_ends(replace(task, structure=replace(task.structure, layers=tuple(layers))), progress)
    return {name: _only(records) for name, records in rounded.items()}


@dataclass(frozen=True)
class _Streams:
    """How a block is called in the original model and in the quantized one; None where that is not followed."""

    original: list[BlockCall] | None
    quantized: list[BlockCall] | None


def _move_on(calls: list[list[BlockCall]], index: int, leaving: Sequence[BlockCall] | None) -> None:
    """Let what leaves a block enter the next one, and forget the block's calls."""
    if leaving is None:
        return
    calls[index] = []
    if index + 1 < len(calls):
        entering = zip(calls[index + 1], leaving, strict=True)
        calls[index + 1] = [replace(call, hidden=before.hidden) for call, before in entering]


def _round_block(
    task: RoundingTask, block: nn.Module, layers: Sequence[Layer], streams: _Streams, finished: Records | None
) -> tuple[Records, _Streams]:
    """Round a block, or take its finished records, and install them; also give the hidden states that leave it."""
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
    """Refuse a word that is no kind of inputs.

    Args:
        inputs: the user's word.

    Raises:
        InputError: it is none.
    """
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
    """Round layers against what they are given now, and towards what they gave in the original model where known."""
    records: Records = {}
    for covariance in input_covariances(block, layers, calls, originals):
        if covariance.shift is not None:
            _aim_at_original_outputs(task, covariance)
        group = InputGroup(covariance.layers, covariance.hessian())
        records |= {name: _only(of_layer) for name, of_layer in round_group(task, group).items()}
    return records


def correction(covariance: InputCovariance, damping: float) -> Tensor:
    """Compute what is added to a matrix on the way from W to W*, as a factor: W* = W + W · correction.

    Args:
        covariance: of the layer's inputs, with their shift.
        damping: the share of the mean diagonal of E[x̂ x̂ᵀ] that is added to its diagonal.

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
    """Put W* into the layers that are to be integers; what stays in 16 bits stays what it is."""
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
    """Round a block's layers in the order in which they run, each stage against what the rounded ones give it."""
    records: Records = {}
    for stage in stages(block, layers, calls):
        rounded = _round_stage(task, block, stage, calls, originals)
        _install(task.loaded.model, rounded)
        records |= rounded
    return records
