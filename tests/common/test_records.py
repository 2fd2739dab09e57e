"""Records as files: whole or absent, and those of the previous version read by their old key names."""

import json
from collections.abc import Mapping
from typing import ClassVar, Literal

import pytest

from scantling.common.errors import FileFormatError, StorageError
from scantling.common.records import Record, VersionedRecord, read_record, write_record


class Part(Record):
    domain: str


class Whole(VersionedRecord):
    version_key: ClassVar[str] = "whole_version"
    version: ClassVar[int] = 3
    renamed_keys: ClassVar[Mapping[str, str]] = {"cases": "domains", "case": "domain", "engine": "solver"}

    whole_version: Literal[3] = 3
    solver: str
    domains: tuple[Part, ...]
    by_name: dict[str, Part]


WHOLE = Whole(solver="cpsat", domains=(Part(domain="prose"), Part(domain="code")), by_name={"x": Part(domain="prose")})
OLD = {
    "whole_version": 2,
    "engine": "cpsat",
    "cases": [{"case": "prose"}, {"case": "code"}],
    "by_name": {"x": {"case": "prose"}},
}


def read(path, raw):
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return read_record(Whole, path, "whole of version 3", "scantling whole")


def test_a_record_survives_a_file(tmp_path):
    write_record(WHOLE, tmp_path / "w.json")
    assert read(tmp_path / "w.json", (tmp_path / "w.json").read_text()) == WHOLE


def test_the_previous_version_is_read_by_its_old_names_at_any_depth(tmp_path):
    assert read(tmp_path / "w.json", OLD) == WHOLE
    assert Whole.model_validate(OLD) == WHOLE


def test_a_file_with_some_names_renamed_already_is_read(tmp_path):
    mixed = {("domains" if key == "cases" else key): value for key, value in OLD.items()}
    assert read(tmp_path / "w.json", mixed) == WHOLE


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"whole_version": 1}, "is not a whole of version 3: whole_version"),
        ({"whole_version": 4}, "is not a whole of version 3: whole_version"),
        ({"whole_version": 3}, "is not a whole of version 3: solver"),  # old names in a file of today
        ({"solver": "highs"}, "the key 'engine' is the old name of 'solver', which is given too. Keep one"),
        ({"cases": [{"case": "prose", "domain": "prose"}]}, "the key 'case' is the old name of 'domain'"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_anything_else_is_refused(tmp_path, changes, match):
    with pytest.raises(FileFormatError, match=match) as refusal:
        read(tmp_path / "w.json", OLD | changes)
    assert "Make it again with: scantling whole" in str(refusal.value)


def test_files_that_are_no_records_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"there is no whole .*w\.json\. Write one with: scantling whole -o"):
        read_record(Whole, tmp_path / "w.json", "whole of version 3", "scantling whole")
    for text in ("", "[]", "3", '{"whole_version": '):
        with pytest.raises(FileFormatError, match="is not a whole of version 3: the file"):
            read(tmp_path / "w.json", text)
    (tmp_path / "w.json").write_bytes(b"\xff")
    with pytest.raises(FileFormatError, match="cannot read the whole"):
        read_record(Whole, tmp_path / "w.json", "whole of version 3", "scantling whole")


def test_a_record_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(StorageError, match=r"does not exist\. Create it first"):
        write_record(WHOLE, tmp_path / "nowhere" / "w.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="it is a folder"):
        write_record(WHOLE, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
