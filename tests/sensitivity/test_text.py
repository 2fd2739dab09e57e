"""Calibration text: determinism, beginnings, splits, refusals."""

import sys
import types
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig

from helpers.tiny_models import make_model, make_tokenizer, prose
from scantling.common.errors import ScantlingError
from scantling.models.loading import LoadedModel
from scantling.planning.diagnose import regime_warnings
from scantling.sensitivity.calibration import text_sources
from scantling.sensitivity.calibration.text import (
    cut_sequences,
    load_text,
    opening_tokens,
    require_disjoint,
    token_sequences,
    validate_length,
)
from scantling.sensitivity.profile_record import RegimeRecord
from scantling.sensitivity.regime import diagnose_regime


def test_sequences_begin_as_the_tokenizer_begins_a_text():
    tokenizer = make_tokenizer()
    assert opening_tokens(tokenizer) == [0]
    sequences = token_sequences(tokenizer, [prose(400)], 4, 32)
    assert sequences.shape == (4, 32)
    assert torch.all(sequences[:, 0] == 0)
    assert not torch.any(sequences[:, 1:] == 0)


def test_a_tokenizer_may_have_no_opening_tokens():
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


def test_calibration_text_is_refused_for_evaluation():
    calibration = torch.arange(200).reshape(2, 100)
    require_disjoint(calibration, torch.arange(1000, 1200).reshape(2, 100))
    evaluation = torch.cat([torch.arange(1000, 1030), torch.arange(20, 90)]).reshape(1, 100)
    with pytest.raises(ScantlingError, match=r"1 of 1 .*sequence 0 shares 21 runs of 50 tokens"):
        require_disjoint(calibration, evaluation)


@pytest.mark.parametrize(("length", "run"), [(400, 64), (100, 50), (32, 16), (31, 15)])
@pytest.mark.parametrize("at", [0, 5, -1])
def test_a_single_shared_run_is_found(length, run, at):
    """Also where sequences are shorter than the usual run, and wherever in a sequence the common part lies."""
    calibration = torch.arange(3 * length).reshape(3, length)
    evaluation = torch.arange(2 * length).reshape(2, length) + 10_000
    place = at if at >= 0 else length - run
    for common in (run - 1, run):
        evaluation[1, place : place + common] = calibration[2, 3 : 3 + common]
        if common < run:
            require_disjoint(calibration, evaluation)
        else:
            with pytest.raises(ScantlingError, match=rf"1 of 2 .*sequence 1 shares 1 runs of {run} tokens"):
                require_disjoint(calibration, evaluation)


def test_sequences_know_their_documents():
    tokenizer = make_tokenizer()
    documents = [prose(10, 1), prose(200, 2), prose(45, 3), prose(100, 4)]
    cut = cut_sequences(tokenizer, documents, 11, 32)
    belongs = [number for number, document in enumerate(documents) for _ in document.split()]
    assert torch.equal(cut.token_ids, token_sequences(tokenizer, documents, 11, 32))
    assert cut.document_of_sequence == tuple(belongs[31 * number + 15] for number in range(11))
    assert set(cut.document_of_sequence) == {1, 2, 3}


def test_sequences_beyond_the_context_are_refused():
    config = LlamaConfig(max_position_embeddings=64)
    validate_length(config, 64)
    with pytest.raises(ScantlingError, match="exceed the model's context of 64"):
        validate_length(config, 65)


def test_the_wikipedia_excerpt_has_its_articles():
    pytest.importorskip("gensim")
    text = load_text("wikipedia")
    assert len(text.documents) == 106
    assert "anarchism" in text.documents[0].lower()


def test_a_folder_is_its_text_files_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "sub" / "c.py").write_text("third")
    (tmp_path / "d.bin").write_bytes(b"\xff\xfe")
    text = load_text(str(tmp_path))
    assert text.documents == ("first", "second", "third")
    (tmp_path / "e.txt").write_bytes("ü".encode("latin-1"))
    with pytest.raises(ScantlingError, match=r"e\.txt is not UTF-8"):
        load_text(str(tmp_path))


def loaded_model(template=None):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return LoadedModel("m", make_model("llama-tied"), tokenizer, "", "float16")


