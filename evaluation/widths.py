"""Average widths of a set of formats: in all, by kind of layer, by block.

Knows nothing about losses.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ..backends.formats import parse_format
from ..sensitivity.planning import decided_layers
from ..sensitivity.profile import Profile
from ..solver.plan import average_bits


@dataclass(frozen=True)
class Widths:
    """Σ bits · weights / Σ weights over the layers that the program decides; scales and zero points not counted.

    Attributes:
        average: over all of them.
        by_kind: over those of a kind, in the order of the model.
        by_block: over those of a block, by its index.
    """

    average: float
    by_kind: dict[str, float]
    by_block: dict[int, float]


def widths(profile: Profile, formats: Mapping[str, str]) -> Widths:
    """Average the widths of a set of formats.

    Args:
        profile: says the layers.
        formats: of every layer.

    Returns:
        The averages.
    """
    pairs = [(layer, (parse_format(formats[layer.name]).bits, layer.num_weights)) for layer in decided_layers(profile)]
    kinds: dict[str, list[tuple[float, int]]] = defaultdict(list)
    blocks: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for layer, pair in pairs:
        kinds[layer.kind].append(pair)
        if layer.block is not None:
            blocks[layer.block].append(pair)
    return Widths(
        average_bits([pair for _, pair in pairs]),
        {kind: average_bits(found) for kind, found in kinds.items()},
        {block: average_bits(found) for block, found in sorted(blocks.items())},
    )
