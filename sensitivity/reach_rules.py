"""What a plan must respect of experts whose price is not known: none of them is coarser than a sibling whose price is.

An expert that calibration reached rarely or never has prices near zero, and a program that believed them would give it
the coarsest format. So it gets at least as many bits as each of its siblings, which were measured; where no sibling
was, the most that it is offered:

    bits(u) ≥ bits(v)    for every rarely reached expert u and every other expert v of the same block and kind

Knows nothing about how tokens are counted.
"""

from collections import defaultdict

from ..solver.rules import Allow, Order
from .asked import Statement
from .layers_of import Layers
from .reach import FEWEST_TOKENS, kind_of_siblings

ORIGIN = "profile"
_NAME = f"experts reached by fewer than {FEWEST_TOKENS} calibration tokens"


def reach_statements(layers: Layers) -> list[Statement]:
    """State what rarely reached experts ask.

    Args:
        layers: of the profile.

    Returns:
        A statement for those with siblings that were measured, and one for the others, where there are such.
    """
    siblings: dict[tuple[int | None, str], list[int]] = defaultdict(list)
    for index, layer in enumerate(layers.records):
        if layer.reach is not None and layers.is_decided(index):
            siblings[layer.block, kind_of_siblings(layer.kind)].append(index)
    pairs: list[tuple[int, int]] = []
    finest: dict[int, tuple[int, ...]] = {}
    for members in siblings.values():
        rare = rarely_reached(layers, members)
        measured = [index for index in members if index not in rare]
        pairs += [(finer, coarser) for finer in rare for coarser in measured]
        if not measured:
            finest |= {index: _finest(layers, index) for index in rare}
    statements = []
    if pairs:
        says = "at least as fine as every sibling that was measured"
        concerned = tuple(sorted({unit for pair in pairs for unit in pair}))
        statements.append(Statement(_NAME, ORIGIN, says, concerned, (Order(_NAME, tuple(pairs), ORIGIN),)))
    if finest:
        name = f"{_NAME}, no sibling measured"
        rule = Allow(name, tuple(finest.items()), ORIGIN)
        statements.append(Statement(name, ORIGIN, "as fine as offered", tuple(finest), (rule,)))
    return statements


def rarely_reached(layers: Layers, indices: list[int]) -> list[int]:
    """Pick the layers that calibration reached too rarely for a price.

    Args:
        layers: of the profile.
        indices: some of them.

    Returns:
        Those that are rare.
    """
    return [index for index in indices if (reach := layers.records[index].reach) is not None and reach.is_rare]


def _finest(layers: Layers, index: int) -> tuple[int, ...]:
    """Find the positions of a layer's widest formats."""
    bits = [layers.bits_of[name] for name in layers.formats[index]]
    return tuple(position for position, width in enumerate(bits) if width == max(bits))
