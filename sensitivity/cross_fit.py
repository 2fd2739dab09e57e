"""Cross-fitting: what a solved plan costs on sequences that its solve did not see.

An optimizer picks what was underestimated, so a solved plan's predicted loss increase is too low on the sequences that
its prices come from (the winner's curse; Smith and Winkler 2006, Management Science 52, 311–322). The remedy: split the
pricing sequences into folds, solve the same program from all folds but one, and predict that plan's loss on the fold
left out. The mean over the folds is what such a plan costs on text that its solve did not see. Its excess over the
prediction on the sequences seen is the curse, for estimates as noisy as those of all folds but one.

Knows nothing about how prices were measured or how the program is solved.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..common.errors import CalibrationError
from .profile import Profile, mean_and_standard_error

Solve = Callable[[Profile], Mapping[str, str]]


@dataclass(frozen=True)
class CrossFit:
    """Predicted loss increases of solved plans on sequences that their solve saw and did not see.

    Attributes:
        seen_nats: on the sequences that each fold's plan was solved from, the mean over folds.
        unseen_nats: on the sequences left out.
        unseen_standard_error_nats: the standard error of ``unseen_nats`` over the sequences.
        num_folds: the number of solves.
    """

    seen_nats: float
    unseen_nats: float
    unseen_standard_error_nats: float
    num_folds: int

    @property
    def optimism(self) -> float:
        """How much more plans cost on sequences not seen: unseen / seen."""
        return self.unseen_nats / self.seen_nats if self.seen_nats > 0 else 1.0


def fold_numbers(num_sequences: int, num_folds: int) -> NDArray[np.int64]:
    """Assign sequences to folds in turn.

    Args:
        num_sequences: the number of sequences.
        num_folds: the number of folds.

    Returns:
        int64 [sequences], the fold of each.

    >>> fold_numbers(5, 2).tolist()
    [0, 1, 0, 1, 0]
    """
    return np.arange(num_sequences) % num_folds


def on_sequences(profile: Profile, chosen: NDArray[np.bool_]) -> Profile:
    """Restrict a profile to some of its samples, for solving and predicting."""
    domains = tuple(of for of, kept in zip(profile.record.domain_of_sequence, chosen, strict=False) if kept)
    record = profile.record.model_copy(update={"domain_of_sequence": domains})
    return replace(profile, record=record).with_samples(profile.measured_samples[:, :, chosen])


def cross_fit(profile: Profile, solve: Solve, num_folds: int = 4) -> CrossFit:
    """Solve once for every fold, and predict each plan's loss on sequences seen and not seen.

    Args:
        profile: the profile.
        solve: gives the format of every layer for a profile; called once for every fold.
        num_folds: at least two.

    Returns:
        The predictions.

    Raises:
        CalibrationError: there are fewer than two sequences for every fold.
    """
    num_sequences = profile.num_samples
    if num_folds < 2 or num_sequences < 2 * num_folds:
        raise CalibrationError(
            f"cross-fitting in {num_folds} folds needs at least 2 folds and 2 sequences in each; the profile has "
            f"{num_sequences} pricing sequences. Profile with --pricing-sequences {max(8, 2 * num_folds)} or more."
        )
    fold = fold_numbers(num_sequences, num_folds)
    unseen = np.empty(num_sequences)
    seen = []
    for number in range(num_folds):
        formats = solve(on_sequences(profile, fold != number))
        of_plan = profile.sample_losses_nats(formats)
        unseen[fold == number] = of_plan[fold == number]
        seen.append(float(of_plan[fold != number].mean()))
    mean, error = mean_and_standard_error(unseen)
    assert error is not None, "there are at least four sequences"
    return CrossFit(math.fsum(seen) / num_folds, mean, error, num_folds)
