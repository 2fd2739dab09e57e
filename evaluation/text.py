"""The text that quality is measured on: for every domain, a part that calibration has not seen.

Knows nothing about plans.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import InputError
from ..models.loading import LoadedModel
from ..sensitivity.calibration.text import Text, cut_sequences, load_text, require_disjoint, validate_length
from ..sensitivity.domains import DEFAULT_NAME
from ..sensitivity.profile import Profile
from ..sensitivity.profile_record import DomainRecord


@dataclass(frozen=True)
class EvaluationDomain:
    """One domain to measure on.

    Attributes:
        name: as in the profile, or as the user calls it.
        text: the whole text.
        token_ids: int64 [sequences, tokens].
        document_of_sequence: see CutSequences.
    """

    name: str
    text: Text
    token_ids: Tensor
    document_of_sequence: tuple[int, ...]

    @property
    def tokens_sha256(self) -> str:
        """SHA-256 of the token ids and their shape."""
        stored = self.token_ids.numpy()
        return hashlib.sha256(repr(stored.shape).encode() + stored.tobytes()).hexdigest()


def profiled_domains(profile: Profile) -> tuple[DomainRecord, ...]:
    """List the domains of a profile; a single unnamed text is one called ``text``."""
    record = profile.record
    return record.domains or (
        DomainRecord(name=DEFAULT_NAME, text_source=record.text_source, text_sha256=record.text_sha256),
    )


def evaluation_domain(
    loaded: LoadedModel, profile: Profile, named: DomainRecord | tuple[str, str], num_sequences: int, length: int
) -> EvaluationDomain:
    """Cut the evaluation sequences of one domain.

    Args:
        loaded: the model.
        profile: records the calibration text.
        named: a domain of the profile, for the held-out part of its text; or a name and a text.
        num_sequences: number of sequences.
        length: tokens in each.

    Returns:
        The domain.

    Raises:
        InputError: the text has changed since calibration.
        ScantlingError: it is too short, or was calibrated on.
    """
    validate_length(loaded.model.config, length)
    name, source = (named.name, named.text_source) if isinstance(named, DomainRecord) else named
    text = load_text(source, loaded)
    if isinstance(named, DomainRecord) and text.sha256 != named.text_sha256:
        raise InputError(
            f"the text {text.source} has changed since calibration, so its held-out part is unknown. "
            "Name an evaluation text with --text."
        )
    same = text.sha256 in {domain.text_sha256 for domain in profiled_domains(profile)}
    cut = cut_sequences(loaded.tokenizer, text.evaluation() if same else text.documents, num_sequences, length)
    for calibration in (profile.rounding_token_ids, profile.pricing_token_ids):
        require_disjoint(torch.from_numpy(calibration), cut.token_ids)
    return EvaluationDomain(name, text, cut.token_ids, cut.document_of_sequence)


def evaluation_domains(
    loaded: LoadedModel, profile: Profile, sources: Sequence[tuple[str, str]], num_sequences: int, length: int
) -> tuple[EvaluationDomain, ...]:
    """Cut the evaluation sequences of every domain.

    Args:
        loaded: the model.
        profile: records the calibration text.
        sources: names and texts; empty for the domains of the profile.
        num_sequences: sequences per domain.
        length: tokens in each.

    Returns:
        The domains.
    """
    return tuple(
        evaluation_domain(loaded, profile, named, num_sequences, length)
        for named in sources or profiled_domains(profile)
    )
