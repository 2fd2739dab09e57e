"""Final rounding of one assignment, block by block from the first to the last.

By then every layer's format is known, so a layer can be rounded against the inputs that it will really have: those that
the quantized layers before it give (Frantar et al. 2022 round this way). Inside a block the layers are taken in the
order in which they run: q, k, v; then what they feed; and so on. The profile cannot do this, since it prices every
format of a layer before any is chosen: its prices are of rounding against the original inputs.

Knows nothing about losses or files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.grid import Rounded
from ..backends.layers import Layer, blocks_of, install_matrix
from ..backends.progress import Progress
from ..solver.errors import ScantlingError
from .block_inputs import collect_moments, stages
from .capture import BlockCall, run_block
from .entering import enter_blocks
from .rounding_pass import RoundingTask, refuse_illegal_groups, round_ends, round_group
from .walk import InputGroup

QUANTIZED_INPUTS = "quantized"
ORIGINAL_INPUTS = "original"
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
        inputs: ``quantized`` or ``original``: what a layer is rounded against.
        finished: gives the records of a unit that an earlier run has rounded, or None.

    Yields:
        The number of a unit, and its records by layer.
    """
    refuse_unknown_inputs(inputs)
    model, anatomy = task.loaded.model, task.anatomy
    refuse_illegal_groups(anatomy.layers, task.formats)
    embedding, *head = [layer for layer in anatomy.layers if layer.block is None]
    blocks = blocks_of(model, anatomy)
    original_head = {} if inputs == QUANTIZED_INPUTS else _round_end(task, head, progress)
    calls = enter_blocks(model, anatomy, task.token_ids) if inputs == ORIGINAL_INPUTS else []
    records = finished(0) or _round_end(task, [embedding], progress)
    _install(model, records)
    yield 0, records
    calls = calls or enter_blocks(model, anatomy, task.token_ids)
    for index in progress(list(range(len(blocks))), "final rounding"):
        layers = [layer for layer in anatomy.layers if layer.block == index]
        records, leaving = _round_block(task, blocks[index], layers, calls[index], (inputs, finished(index + 1)))
        calls[index] = []
        if index + 1 < len(blocks):
            entering = zip(calls[index + 1], leaving, strict=True)
            calls[index + 1] = [replace(call, hidden=hidden) for call, hidden in entering]
        yield index + 1, records
    if head:
        records = finished(len(blocks) + 1) or original_head or _round_end(task, head, progress)
        _install(model, records)
        yield len(blocks) + 1, records


def _round_end(task: RoundingTask, layers: Sequence[Layer], progress: Progress) -> Records:
    """Round the embedding or the head against what the model, as it stands, gives the head."""
    rounded = round_ends(replace(task, anatomy=replace(task.anatomy, layers=tuple(layers))), progress)
    return {name: _only(records) for name, records in rounded.items()}


def _round_block(
    task: RoundingTask,
    block: nn.Module,
    layers: Sequence[Layer],
    calls: Sequence[BlockCall],
    how: tuple[str, Records | None],
) -> tuple[Records, list[Tensor]]:
    """Round a block, or take its finished records, and install them; also give the hidden states that leave it."""
    inputs, finished = how
    if inputs == ORIGINAL_INPUTS:
        records = finished or _round_stage(task, block, layers, calls)
        leaving = _leave(block, calls)
        _install(task.loaded.model, records)
        return records, leaving
    records = finished or _round_stage_by_stage(task, block, layers, calls)
    _install(task.loaded.model, records)
    return records, _leave(block, calls)


def refuse_unknown_inputs(inputs: str) -> None:
    """Refuse a word that is neither kind of inputs.

    Args:
        inputs: the user's word.

    Raises:
        ScantlingError: it is neither.
    """
    if inputs not in {QUANTIZED_INPUTS, ORIGINAL_INPUTS}:
        raise ScantlingError(
            f"{inputs!r} is not a kind of inputs to round against. Known: {QUANTIZED_INPUTS}, {ORIGINAL_INPUTS}."
        )


def _only(records: Mapping[Any, Rounded]) -> Rounded:
    (record,) = records.values()
    return record


def _install(model: nn.Module, records: Records) -> None:
    for name, record in records.items():
        install_matrix(model.get_submodule(name), record.dequantize())


def _leave(block: nn.Module, calls: Sequence[BlockCall]) -> list[Tensor]:
    with torch.no_grad():
        return [run_block(block, call, call.hidden) for call in calls]


def _round_stage(task: RoundingTask, block: nn.Module, layers: Sequence[Layer], calls: Sequence[BlockCall]) -> Records:
    """Round layers against what they are given now."""
    records: Records = {}
    for moment in collect_moments(block, layers, calls):
        group = InputGroup(moment.layers, moment.hessian(), moment.total[:0], {}, [])
        records |= {name: _only(of_layer) for name, of_layer in round_group(task, group).items()}
    return records


def _round_stage_by_stage(
    task: RoundingTask, block: nn.Module, layers: Sequence[Layer], calls: Sequence[BlockCall]
) -> Records:
    """Round a block's layers in the order in which they run, each stage against what the rounded ones give it."""
    records: Records = {}
    for stage in stages(block, layers, calls):
        rounded = _round_stage(task, block, stage, calls)
        _install(task.loaded.model, rounded)
        records |= rounded
    return records
