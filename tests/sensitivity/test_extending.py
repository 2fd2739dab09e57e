"""Extending a profile by formats, sequences and domains; the stopping rule."""

import numpy as np
import pytest

from helpers.command_line import run
from helpers.tiny_models import prose
from scantling.common.errors import ScantlingError
from scantling.sensitivity import measure as measuring
from scantling.sensitivity.extending import parse_share, relative_error
from scantling.sensitivity.profile import read_profile

SMALL = ["--sequences", "2", "--length", "32"]


@pytest.fixture
def words(tmp_path, llama_folder, text_file):
    return ["profile", llama_folder, "--text", text_file, *SMALL, "-o", tmp_path / "p"]


def counted(monkeypatch):
    """Count what is priced: (layers, formats, sequences) of every measurement."""
    seen = []
    measure = measuring.measure

    def spy(request, *others):
        formats = {len(request.offered[name]) for name in request.decided}
        seen.append((len(request.decided), formats.pop(), len(request.pricing_ids)))
        return measure(request, *others)

    monkeypatch.setattr("scantling.sensitivity.profiling.measure", spy)
    monkeypatch.setattr("scantling.sensitivity.extending.measure", spy)
    return seen


def test_a_profile_extended_by_formats_equals_one_made_with_all(tmp_path, words, monkeypatch):
    run(*words, "--pricing-sequences", "3", "--formats", "int2-g32,int4-g32,int8-row")
    whole = read_profile(tmp_path / "p")
    (tmp_path / "p").unlink()
    run(*words, "--pricing-sequences", "3", "--formats", "int2-g32,int4-g32")
    seen = counted(monkeypatch)
    run(*words, "--pricing-sequences", "3", "--formats", "int2-g32,int4-g32,int8-row", "--extend")
    assert seen == [(21, 1, 3)]  # the new format alone
    grown = read_profile(tmp_path / "p")
    regimes = [profile.record.regime for profile in (grown, whole)]
    assert regimes[0] is not None
    assert regimes[1] is not None
    assert regimes[0].perplexity == regimes[1].perplexity
    assert grown.record.formats == ("int2-g32", "int4-g32", "float16", "int8-row")
    assert whole.record.formats == ("int2-g32", "int4-g32", "int8-row", "float16")
    order = [grown.format_index[name] for name in whole.record.formats]
    assert np.allclose(grown.measured_samples[:, order], whole.measured_samples, rtol=1e-4, equal_nan=True)
    for ours, theirs in zip(grown.record.layers, whole.record.layers, strict=True):
        assert [grown.record.formats[f] for f in ours.formats] == [whole.record.formats[f] for f in theirs.formats]
        assert ours.stored_bytes == theirs.stored_bytes
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_profile_extended_by_sequences_keeps_its_samples(tmp_path, words, monkeypatch):
    formats = ["--formats", "int2-g32,int4-g32"]
    run(*words, *formats, "--pricing-sequences", "3")
    small = read_profile(tmp_path / "p")
    seen = counted(monkeypatch)
    run(*words, *formats, "--pricing-sequences", "8", "--extend")
    assert seen == [(21, 2, 5)]
    grown = read_profile(tmp_path / "p")
    assert np.array_equal(grown.measured_samples[:, :, :3], small.measured_samples, equal_nan=True)
    assert grown.num_samples == len(grown.pricing_token_ids) == 8
    rows = {tuple(row) for row in np.concatenate([grown.pricing_token_ids, grown.rounding_token_ids]).tolist()}
    assert len(rows) == 10  # no sequence twice
    run("solve", tmp_path / "p", "--average-bits", "3", "-o", tmp_path / "plan.json")


def test_domains_have_their_own_samples_and_can_be_added(tmp_path, llama_folder, text_file):
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text(prose(900, seed=1))
    (code / "b.py").write_text(prose(900, seed=2))
    words = ["profile", llama_folder, *SMALL, "--formats", "int2-g32,int4-g32", "-o", tmp_path / "p"]
    run(*words, "--text", f"prose={text_file}", "--text", f"code={code}", "--pricing-sequences", "3")
    both = read_profile(tmp_path / "p")
    prices = both.prices_by_domain
    assert {name: samples.shape for name, samples in prices.items()} == {"prose": (22, 3, 3), "code": (22, 3, 3)}
    assert np.allclose(
        both.measured_samples.mean(2), (prices["prose"].mean(2) + prices["code"].mean(2)) / 2, equal_nan=True
    )
    assert [domain.text_source for domain in both.record.domains] == [str(text_file), str(code)]

    run(*words[:-1], tmp_path / "q", "--text", text_file, "--pricing-sequences", "3")
    alone = read_profile(tmp_path / "q")
    assert list(alone.prices_by_domain) == ["text"]
    more = ["--text", f"prose={text_file}", "--text", f"code={code}", "--pricing-sequences", "3", "--extend"]
    run(*words[:-1], tmp_path / "q", *more)
    grown = read_profile(tmp_path / "q")
    assert np.array_equal(grown.prices_by_domain["prose"], alone.measured_samples, equal_nan=True)
    assert grown.prices_by_domain["code"].shape == (22, 3, 3)
    plan = tmp_path / "plan.json"
    assert run("solve", tmp_path / "q", "--average-bits", "3", "-o", plan).exit_code == 0


def test_extensions_with_other_settings_are_refused(tmp_path, words, text_file):
    run(*words, "--pricing-sequences", "3", "--formats", "int2-g32,int4-g32")
    before = (tmp_path / "p").read_bytes()
    for more, match in (
        (["--seed", "1"], "made with --seed 0, and 1 was asked"),
        (["--estimator", "direct"], "made with --estimator fisher"),
        (["--pricing-sequences", "2"], "3 pricing sequences in a domain already"),
        (["--pricing-sequences", "900"], "further sequences of 32; 897 were asked for"),
    ):
        with pytest.raises(ScantlingError, match=match):
            run(*words, "--extend", *more)
    other = tmp_path / "other.txt"
    other.write_text(prose(3000, seed=3))
    with pytest.raises(ScantlingError, match="which was not given"):
        run("profile", *words[1:2], "--text", other, *words[4:], "--extend")
    assert (tmp_path / "p").read_bytes() == before


def test_sequences_are_added_until_the_error_is_small(tmp_path, words):
    run(*words, "--pricing-sequences", "4", "--formats", "int2-g32,int4-g32")
    first = relative_error(read_profile(tmp_path / "p"))
    (tmp_path / "p").unlink()
    target = max(0.7 * first, 0.01)
    result = run(*words, "--pricing-sequences", "4", "--formats", "int2-g32,int4-g32", "--until", f"{target:.1%}")
    grown = read_profile(tmp_path / "p")
    assert relative_error(grown) < first
    assert grown.num_samples > 4
    assert "4 pricing sequences: uniform plans are predicted to" in result.output
    with pytest.raises(ScantlingError, match="must be between 0% and 100%, got 0%"):
        run(*words, "--formats", "int2-g32,int4-g32", "--until", "0%")


@pytest.mark.parametrize("text", ["5", "five %", "", "%", "-5%", "nan%"])
def test_a_share_without_a_percent_sign_is_refused(text):
    with pytest.raises(ScantlingError, match="not a percentage"):
        parse_share(text)


def test_texts_without_names_or_with_one_name_twice_are_refused(words, text_file):
    with pytest.raises(ScantlingError, match="several texts need names"):
        run(*words, "--text", text_file)
    with pytest.raises(ScantlingError, match="two domains are called 'a'"):
        run(*words[:2], "--text", f"a={text_file}", "--text", f"a={text_file}", *words[4:])
