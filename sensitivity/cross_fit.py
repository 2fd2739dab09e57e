"""Cross-fitting: what a solved plan costs on sequences that its solve did not see.

An optimiser picks what was underestimated, so a solved plan's predicted loss increase is too low on the sequences that
its prices come from (the winner's curse; Smith and Winkler 2006, Management Science 52, 311–322). The remedy is old:
split the pricing sequences into folds; for each fold solve the same program from the others and price that plan on the
fold. The mean over the folds is what such a solve costs on text that it did not see, and its excess over the plan's own
price is the curse (for estimates as noisy as those of all sequences but one fold).

Knows nothing about how prices were measured or how the program is solved.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..common.errors import ScantlingError
from .profile import Profile

Solve = Callable[[Profile], Mapping[str, str]]


@dataclass(frozen=True)
class CrossFit:
    """Prices of solved plans on sequences seen and not seen.

    Attributes:
        seen_nats: what the plans of the folds cost on the sequences that they were solved from, the mean over folds.
        unseen_nats: what they cost on the others.
        unseen_standard_error_nats: of ``unseen_nats``, over the sequences.
        num_folds: solves that were made.
    """

    seen_nats: float
    unseen_nats: float
    unseen_standard_error_nats: float
    num_folds: int

    @property
    def optimism(self) -> float:
        """How much dearer plans are on sequences not seen: unseen / seen."""
        return self.unseen_nats / self.seen_nats if self.seen_nats > 0 else 1.0


def fold_numbers(num_sequences: int, num_folds: int) -> NDArray[np.int64]:
    """Deal sequences out to folds, neighbours to different ones.

    Args:
        num_sequences: how many.
        num_folds: how many.

    Returns:
        int64 [sequences], the fold of each.

    >>> fold_numbers(5, 2).tolist()
    [0, 1, 0, 1, 0]
    """
    return np.arange(num_sequences) % num_folds


def on_sequences(profile: Profile, chosen: NDArray[np.bool_]) -> Profile:
    """Restrict a profile's prices to some of its sequences.

    Args:
        profile: the profile.
        chosen: which of its samples.

    Returns:
        A profile that is good for solving and predicting.
    """
    domains = tuple(of for of, kept in zip(profile.record.domain_of_sequence, chosen, strict=False) if kept)
    record = profile.record.model_copy(update={"domain_of_sequence": domains})
    return replace(profile, record=record, samples=profile.samples[:, :, chosen])


def totals(profile: Profile, formats: Mapping[str, str]) -> NDArray[np.float64]:
    """Price a whole assignment on every sequence.

    Args:
        profile: the profile.
        formats: the format of every layer.

    Returns:
        float64 [samples], Σ over layers of c(l, f).
    """
    chosen = [
        profile.prices[index, profile.format_index[formats[layer]]] for layer, index in profile.layer_index.items()
    ]
    return np.asarray(np.sum(chosen, axis=0), dtype=np.float64)


def cross_fit(profile: Profile, solve: Solve, num_folds: int = 4) -> CrossFit:
    """Solve once for every fold, and price each plan on sequences seen and not seen.

    Args:
        profile: the profile.
        solve: gives the format of every layer for a profile; called once for every fold.
        num_folds: at least two.

    Returns:
        The prices.

    Raises:
        ScantlingError: there are fewer sequences than two for every fold.
    """
    num_sequences = profile.samples.shape[2]
    if num_folds < 2 or num_sequences < 2 * num_folds:
        raise ScantlingError(
            f"cross-fitting in {num_folds} folds needs at least 2 folds and 2 sequences in each; the profile has "
            f"{num_sequences} pricing sequences. Profile with --pricing-sequences {max(8, 2 * num_folds)} or more."
        )
    fold = fold_numbers(num_sequences, num_folds)
    unseen = np.empty(num_sequences)
    seen = []
    for number in range(num_folds):
        formats = solve(on_sequences(profile, fold != number))
        of_plan = totals(profile, formats)
        unseen[fold == number] = of_plan[fold == number]
        seen.append(float(of_plan[fold != number].mean()))
    error = float(unseen.std(ddof=1)) / math.sqrt(num_sequences)
    return CrossFit(math.fsum(seen) / num_folds, float(unseen.mean()), error, num_folds)
