"""The text that quality is measured on: for every load case a part that calibration has not seen.

Knows nothing about plans.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import ScantlingError
from ..models.loading import LoadedModel
from ..sensitivity.calibration.text import Text, cut_sequences, load_text, refuse_overlap, refuse_too_long
from ..sensitivity.domains import DEFAULT_NAME
from ..sensitivity.profile import LoadCaseRecord, Profile


@dataclass(frozen=True)
class EvaluationCase:
    """One load case to measure on.

    Attributes:
        name: as in the profile, or as the user calls it.
        text: all of it.
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


def profiled_cases(profile: Profile) -> tuple[LoadCaseRecord, ...]:
    """List the texts that a profile was made on.

    Args:
        profile: the profile.

    Returns:
        Its load cases; a single nameless text is one called ``text``.
    """
    record = profile.record
    return record.load_cases or (
        LoadCaseRecord(name=DEFAULT_NAME, text_source=record.text_source, text_sha256=record.text_sha256),
    )


def evaluation_case(
    loaded: LoadedModel, profile: Profile, named: LoadCaseRecord | tuple[str, str], num_sequences: int, length: int
) -> EvaluationCase:
    """Cut the evaluation sequences of one load case.

    Args:
        loaded: the model.
        profile: says what was calibrated on.
        named: a load case of the profile, for the part of its text that was kept for evaluation; or a name and a text.
        num_sequences: how many.
        length: tokens in each.

    Returns:
        The load case.

    Raises:
        ScantlingError: the text has changed since calibration, is too short, or was calibrated on.
    """
    refuse_too_long(loaded.model.config, length)
    name, source = (named.name, named.text_source) if isinstance(named, LoadCaseRecord) else named
    text = load_text(source, loaded)
    if isinstance(named, LoadCaseRecord) and text.sha256 != named.text_sha256:
        raise ScantlingError(
            f"the text {text.source} has changed since it was calibrated on, so what was kept for evaluation is not "
            "known. Name an evaluation text with --text."
        )
    same = text.sha256 in {case.text_sha256 for case in profiled_cases(profile)}
    cut = cut_sequences(loaded.tokenizer, text.evaluation() if same else text.documents, num_sequences, length)
    for calibration in (profile.rounding_token_ids, profile.pricing_token_ids):
        refuse_overlap(torch.from_numpy(calibration), cut.token_ids)
    return EvaluationCase(name, text, cut.token_ids, cut.document_of_sequence)


def evaluation_cases(
    loaded: LoadedModel, profile: Profile, sources: Sequence[tuple[str, str]], num_sequences: int, length: int
) -> tuple[EvaluationCase, ...]:
    """Cut the evaluation sequences of every load case.

    Args:
        loaded: the model.
        profile: says what was calibrated on.
        sources: names and texts; none for the load cases of the profile.
        num_sequences: how many, for each.
        length: tokens in each.

    Returns:
        The load cases.
    """
    return tuple(
        evaluation_case(loaded, profile, named, num_sequences, length) for named in sources or profiled_cases(profile)
    )
