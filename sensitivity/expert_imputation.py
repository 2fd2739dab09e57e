"""Imputed prices for rarely covered experts: those of the most expensive sibling.

An expert that calibration text rarely or never reached has measured prices near zero, and a program that believed them
would give it the coarsest format. They are replaced, format by format, by the samples of the sibling with the largest
mean:

    c(u, f) = max over the covered siblings v of u of c(v, f)    for every rarely covered expert u

Such an expert is therefore treated like the most sensitive of its siblings, without a rule that ties it to them, and
the predicted loss is too high rather than too low. (An order bits(u) ≥ bits(v) for all v was tried. It couples all
experts of a block: a program of 18,432 layers that takes 6 s without it was not solved in 40 s.)

Knows nothing about how tokens are counted.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .calibration.expert_coverage import ExpertCoverage, Placed, kind_of_siblings


class Counted(Placed, Protocol):
    """A layer of a profile."""

    @property
    def formats(self) -> tuple[int, ...]:
        """The formats offered."""
        ...

    @property
    def is_decided(self) -> bool:
        """Whether more than one format is offered."""
        ...

    @property
    def coverage(self) -> ExpertCoverage | None:
        """Tokens that reached it; None for a layer that is no expert."""
        ...


def with_imputed_prices(layers: Sequence[Counted], samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace the samples of rarely covered experts.

    Args:
        layers: of a profile.
        samples: as measured, [layers, formats, samples].

    Returns:
        The prices, [layers, formats, samples]; the same array where nothing is imputed.
    """
    imputed = samples
    for rare, covered in siblings_by_coverage(layers):
        if not (rare and covered):
            continue
        if imputed is samples:
            imputed = samples.copy()
        means = samples[covered].mean(axis=2)  # a format that is not offered is NaN
        highest = np.argmax(np.nan_to_num(means, nan=-np.inf), axis=0)
        rows = samples[covered][highest, np.arange(len(highest))]
        for index in rare:
            offered = list(layers[index].formats)
            imputed[index, offered] = rows[offered]
    return imputed


def siblings_by_coverage(layers: Sequence[Counted]) -> list[tuple[list[int], list[int]]]:
    """List the positions of rarely covered and of covered experts for each set of siblings that is decided."""
    found: dict[tuple[int | None, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for index, layer in enumerate(layers):
        if layer.coverage is not None and layer.is_decided:
            rare, covered = found[layer.block, kind_of_siblings(layer.kind)]
            (rare if layer.coverage.is_rare else covered).append(index)
    return list(found.values())
