"""Rows that users bring: linear rows by number, and resident bytes on each of several devices.

Knows nothing about limits.
"""

from collections.abc import Sequence
from fractions import Fraction

from ..common.errors import InputError
from ..common.patterns import matching
from ..common.units import BYTES, exact_number
from ..hardware.resources import ROW_OF, Rows, validate_range
from ..solver.instance import LOSS, Row
from .constraints.rules import DevicesRule, LinearRule
from .layer_table import LayerTable


def linear_row(layers: LayerTable, rule: LinearRule, name: str) -> tuple[Row, tuple[int, ...]]:
    """Make a row of coefficients by number, exactly: its step is the power of ten of their last digit.

    Args:
        layers: of the profile.
        rule: its terms.
        name: of the row.

    Returns:
        The row, and the layers that add to it.

    Raises:
        InputError: a term matches nothing, the name is taken, or the numbers span more digits than 64 bits hold.
    """
    if name == LOSS or name in ROW_OF:
        raise InputError(f"the row {name!r} exists already. Give another name.")
    amounts = [[Fraction(0)] * len(formats) for formats in layers.formats]
    known = layers.profile.record.formats
    concerned: set[int] = set()
    for term in rule.linear:
        added = exact_number(term.add)
        wanted = set(known) if term.formats is None else {
            known[index] for index in matching(term.formats, known, "format of the profile")
        }  # fmt: skip
        if term.bits is not None:
            wanted = {offer for offer in wanted if layers.bits_of[offer] == term.bits}
        touched = False
        for index in layers.matched(term.layers):
            for position, offer in enumerate(layers.formats[index]):
                if offer in wanted:
                    amounts[index][position] += added
                    concerned.add(index)
                    touched = True
        if not touched or not added:
            raise InputError(
                f"the term on {', '.join(term.layers)} has no effect: "
                + ("it adds 0." if touched else "no layer there is offered such a format.")
                + " Correct or remove it."
            )
    scale = 1
    while any((amount * scale).denominator > 1 for unit in amounts for amount in unit):
        scale *= 10  # decimal numbers, so it ends
    whole = tuple(tuple(int(amount * scale) for amount in unit) for unit in amounts)
    return validate_range(Row(name, "", whole, 0, 1 / scale)), tuple(sorted(concerned))


def part_rows(layers: LayerTable, rows: Rows, rule: DevicesRule) -> list[Row]:
    """Make a row of resident bytes for each device that holds some blocks.

    A device holds the matrices and the KV cache of its blocks; the first also the embedding, the last the head, and a
    matrix that is both lies on both. The profile does not say which norms and biases belong to which block: each device
    is charged with all of them, which is little, and with the activations.

    Args:
        layers: of the profile.
        rows: of the profile, for the KV cache.
        rule: the devices.

    Returns:
        One row a device.

    Raises:
        InputError: a block lies on no device or on two, or two devices share a name.
    """
    num_blocks = 1 + max((layer.block for layer in layers.records if layer.block is not None), default=-1)
    names = [part.name or f"device {index}" for index, part in enumerate(rule.devices)]
    if len(set(names)) < len(names):
        raise InputError(f"two devices are called {max(names, key=names.count)!r}. Name each differently.")
    owners: dict[int, int] = {}
    for device, part in enumerate(rule.devices):
        if part.block_range.stop > num_blocks:
            raise InputError(
                f"{names[device]} holds the blocks {part.blocks}; the model has the blocks 0..{num_blocks - 1}."
            )
        for block in part.block_range:
            if block in owners:
                raise InputError(
                    f"block {block} lies on {names[owners[block]]} and on {names[device]}. Give it to one."
                )
            owners[block] = device
    missing = [block for block in range(num_blocks) if block not in owners]
    if missing:
        raise InputError(f"block {missing[0]} lies on no device; the model has the blocks 0..{num_blocks - 1}.")
    cache = _cache_by_block(rows, num_blocks)
    fixed = layers.profile.record.other_bytes + rows.activations
    return [_part_row(layers, names[device], device, owners, cache, fixed) for device in range(len(names))]


def _cache_by_block(rows: Rows, num_blocks: int) -> Sequence[int]:
    cache = rows.kv_cache_by_block
    if len(cache) == num_blocks:
        return cache
    if len(cache) > 1:
        raise InputError(
            f"the model's config has {len(cache)} blocks, the profile {num_blocks}: the KV cache cannot be dealt out. "
            "Give kv_cache in the workload."
        )
    return [-(-sum(cache) // num_blocks)] * num_blocks  # given as a total: split evenly


def _part_row(
    layers: LayerTable, name: str, device: int, owners: dict[int, int], cache: Sequence[int], fixed: int
) -> Row:
    first, last = owners[0], owners[max(owners)]
    kinds = {layer.kind for layer in layers.records}
    amounts = []
    for layer in layers.records:
        if layer.block is not None:
            here = owners[layer.block] == device
        elif layer.kind == "embedding":
            here = device == first or ("head" not in kinds and device == last)
        else:
            here = device == last
        amounts.append(layer.stored_bytes if here else (0,) * len(layer.stored_bytes))
    fixed += sum(size for block, size in enumerate(cache) if owners[block] == device)
    return validate_range(Row(f"resident_bytes on {name}", BYTES, tuple(amounts), fixed))
