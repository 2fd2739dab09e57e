"""Load cases: texts by name, each with pricing sequences of its own, and the rounding sequences that all share.

Knows nothing about formats or estimators.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..common.errors import ScantlingError
from .calibration.text import Text, token_sequences
from .profile import LoadCaseRecord

DEFAULT_NAME = "text"


@dataclass(frozen=True)
class LoadCase:
    """A domain of text on which the loss increase is measured.

    Attributes:
        name: as the user calls it.
        text: its first 60 % of documents are used.
    """

    name: str
    text: Text


@dataclass(frozen=True)
class CalibrationSequences:
    """What is measured on.

    Attributes:
        rounding: what formats are fitted to, int64 [sequences, tokens].
        pricing: what their loss increase is measured on, likewise.
        case_of_sequence: for each pricing sequence the position of its load case.
    """

    rounding: Tensor
    pricing: Tensor
    case_of_sequence: tuple[int, ...]


def named_sources(words: Sequence[str]) -> list[tuple[str, str]]:
    """Read what the user gave as texts.

    Args:
        words: ``SOURCE``, or ``NAME=SOURCE`` where there are several.

    Returns:
        Names and sources, in order.

    Raises:
        ScantlingError: several without a name, or two of one name.

    >>> named_sources(["prose=wikipedia", "code=src"])
    [('prose', 'wikipedia'), ('code', 'src')]
    """
    if len(words) == 1 and "=" not in words[0]:
        return [(DEFAULT_NAME, words[0])]
    pairs = [word.partition("=") for word in words]
    for name, _, source in pairs:
        if not name or not source:
            raise ScantlingError(
                f"several texts need names: write --text NAME=SOURCE for each (got {name or source!r} without one)."
            )
    names = [name for name, _, _ in pairs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ScantlingError(f"two load cases are called {min(twice)!r}. Give every text a name of its own.")
    return [(name, source) for name, _, source in pairs]


def calibration_sequences(
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[LoadCase],
    num_rounding: int,
    num_pricing: int,
    sequence_length: int,
) -> CalibrationSequences:
    """Cut the calibration sequences and deal them out evenly.

    Args:
        tokenizer: of the model.
        cases: at least one.
        num_rounding: sequences to fit formats to, in all; load cases have equal parts of them.
        num_pricing: sequences to measure on, for every load case.
        sequence_length: tokens in each.

    Returns:
        The sequences.

    Raises:
        ScantlingError: the rounding sequences cannot be shared equally.
    """
    if num_rounding % len(cases):
        raise ScantlingError(
            f"{num_rounding} rounding sequences cannot be shared equally by {len(cases)} load cases. Ask for "
            f"--sequences {(num_rounding // len(cases) + 1) * len(cases)}."
        )
    rounding, pricing, case_of_sequence = [], [], []
    for position, case in enumerate(cases):
        total = num_rounding // len(cases) + num_pricing
        token_ids = token_sequences(tokenizer, case.text.calibration(), total, sequence_length)
        priced = [(2 * index + 1) * total // (2 * num_pricing) for index in range(num_pricing)]
        rounding.append(token_ids[[index for index in range(total) if index not in priced]])
        pricing.append(token_ids[priced])
        case_of_sequence += [position] * num_pricing
    return CalibrationSequences(torch.cat(rounding), torch.cat(pricing), tuple(case_of_sequence))


def further_sequences(
    tokenizer: PreTrainedTokenizerBase, case: LoadCase, used: Tensor, num_sequences: int, sequence_length: int
) -> Tensor:
    """Cut sequences that were not used before.

    Args:
        tokenizer: of the model.
        case: its text.
        used: int64 [sequences, tokens].
        num_sequences: how many.
        sequence_length: tokens in each.

    Returns:
        int64 [num_sequences, sequence_length].
    """
    return token_sequences(tokenizer, case.text.calibration(), num_sequences, sequence_length, used)


def load_case_records(cases: Sequence[LoadCase]) -> tuple[LoadCaseRecord, ...]:
    """Describe load cases.

    Args:
        cases: the load cases.

    Returns:
        Their records.
    """
    return tuple(
        LoadCaseRecord(name=case.name, text_source=case.text.source, text_sha256=case.text.sha256) for case in cases
    )
