"""Files that are whole or absent, plans, quantities."""

import json

import pytest

from scantling.common.errors import ScantlingError
from scantling.common.files import require_writable, whole_file, whole_folder
from scantling.common.units import parse_bytes, render_bytes
from scantling.planning.plan import Assignment, Certificate, LimitUse, Objective, Plan, read_plan, write_plan
from scantling.solver.instance import DomainCosts, Instance, Row, Unit
from scantling.solver.rules import Limit


def a_plan() -> Plan:
    return Plan(
        scantling_version="0",
        model_source="m",
        model_sha256="a",
        profile_path="p",
        profile_sha256="b",
        loss_increase_nats=0.1,
        loss_increase_standard_error_nats=None,
        stored_bytes=10,
        other_bytes=1,
        average_bits=3.0,
        limits=(
            LimitUse(name="memory", origin="--memory", measure="bytes", step=1, at_most=11, at_least=None, used=10),
        ),
        certificate=Certificate(
            status="OPTIMAL",
            objectives=(
                Objective(name="loss_increase", measure="nats per token", value=0.1, bound=0.1, resolution=1e-12),
            ),
            solve_seconds=0.1,
            solver="e",
            seed=0,
            num_units=1,
            num_options=2,
            num_core_options=0,
        ),
        assignments=(
            Assignment(
                layer="l",
                kind="k",
                block=0,
                format="int3-g64",
                bits=3,
                num_weights=8,
                stored_bytes=9,
                loss_increase_nats=0.1,
                decided=True,
            ),
        ),
        program=Instance(
            (Unit("l", ("int3-g64", "int4-g64"), (3.0, 4.0)),),
            (Row("stored_bytes", "bytes", ((9, 12),), 1),),
            (DomainCosts("text", ((0.1, 0.01),)),),
            (Limit("memory", "stored_bytes", at_most=11, origin="--memory"),),
        ),
    )


def test_a_plan_survives_the_trip_through_its_file(tmp_path):
    write_plan(a_plan(), tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == a_plan()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw.replace('"plan_version": 3', '"plan_version": 1'),
        lambda raw: raw.replace('"average_bits": 3.0', '"average_bits": "three"'),
        lambda raw: raw.replace('"average_bits"', '"avg_bits"'),
        lambda raw: json.dumps([1]),
        lambda raw: "",
    ],
)
def test_a_damaged_plan_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "plan.json"
    write_plan(a_plan(), path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ScantlingError, match=r"plan\.json is not a plan"):
        read_plan(path)


def test_a_missing_plan_says_how_to_make_one(tmp_path):
    with pytest.raises(ScantlingError, match="scantling solve"):
        read_plan(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_in_words(tmp_path):
    with pytest.raises(ScantlingError, match="No space left"), whole_file(tmp_path / "file") as partial:
        partial.symlink_to("/dev/full")
        partial.write_bytes(b"0" * 100000)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "folder") as partial:
        (partial / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_written_into(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ScantlingError, match="exists already"), whole_folder(tmp_path / "folder"):
        pass


def test_an_output_that_cannot_fit_is_refused_before_the_work(tmp_path):
    with pytest.raises(ScantlingError, match="left"):
        require_writable(tmp_path / "file", 1 << 60)
    with pytest.raises(ScantlingError, match="does not exist"):
        require_writable(tmp_path / "no" / "file", 1)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("60MiB", 60 * 2**20), ("60 MB", 60 * 10**6), ("1.5 GiB", 3 * 2**29), ("7B", 7), (".5kB", 500), ("0 B", 0)],
)
def test_bytes_are_read_with_their_unit(text, num_bytes):
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["60", "60 W", "sixty MiB", "-3 MiB", "", "60 mib", "60 MiB/s", "nan GiB"])
def test_bytes_without_a_known_unit_are_refused(text):
    with pytest.raises(ScantlingError):
        parse_bytes(text)


def test_shown_bytes_are_exact():
    assert "1,234,567 bytes" in render_bytes(1234567)
