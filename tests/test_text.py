"""Calibration text: determinism, beginnings, splits, refusals."""

from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig

from scantling.sensitivity.text import (
    load_text,
    opening_tokens,
    refuse_overlap,
    refuse_too_long,
    token_sequences,
)
from scantling.solver.errors import ScantlingError
from tiny import make_tokenizer, prose


def test_sequences_begin_as_the_tokenizer_begins_a_text():
    tokenizer = make_tokenizer()
    assert opening_tokens(tokenizer) == [0]
    sequences = token_sequences(tokenizer, [prose(400)], 4, 32)
    assert sequences.shape == (4, 32)
    assert torch.all(sequences[:, 0] == 0)
    assert not torch.any(sequences[:, 1:] == 0)


def test_a_tokenizer_without_opening_tokens_gets_none():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    assert opening_tokens(tokenizer) == []


def test_sequences_do_not_overlap_and_lie_in_the_text():
    tokenizer = make_tokenizer()
    document = prose(310)
    whole = tokenizer(document, add_special_tokens=False).input_ids
    sequences = token_sequences(tokenizer, [document], 10, 32)
    starts = [next(i for i in range(280) if whole[i : i + 31] == row[1:].tolist()) for row in sequences]
    assert starts == sorted(starts)
    assert all(b - a >= 31 for a, b in pairwise(starts))


@pytest.mark.parametrize(("num_sequences", "length"), [(100, 32), (1, 1000)])
def test_a_text_that_is_too_short_says_how_much_there_is(num_sequences, length):
    with pytest.raises(ScantlingError, match=r"has 310 tokens, enough for \d+ sequences"):
        token_sequences(make_tokenizer(), [prose(310)], num_sequences, length)


@pytest.mark.parametrize(("num_sequences", "length"), [(0, 32), (-1, 32), (1, 2)])
def test_no_sequences_are_refused(num_sequences, length):
    with pytest.raises(ScantlingError, match="cannot be measured on"):
        token_sequences(make_tokenizer(), [prose(310)], num_sequences, length)


def test_the_built_in_text_splits_without_a_paragraph_on_both_sides():
    text = load_text("pydoc")
    assert text == load_text("pydoc")
    assert text.calibration() + text.evaluation() == text.documents
    left, right = (
        {" ".join(p.split()) for document in part for p in document.split("\n\n") if len(" ".join(p.split())) >= 80}
        for part in (text.calibration(), text.evaluation())
    )
    assert len(left) > 100
    assert len(right) > 100
    assert not left & right


def test_a_file_is_its_paragraphs(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\n\ntwo\n\n\n\nthree\n", encoding="utf-8")
    text = load_text(str(path))
    assert text.documents == ("one", "two", "three")
    assert text.calibration() == ("one",)


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "is empty"), (b" \n\n \n", "is empty"), ("ü".encode("latin-1"), "not UTF-8")]
)
def test_a_useless_file_is_refused(tmp_path, content, word):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ScantlingError, match=word):
        load_text(str(path))


def test_a_missing_file_and_a_folder_without_text_are_refused(tmp_path):
    with pytest.raises(ScantlingError, match="Built-in texts are called pydoc and wikipedia"):
        load_text(str(tmp_path / "none.txt"))
    with pytest.raises(ScantlingError, match="has no text files"):
        load_text(str(tmp_path))


def test_text_that_was_calibrated_on_is_refused_for_evaluation():
    calibration = torch.arange(200).reshape(2, 100)
    refuse_overlap(calibration, torch.arange(1000, 1200).reshape(2, 100))
    evaluation = torch.cat([torch.arange(1000, 1030), torch.arange(20, 90)]).reshape(1, 100)
    with pytest.raises(ScantlingError, match="sequence 0 shares 7 runs of 64 tokens"):
        refuse_overlap(calibration, evaluation)


def test_sequences_beyond_the_context_are_refused():
    config = LlamaConfig(max_position_embeddings=64)
    refuse_too_long(config, 64)
    with pytest.raises(ScantlingError, match="exceed the model's context of 64"):
        refuse_too_long(config, 65)


def test_the_wikipedia_excerpt_has_its_articles():
    pytest.importorskip("gensim")
    text = load_text("wikipedia")
    assert len(text.documents) == 106
    assert "anarchism" in text.documents[0].lower()
