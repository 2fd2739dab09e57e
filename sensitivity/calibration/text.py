"""Text for calibration and evaluation, and the token sequences cut from it.

A text is a list of documents. The first 60 % of them are for calibration, the rest for evaluation.
Knows nothing about models but their tokenizer.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...common.errors import CalibrationError, InputError
from ...models.loading import LoadedModel
from . import text_sources
from .text_sources import HUB_PREFIX, PYDOC, SAMPLED, WIKIPEDIA

CALIBRATION_SHARE = 0.6
_SEPARATOR = text_sources.PARAGRAPHS
_SHORT_PARAGRAPH = 80  # characters; shorter ones ("Example:") may repeat
_OVERLAP_RUN = 64  # tokens


@dataclass(frozen=True)
class Text:
    """Documents in a fixed order, the source that the user named, and a hash over the documents."""

    source: str
    documents: tuple[str, ...]
    sha256: str

    def calibration(self) -> tuple[str, ...]:
        """Give the part to calibrate on: the first 60 % of the documents."""
        return self.documents[: self._cut()]

    def evaluation(self) -> tuple[str, ...]:
        """Give the part to evaluate on when calibration used this text too: the rest of the documents."""
        return self.documents[self._cut() :]

    def _cut(self) -> int:
        return int(len(self.documents) * CALIBRATION_SHARE)


def load_text(source: str, loaded: LoadedModel | None = None) -> Text:
    """Load documents.

    Args:
        source: ``pydoc`` (the manual that comes with Python), ``wikipedia`` (an excerpt of 106 articles that comes
            with gensim), ``sampled`` (written by the model itself), ``hub:NAME`` (a data set of the hub), a UTF-8 text
            file, whose documents are its paragraphs, a ``.jsonl`` file of conversations, rendered by the model's chat
            template, or a folder, whose documents are its text files.
        loaded: the model, for texts that depend on it.

    Returns:
        The text.

    Raises:
        CalibrationError: there is no such source, or it cannot be read.
    """
    tokenizer = None if loaded is None else loaded.tokenizer
    path = Path(source).expanduser()
    if source == PYDOC:
        documents = text_sources.pydoc_documents()
    elif source == WIKIPEDIA:
        documents = text_sources.wikipedia_documents()
    elif source == SAMPLED:
        documents = text_sources.sampled_documents(loaded, [] if tokenizer is None else opening_tokens(tokenizer))
    elif source.startswith(HUB_PREFIX):
        documents = text_sources.documents_of_hub(source.removeprefix(HUB_PREFIX), tokenizer)
    elif path.is_dir():
        documents = text_sources.documents_of_folder(path)
    elif path.suffix.lower() == ".jsonl":
        documents = text_sources.conversations(path, tokenizer)
    else:
        documents = text_sources.read_utf8(path).split(_SEPARATOR)
    kept = tuple(_without_repeats(documents))
    if not kept:
        raise CalibrationError(f"the text {source} is empty. Give text like what the model will read.")
    return Text(source, kept, hashlib.sha256(_SEPARATOR.join(kept).encode()).hexdigest())


def _without_repeats(documents: Sequence[str]) -> Iterator[str]:
    """Drop repeated long paragraphs, so that calibration text does not reappear in the evaluation part."""
    seen: set[str] = set()
    for document in documents:
        paragraphs = []
        for paragraph in document.split(_SEPARATOR):
            words = " ".join(paragraph.split())
            if len(words) < _SHORT_PARAGRAPH or words not in seen:
                paragraphs.append(paragraph)
            seen.add(words)
        kept = _SEPARATOR.join(paragraphs).strip()
        if kept:
            yield kept


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """List the ids of the tokens, often one or none, that the tokenizer puts in front of every text, such as BOS."""
    content = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    starts = [i for i in range(len(whole) - len(content) + 1) if whole[i : i + len(content)] == content]
    return list(whole[: starts[0]]) if starts else []


@dataclass(frozen=True)
class CutSequences:
    """Sequences of equal length and the documents that they come from.

    Attributes:
        token_ids: int64 [sequences, tokens].
        document_of_sequence: the position of the document that holds a sequence's middle token. If the tokenizer does
            not report the positions of tokens, every sequence counts as a document.
    """

    token_ids: Tensor
    document_of_sequence: tuple[int, ...]


def token_sequences(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    num_sequences: int,
    sequence_length: int,
    without: Tensor | None = None,
) -> Tensor:
    """Cut sequences as ``cut_sequences`` does, int64 [num_sequences, sequence_length]."""
    return cut_sequences(tokenizer, documents, num_sequences, sequence_length, without).token_ids


def cut_sequences(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    num_sequences: int,
    sequence_length: int,
    without: Tensor | None = None,
) -> CutSequences:
    """Cut sequences of equal length, spread evenly over the documents, without overlap.

    Every sequence begins as the tokenizer begins a text; without its BOS token a model may leave its normal regime.

    Args:
        tokenizer: the model's tokenizer.
        documents: joined by blank lines.
        num_sequences: the number of sequences.
        sequence_length: tokens in each, opening tokens included.
        without: earlier sequences of these documents, which are not cut again.

    Returns:
        The sequences and their documents.

    Raises:
        InputError: the number of sequences or their length is too small.
        CalibrationError: the text is too short.
    """
    if num_sequences < 1 or sequence_length < 8:
        raise InputError(
            f"{num_sequences} sequences of {sequence_length} tokens cannot be measured on: "
            "ask for at least 1 sequence of at least 8 tokens."
        )
    opening = opening_tokens(tokenizer)
    body_length = sequence_length - len(opening)
    text = _SEPARATOR.join(documents)
    tells = bool(tokenizer.is_fast)
    encoding = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=tells)
    ids = encoding.input_ids
    starts = list(range(0, len(ids) - body_length + 1, body_length))
    if without is not None:
        used = {tuple(row[len(opening) :]) for row in without.tolist()}
        starts = [start for start in starts if tuple(ids[start : start + body_length]) not in used]
    if len(starts) < num_sequences:
        raise CalibrationError(
            f"this part of the text has {len(ids):,} tokens, enough for {len(starts)} "
            f"{'sequences' if without is None else 'further sequences'} of {sequence_length}; "
            f"{num_sequences} were asked for. Give a longer text, or ask for fewer or shorter sequences."
        )
    chosen = [starts[(2 * index + 1) * len(starts) // (2 * num_sequences)] for index in range(num_sequences)]
    token_ids = torch.tensor([[*opening, *ids[start : start + body_length]] for start in chosen])
    if not tells:
        return CutSequences(token_ids, tuple(range(num_sequences)))
    first_characters = list(accumulate((len(document) + len(_SEPARATOR) for document in documents[:-1]), initial=0))
    middles = [encoding.offset_mapping[start + body_length // 2][0] for start in chosen]
    return CutSequences(token_ids, tuple(bisect_right(first_characters, middle) - 1 for middle in middles))


def require_disjoint(calibration: Tensor, evaluation: Tensor) -> None:
    """Refuse to evaluate on text that calibration saw, even in part.

    Args:
        calibration: int64 [sequences, tokens].
        evaluation: int64 [sequences, tokens].

    Raises:
        InputError: both contain the same run of 64 tokens, or of half a sequence if that is less.
    """
    run = max(min(_OVERLAP_RUN, calibration.shape[1] // 2, evaluation.shape[1] // 2), 1)
    seen = {window for row in calibration.tolist() for window in _windows(row, run)}
    shared = [sum(window in seen for window in _windows(row, run)) for row in evaluation.tolist()]
    if any(shared):
        first = next(number for number, common in enumerate(shared) if common)
        raise InputError(
            f"{sum(map(bool, shared))} of {len(shared)} evaluation sequences share text with calibration (sequence "
            f"{first} shares {shared[first]} runs of {run} tokens): a measurement on it would flatter the plan. Give "
            "other text with --text."
        )


def _windows(tokens: Sequence[int], length: int) -> Iterator[tuple[int, ...]]:
    return (tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))


def validate_length(config: object, sequence_length: int) -> None:
    """Refuse sequences longer than the context of a model with this configuration."""
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and sequence_length > longest:
        raise InputError(
            f"sequences of {sequence_length} tokens exceed the model's context of {longest}. Ask for at most {longest}."
        )