def test_conversations_are_rendered_by_the_chat_template(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]}\n\n'
        '[{"role": "user", "content": "w3"}]\n'
    )
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    text = load_text(str(path), loaded_model(template))
    assert text.documents == ("user: w1\nassistant: w2", "user: w3")
    with pytest.raises(ScantlingError, match="no chat template"):
        load_text(str(path), loaded_model())
    path.write_text('{"messages": [{"role": "user", "content": "w1"}]}\n{"text": "w2"}\n')
    with pytest.raises(ScantlingError, match=r"line 2 of .* is not a conversation"):
        load_text(str(path), loaded_model(template))


def test_text_can_be_sampled_from_the_model_and_is_the_same_each_time(monkeypatch):
    monkeypatch.setattr(text_sources, "_SAMPLED_TOKENS", 40)
    monkeypatch.setattr(text_sources, "_SAMPLED_DOCUMENTS", 32)
    loaded = loaded_model()
    torch.manual_seed(1)
    expected_draw = torch.rand(1)
    torch.manual_seed(1)
    text = load_text("sampled", loaded)
    assert torch.equal(torch.rand(1), expected_draw)  # the caller's random numbers are left alone
    assert len(text.documents) == 32
    assert len(set(text.documents)) == 32
    assert text == load_text("sampled", loaded)
    with pytest.raises(ScantlingError, match="Name another to measure on"):
        load_text("sampled")


def test_data_sets_of_the_hub_need_their_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ScantlingError, match=r"scantling\[hub\]"):
        load_text("hub:org/name")


@pytest.mark.parametrize(
    ("rows", "documents"),
    [
        ([{"text": "a"}, {"text": "b"}], ("a", "b")),
        ([{"messages": [{"role": "user", "content": "w1"}]}], ("w1",)),
        ([{"other": 1}], None),
        ([], None),
    ],
)
def test_data_sets_of_the_hub_are_read_by_their_columns(monkeypatch, rows, documents):
    """The package is replaced, since the hub cannot be reached here."""
    asked = []

    class Rows:
        def take(self, number):
            return iter(rows[:number])

    def load_dataset(*words, **keywords):
        asked.append((words, keywords))
        return Rows()

    module = types.ModuleType("datasets")
    vars(module)["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: module)
    loaded = loaded_model("{{ messages[0].content }}")
    if documents is None:
        with pytest.raises(ScantlingError, match="has no column text"):
            load_text("hub:org/name:plain:test", loaded)
    else:
        assert load_text("hub:org/name:plain:test", loaded).documents == documents
    assert asked == [(("org/name", "plain"), {"split": "test", "streaming": True})]


def test_an_abnormal_regime_is_reported():
    normal = RegimeRecord(perplexity=20.0, perplexity_with_bos=19.0, first_token_share=0.3)
    assert regime_warnings(normal, 1000) == []
    lost = RegimeRecord(perplexity=80.0, perplexity_with_bos=20.0, first_token_share=0.7)
    bos, first = regime_warnings(lost, 1000)
    assert "80.00, and 20.00 with its BOS token in front" in bos
    assert "70%" in first
    broken = RegimeRecord(perplexity=5000.0, perplexity_with_bos=None, first_token_share=None)
    assert "worse than a guess among its 1,000 words" in regime_warnings(broken, 1000)[0]


def test_the_regime_is_measured_with_and_without_bos():
    tokenizer = make_tokenizer()
    loaded = LoadedModel("m", make_model("llama-tied"), tokenizer, "", "float16")
    token_ids = torch.randint(2, 90, (2, 30), generator=torch.Generator().manual_seed(0))
    assert diagnose_regime(loaded, token_ids, 0.2).perplexity_with_bos is None  # its tokenizer puts BOS in front
    tokenizer.backend_tokenizer.post_processor = None
    regime = diagnose_regime(loaded, token_ids, None)
    in_front = torch.cat([torch.zeros(2, 1, dtype=torch.int64), token_ids], dim=1)
    with torch.no_grad():
        plain = loaded.model(token_ids[:, :-1]).logits[:, :-1].log_softmax(-1)
        bos = loaded.model(in_front[:, :-1]).logits[:, 1:-1].log_softmax(-1)
    labels = token_ids[:, 1:-1]
    assert plain.shape == bos.shape == (2, 28, 92)
    for ours, theirs in ((regime.perplexity, plain), (regime.perplexity_with_bos, bos)):
        likelihood = theirs.gather(2, labels.unsqueeze(2)).mean()
        assert ours == pytest.approx(float((-likelihood).exp()), rel=1e-4)
