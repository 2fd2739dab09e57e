"""Domains: texts by name, each with its own pricing sequences, and the rounding sequences that they share.

Knows nothing about formats or estimators.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..common.errors import InputError
from .calibration.text import Text, token_sequences
from .profile_record import DomainRecord

DEFAULT_NAME = "text"


@dataclass(frozen=True)
class Domain:
    """A domain on which the loss increase is measured; the calibration part of its text is used."""

    name: str
    text: Text


@dataclass(frozen=True)
class CalibrationSequences:
    """The sequences of a profile.

    Attributes:
        rounding: the sequences that formats are fitted to, int64 [sequences, tokens].
        pricing: the sequences that their loss increase is measured on, int64 [sequences, tokens].
        domain_of_sequence: for each pricing sequence the position of its domain.
    """

    rounding: Tensor
    pricing: Tensor
    domain_of_sequence: tuple[int, ...]


def named_sources(words: Sequence[str]) -> list[tuple[str, str]]:
    """Parse texts: ``SOURCE``, or ``NAME=SOURCE`` for each of several.

    Args:
        words: one text or more.

    Returns:
        Names and sources, in order.

    Raises:
        InputError: one of several has no name, or two have the same.

    >>> named_sources(["prose=wikipedia", "code=src"])
    [('prose', 'wikipedia'), ('code', 'src')]
    """
    if len(words) == 1 and "=" not in words[0]:
        return [(DEFAULT_NAME, words[0])]
    pairs = [word.partition("=") for word in words]
    for name, _, source in pairs:
        if not name or not source:
            raise InputError(
                f"several texts need names: write --text NAME=SOURCE for each (got {name or source!r} without one)."
            )
    names = [name for name, _, _ in pairs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two domains are called {min(twice)!r}. Give every text a name of its own.")
    return [(name, source) for name, _, source in pairs]


def calibration_sequences(
    tokenizer: PreTrainedTokenizerBase,
    domains: Sequence[Domain],
    num_rounding: int,
    num_pricing: int,
    sequence_length: int,
) -> CalibrationSequences:
    """Cut the calibration sequences, rounding and pricing sequences spread evenly over each text.

    Args:
        tokenizer: the model's.
        domains: at least one.
        num_rounding: rounding sequences in total, shared equally by the domains.
        num_pricing: pricing sequences of every domain.
        sequence_length: tokens in each.

    Returns:
        The sequences.

    Raises:
        InputError: the rounding sequences cannot be shared equally.
    """
    if num_rounding % len(domains):
        raise InputError(
            f"{num_rounding} rounding sequences cannot be shared equally by {len(domains)} domains. Use "
            f"--sequences {(num_rounding // len(domains) + 1) * len(domains)}."
        )
    rounding, pricing, domain_of_sequence = [], [], []
    for position, domain in enumerate(domains):
        total = num_rounding // len(domains) + num_pricing
        token_ids = token_sequences(tokenizer, domain.text.calibration(), total, sequence_length)
        priced = [(2 * index + 1) * total // (2 * num_pricing) for index in range(num_pricing)]
        rounding.append(token_ids[[index for index in range(total) if index not in priced]])
        pricing.append(token_ids[priced])
        domain_of_sequence += [position] * num_pricing
    return CalibrationSequences(torch.cat(rounding), torch.cat(pricing), tuple(domain_of_sequence))


def further_sequences(
    tokenizer: PreTrainedTokenizerBase, domain: Domain, used: Tensor, num_sequences: int, sequence_length: int
) -> Tensor:
    """Cut sequences other than the used ones, int64 [sequences, tokens]."""
    return token_sequences(tokenizer, domain.text.calibration(), num_sequences, sequence_length, used)


def domain_records(domains: Sequence[Domain]) -> tuple[DomainRecord, ...]:
    """Describe domains for the profile."""
    return tuple(
        DomainRecord(name=domain.name, text_source=domain.text.source, text_sha256=domain.text.sha256)
        for domain in domains
    )
