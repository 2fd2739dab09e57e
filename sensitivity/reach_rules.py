"""What a plan must respect of experts that have neither a price nor a sibling to borrow one from: the finest format.

Knows nothing about how tokens are counted.
"""

from ..solver.rules import Allow
from .asked import Statement
from .borrowing import siblings_by_reach
from .layers_of import Layers
from .reach import FEWEST_TOKENS

ORIGIN = "profile"
_NAME = f"experts reached by fewer than {FEWEST_TOKENS} calibration tokens, no sibling measured"


def reach_statements(layers: Layers) -> list[Statement]:
    """State what experts ask whose price is not known at all.

    Args:
        layers: of the profile.

    Returns:
        One statement; none where there are no such experts.
    """
    unknown = [index for rare, measured in siblings_by_reach(layers.records) if not measured for index in rare]
    if not unknown:
        return []
    rule = Allow(_NAME, tuple((index, _finest(layers, index)) for index in unknown), ORIGIN)
    return [Statement(_NAME, ORIGIN, "as fine as offered", tuple(unknown), (rule,))]


def _finest(layers: Layers, index: int) -> tuple[int, ...]:
    """Find the positions of a layer's widest formats."""
    bits = [layers.bits_of[name] for name in layers.formats[index]]
    return tuple(position for position, width in enumerate(bits) if width == max(bits))
