"""The library's entry: the same profile as from the command line, with or without a file."""

from functools import partial
from typing import Any

import pytest

from helpers.command_line import run
from scantling.common.errors import InputError, ScantlingError, StorageError
from scantling.common.files import file_sha256
from scantling.models.loading import load_model
from scantling.sensitivity.profile import Profile
from scantling.sensitivity.profile_model import profile

small_profile = partial(profile, sequences=2, pricing_sequences=3, length=32)
FORMATS = ["int2-g32", "int4-g32"]
WORDS = ["--sequences", "2", "--pricing-sequences", "3", "--length", "32", "--formats", ",".join(FORMATS)]


def test_the_library_makes_the_profile_of_the_command_line(tmp_path, llama_folder, text_file):
    run("profile", llama_folder, "--text", text_file, *WORDS, "-o", tmp_path / "command")
    made = small_profile(llama_folder, text=text_file, formats=FORMATS, output=tmp_path / "library")
    assert (tmp_path / "library").read_bytes() == (tmp_path / "command").read_bytes()
    assert made.origin is not None
    assert made.origin.sha256 == file_sha256(tmp_path / "library")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["command", "library"]  # no resume cache is left

    unsaved = small_profile(load_model(str(llama_folder)), text=str(text_file), formats=FORMATS)
    assert unsaved.origin is None
    assert unsaved.save(tmp_path / "later").origin is not None
    assert (tmp_path / "later").read_bytes() == (tmp_path / "command").read_bytes()
    assert Profile.load(tmp_path / "later").record == made.record


def test_domains_are_a_mapping_or_a_list(tmp_path, llama_folder, text_file):
    loaded = load_model(str(llama_folder))
    mapping = small_profile(loaded, text={"a": text_file, "b": "pydoc"}, formats=FORMATS)
    listed = small_profile(loaded, text=[f"a={text_file}", "b=pydoc"], formats=",".join(FORMATS))
    assert mapping.record == listed.record
    assert mapping.domain_names == ("a", "b")
    assert mapping.num_samples == 6
    grown = small_profile(loaded, text=text_file, formats=FORMATS, output=tmp_path / "p")
    grown = small_profile(
        loaded, text=text_file, formats=[*FORMATS, "int8-row"], output=tmp_path / "p", extend=True, until=0.9
    )
    assert grown.record.formats[-1] == "int8-row"


def test_settings_are_refused_before_the_model_is_loaded(tmp_path):
    cases: list[tuple[dict[str, Any], type[ScantlingError], str]] = [
        ({"text": []}, InputError, "no text was given"),
        ({"text": ["a", "b"]}, ScantlingError, "several texts need names"),
        ({"until": "5"}, ScantlingError, "not a percentage"),
        ({"rounding": "best"}, ScantlingError, "best"),
        ({"extend": True}, InputError, "needs output"),
        ({"output": tmp_path / "none" / "p"}, ScantlingError, "does not exist"),
    ]
    for settings, error, match in cases:
        with pytest.raises(error, match=match):
            profile("no/such/model", **settings)


def test_formats_that_leave_nothing_to_decide_are_refused(llama_folder, text_file):
    loaded = load_model(str(llama_folder))
    for formats, match in (([], "no format was given"), (["int4-g32"], "leaves nothing to decide")):
        with pytest.raises(InputError, match=match):
            small_profile(loaded, text=text_file, formats=formats)


def test_a_profile_that_cannot_be_written_is_kept_elsewhere(tmp_path, llama_folder, text_file):
    (tmp_path / "p").mkdir()
    with pytest.raises(StorageError, match="finished profile was kept as") as caught:
        small_profile(llama_folder, text=text_file, formats=FORMATS, output=tmp_path / "p")
    kept = str(caught.value).rpartition("kept as ")[2].rstrip(".")
    assert Profile.load(kept).record.formats == tuple(FORMATS) + Profile.load(kept).record.formats[len(FORMATS) :]
