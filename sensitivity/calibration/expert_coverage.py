"""Expert coverage: how many calibration tokens were routed to an expert.

Experts are recognized by their path: a layer with a number in its path inside the block has siblings, the layers of
that block whose paths differ in the number alone. A measurement on n tokens has a relative standard error of at least
√(2 / n), that of the mean of n squares of a normal variable: 25 % for 32 tokens. The measured prices of an expert with
fewer tokens are not reliable.

Knows nothing about models or programs.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ...common.errors import CalibrationError

FEWEST_TOKENS = 32
_NUMBER_IN_PATH = re.compile(r"(?<=\.)\d+(?=\.)")


class Placed(Protocol):
    """A layer, of a model or of a profile."""

    @property
    def name(self) -> str:
        """Its module's path."""
        ...

    @property
    def kind(self) -> str:
        """The path inside its block."""
        ...

    @property
    def block(self) -> int | None:
        """The index of its block."""
        ...


_Layer = TypeVar("_Layer", bound=Placed)


@dataclass(frozen=True)
class ExpertCoverage:
    """How many tokens reached a layer; pricing tokens are None where the estimator does not follow tokens."""

    num_rounding_tokens: int
    num_pricing_tokens: int | None

    def plus(self, further: "ExpertCoverage") -> "ExpertCoverage":
        """Add the tokens of further pricing sequences, with the same rounding sequences."""
        counts = (self.num_pricing_tokens, further.num_pricing_tokens)
        return ExpertCoverage(self.num_rounding_tokens, None if None in counts else sum(count or 0 for count in counts))

    def share(self, num_rounding_tokens: int, num_pricing_tokens: int) -> float:
        """Give the share of all calibration tokens that reached the layer.

        Args:
            num_rounding_tokens: of all rounding sequences.
            num_pricing_tokens: of all pricing sequences.

        Returns:
            Between 0 and 1.

        >>> ExpertCoverage(10, 20).share(40, 60), ExpertCoverage(10, None).share(40, 60)
        (0.3, 0.25)
        """
        if self.num_pricing_tokens is None:
            return self.num_rounding_tokens / num_rounding_tokens
        return (self.num_rounding_tokens + self.num_pricing_tokens) / (num_rounding_tokens + num_pricing_tokens)

    @property
    def is_rare(self) -> bool:
        """Whether too few tokens reached the layer for its measured prices to be reliable."""
        counted = self.num_rounding_tokens if self.num_pricing_tokens is None else self.num_pricing_tokens
        return counted < FEWEST_TOKENS


def kind_of_siblings(kind: str) -> str:
    """Replace the expert's number in a kind, the path inside the block, by ``*``; the result is common to siblings.

    Args:
        kind: the path inside the block.

    Returns:
        The path of all siblings.

    >>> kind_of_siblings("mlp.experts.7.up_proj"), kind_of_siblings("mlp.up_proj")
    ('mlp.experts.*.up_proj', 'mlp.up_proj')
    """
    return _NUMBER_IN_PATH.sub("*", f".{kind}.")[1:-1]


def expert_of(kind: str) -> str | None:
    """Name the expert that a layer belongs to.

    Args:
        kind: the path inside the block.

    Returns:
        The path up to the number; None for a layer that is no expert.

    >>> expert_of("mlp.experts.7.up_proj"), expert_of("mlp.up_proj")
    ('mlp.experts.7', None)
    """
    numbers = list(_NUMBER_IN_PATH.finditer(f".{kind}."))
    return f".{kind}."[1 : numbers[-1].end()] if numbers else None


def has_siblings(layer: Placed) -> bool:
    """Tell whether a layer belongs to an expert: its path inside the block has a number."""
    return expert_of(layer.kind) is not None


def unreached_experts(layers: Sequence[_Layer], reached: Collection[_Layer]) -> list[_Layer]:
    """List the layers of a block that no token reached; refuse any that is not an expert with a reached sibling."""
    used = {kind_of_siblings(layer.kind) for layer in reached}
    missing = [layer for layer in layers if layer not in reached]
    for layer in missing:
        if not (has_siblings(layer) and kind_of_siblings(layer.kind) in used):
            raise CalibrationError(
                f"the layer {layer.name} was not reached by any calibration token. Give more or more varied text."
            )
    return missing
