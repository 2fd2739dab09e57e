"""The layers of a profile as rules see them: found by pattern, grouped, decided or not.

Knows nothing about limits.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..common.errors import InputError
from ..common.patterns import matching
from ..quantization.formats import parse_format
from ..sensitivity.profile import Profile
from ..sensitivity.profile_record import LayerRecord


@dataclass(frozen=True)
class LayerTable:
    """The layers of a profile."""

    profile: Profile

    @cached_property
    def records(self) -> tuple[LayerRecord, ...]:
        """The layers, in the order of the instance's units."""
        return self.profile.record.layers

    @cached_property
    def names(self) -> list[str]:
        """Their names."""
        return [layer.name for layer in self.records]

    @cached_property
    def formats(self) -> list[tuple[str, ...]]:
        """The names of every layer's formats."""
        known = self.profile.record.formats
        return [tuple(known[target] for target in layer.formats) for layer in self.records]

    @cached_property
    def bits_of(self) -> dict[str, float]:
        """The width of every format by its name."""
        return {name: parse_format(name).bits for name in self.profile.record.formats}

    def is_decided(self, index: int) -> bool:
        """Tell whether a layer has more than one format."""
        return len(self.formats[index]) > 1

    def decided(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Leave out the layers that have a single format."""
        return tuple(index for index in indices if self.is_decided(index))

    def matched(self, patterns: Sequence[str] | None) -> tuple[int, ...]:
        """Find layers by patterns, each of which must match; None for all layers."""
        return tuple(range(len(self.records))) if patterns is None else tuple(matching(patterns, self.names))

    def matched_decided(self, patterns: Sequence[str] | None) -> tuple[int, ...]:
        """Find decided layers by pattern.

        Args:
            patterns: the patterns; None for all.

        Returns:
            The layers, at least one.

        Raises:
            InputError: all that match have a single format.
        """
        found = self.matched(patterns)
        decided = self.decided(found)
        if not decided:
            first = self.names[found[0]] if found else "no layer"
            raise InputError(
                f"the rule has no effect: the layers that it matches ({first}"
                f"{' and others' if len(found) > 1 else ''}) have a single format. Profile them in several "
                "(scantling profile --include takes embedding and head in), or remove the rule."
            )
        return decided

    def groups(self, indices: Iterable[int], per: str) -> dict[str, tuple[int, ...]]:
        """Sort layers into groups.

        Args:
            indices: the layers.
            per: ``all``, ``block``, ``kind`` or ``parent``.

        Returns:
            Groups by name. A layer outside the blocks makes a group of its own where groups are blocks.
        """
        found: dict[str, list[int]] = defaultdict(list)
        for index in indices:
            layer = self.records[index]
            outside = f"layer {layer.name}"
            group = {
                "all": "all",
                "block": outside if layer.block is None else f"block {layer.block}",
                "kind": f"kind {layer.kind}",
                "parent": layer.name.rpartition(".")[0] or outside,
            }[per]
            found[group].append(index)
        return {group: tuple(members) for group, members in found.items()}

    def common_formats(self, indices: Sequence[int]) -> set[str]:
        """Find the formats that all of some layers have."""
        return set.intersection(*(set(self.formats[index]) for index in indices))

    def listed(self, indices: Sequence[int], how_many: int = 4) -> str:
        """Name the first layers for a message, and count the others."""
        names = [self.names[index] for index in indices[:how_many]]
        return ", ".join(names) + (f" and {len(indices) - how_many} more" if len(indices) > how_many else "")
