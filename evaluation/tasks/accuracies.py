"""Accuracies of plans: what ``scantling tasks`` writes, and what a safety file says of next tokens.

Knows nothing about how accuracies were measured.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from ...common.errors import ScantlingError
from ...common.records import Finite, Record, write_record
from ..bootstrap import BootstrapSettings, Interval
from ..cache import ORIGINAL
from ..safety.record import SafetyFile, read_safety

ACCURACY_VERSION: Final = 1


class Accuracy(Record):
    """One accuracy.

    Attributes:
        task: what was asked.
        metric: how answers were judged.
        value: the share of right answers, and its interval.
        chance: what guessing gives; None where that is not known.
        chance_origin: how it was found, or why it is not known.
        num_answers: that were judged.
    """

    task: str
    metric: str
    value: Interval
    chance: Finite | None
    chance_origin: str
    num_answers: int


class PlanAccuracy(Record):
    """The accuracies of one plan.

    Attributes:
        name: of the plan, or ``original``.
        formats_sha256: of the format of every layer; None for the original, and for a checkpoint.
        accuracies: one a task.
    """

    name: str
    formats_sha256: str | None
    accuracies: tuple[Accuracy, ...]


class AccuracyFile(Record):
    """The whole file.

    Attributes:
        accuracy_version: of this layout.
        scantling_version: that wrote it.
        model_sha256: of the original's weights.
        origin: what measured, with its version.
        bootstrap: of the intervals.
        plans: what was measured.
    """

    accuracy_version: Literal[1] = ACCURACY_VERSION
    scantling_version: str
    model_sha256: str
    origin: str
    bootstrap: BootstrapSettings
    plans: tuple[PlanAccuracy, ...]


def next_token_accuracies(safety: SafetyFile, vocabulary: int | None) -> AccuracyFile:
    """Take the next-token accuracies out of a safety file.

    Args:
        safety: the file.
        vocabulary: number of tokens that a guess would be among; None where it is not known.

    Returns:
        The accuracies of the original, of the rungs and of the plans that were measured.
    """
    chance = None if vocabulary is None else 1 / vocabulary
    chance_origin = (
        "unknown: the profile does not have the embedding" if vocabulary is None else f"one of {vocabulary:,} tokens"
    )

    def accuracy(position: int, value: Interval) -> Accuracy:
        curve = safety.curves[position]
        return Accuracy(
            task=f"next token of {curve.text_source}" + (f" ({curve.domain})" if len(safety.curves) > 1 else ""),
            metric="most likely token is the next",
            value=value,
            chance=chance,
            chance_origin=chance_origin,
            num_answers=curve.num_sequences * (curve.sequence_length - 1),
        )

    measured = [*(plan.plan for plan in safety.plans), *safety.sweep]
    original = tuple(accuracy(position, curve.original_accuracy) for position, curve in enumerate(safety.curves))
    return AccuracyFile(
        scantling_version=safety.scantling_version,
        model_sha256=safety.model_sha256,
        origin="scantling safety",
        bootstrap=safety.bootstrap,
        plans=(
            PlanAccuracy(name=ORIGINAL, formats_sha256=None, accuracies=original),
            *(
                PlanAccuracy(
                    name=plan.name,
                    formats_sha256=plan.formats_sha256,
                    accuracies=tuple(accuracy(k, domain.next_token_accuracy) for k, domain in enumerate(plan.domains)),
                )
                for plan in measured
                if plan.domains
            ),
        ),
    )


def write_accuracies(found: AccuracyFile, path: Path) -> None:
    """Write accuracies, whole or not at all.

    Args:
        found: the accuracies.
        path: the file, replaced where it exists.
    """
    write_record(found, path)


def read_accuracies(path: Path, vocabulary: int | None) -> AccuracyFile:
    """Read accuracies from what ``scantling tasks`` or ``scantling safety`` wrote.

    Args:
        path: the file.
        vocabulary: number of tokens that a guess of the next one would be among; None where it is not known.

    Returns:
        The accuracies.

    Raises:
        ScantlingError: there is no such file, or it is neither.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ScantlingError(
            f"there is no file {path}. Write one with: scantling tasks, or scantling safety"
        ) from error
    except (OSError, ValueError) as error:
        raise ScantlingError(f"cannot read accuracies from {path}: {error}") from error
    if isinstance(read, Mapping) and "safety_version" in read:
        return next_token_accuracies(read_safety(path), vocabulary)
    try:
        return AccuracyFile.model_validate(read, strict=False)
    except ValidationError as error:
        raise ScantlingError(
            f"{path} has no accuracies: {error.errors()[0]['msg']}. Give what scantling tasks or "
            "scantling safety wrote."
        ) from error
