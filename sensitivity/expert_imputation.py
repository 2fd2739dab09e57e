"""Prices for experts whose own are not known: those of the dearest sibling.

An expert that calibration reached rarely or never has prices near zero, and a program that believed them would give it
the coarsest format. In their place stand, format by format, the samples of that sibling whose mean is largest:

    c(u, f) = max over the measured siblings v of u of c(v, f)    for every rarely reached expert u

So what such an expert is given is what the program would give the most sensitive of its siblings, no rule ties it to
them, and the predicted loss counts it as such: too high rather than too low. (An order, bits(u) ≥ bits(v) for all v,
was tried: it couples all experts of a block, and 18,432 layers were not solved in 40 s that take 6 s without it.)

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
        """Whether it is offered more than one."""
        ...

    @property
    def coverage(self) -> ExpertCoverage | None:
        """How many tokens reached it; None for a layer that is no expert."""
        ...


def with_imputed_prices(layers: Sequence[Counted], samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put prices of siblings in the place of those that are not known.

    Args:
        layers: of a profile.
        samples: as measured, [layers, formats, samples].

    Returns:
        The samples that count; the very array where nothing is borrowed.
    """
    imputed = samples
    for rare, measured in siblings_by_coverage(layers):
        if not (rare and measured):
            continue
        if imputed is samples:
            imputed = samples.copy()
        means = samples[measured].mean(axis=2)  # a format that is not offered is NaN
        dearest = np.argmax(np.nan_to_num(means, nan=-np.inf), axis=0)
        rows = samples[measured][dearest, np.arange(len(dearest))]
        for index in rare:
            offered = list(layers[index].formats)
            imputed[index, offered] = rows[offered]
    return imputed


def siblings_by_coverage(layers: Sequence[Counted]) -> list[tuple[list[int], list[int]]]:
    """Sort the experts that the program decides into siblings: the same matrix of all experts of a block.

    Args:
        layers: of a profile.

    Returns:
        For each set of siblings the positions of those that were rarely reached, and of the others.
    """
    found: dict[tuple[int | None, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for index, layer in enumerate(layers):
        if layer.coverage is not None and layer.is_decided:
            rare, measured = found[layer.block, kind_of_siblings(layer.kind)]
            (rare if layer.coverage.is_rare else measured).append(index)
    return list(found.values())
