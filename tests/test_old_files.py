"""Files of version 0.1 are read under the names of today."""

import json
from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from helpers.command_line import run
from helpers.old_names import with_old_names
from helpers.tiny_profiles import make_profile
from scantling.common.errors import ScantlingError
from scantling.common.records import VersionedRecord
from scantling.evaluation.comparison import Comparison
from scantling.evaluation.safety.record import SafetyFile
from scantling.planning.plan import Plan, read_plan
from scantling.sensitivity.profile import _digest, read_profile, write_profile
from scantling.sensitivity.profile_record import DomainRecord, ProfileRecord

RECORDS = (Plan, ProfileRecord, Comparison, SafetyFile)


def as_version_01(kind: type[VersionedRecord], record: VersionedRecord, versions_back=1) -> str:
    raw = with_old_names(json.loads(record.model_dump_json()), kind.renamed_keys)
    return json.dumps(raw | {kind.version_key: kind.version - versions_back})


def keys_of(schema):
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from keys_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys_of(value)


@pytest.mark.parametrize("kind", RECORDS)
def test_old_names_lead_to_keys_of_today_and_are_none_themselves(kind):
    keys = set(keys_of(kind.model_json_schema(mode="serialization")))
    assert set(kind.renamed_keys.values()) <= keys
    assert not set(kind.renamed_keys) & keys
    assert kind.model_fields[kind.version_key].default == kind.version


def test_a_plan_of_version_01_is_read(tmp_path):
    path = tmp_path / "plan.json"
    write_profile(make_profile(), tmp_path / "p.safetensors")
    assert run("solve", tmp_path / "p.safetensors", "--average-bits", "3", "-o", path).exit_code == 0
    plan = read_plan(path)
    old = as_version_01(Plan, plan)
    assert '"load_cases"' in old
    assert '"engine"' in old
    path.write_text(old)
    assert read_plan(path) == plan
    path.write_text(as_version_01(Plan, plan, versions_back=2))
    with pytest.raises(ScantlingError, match="is not a plan of version 3: plan_version"):
        read_plan(path)


def rewrite(path, record: str):
    """Put another record into a profile, with the digest that fits it."""
    profile = read_profile(path)
    with safe_open(path, framework="np") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dictionary
    stored = json.dumps({"digest": _digest(record, profile), "record": record})
    save_file(tensors, path, metadata={"scantling_profile": stored})


@pytest.mark.parametrize("versions_back", [1, 2])
def test_only_the_version_before_is_read_of_profiles(tmp_path, versions_back):
    path, made = tmp_path / "p.safetensors", make_profile(num_samples=4)
    domains = tuple(DomainRecord(name=name, text_source="words", text_sha256="0" * 64) for name in ("prose", "code"))
    record = made.record.model_copy(update={"domains": domains, "domain_of_sequence": (0, 0, 1, 1)})
    write_profile(replace(made, record=record), path)
    old = as_version_01(ProfileRecord, record, versions_back)
    assert '"load_cases"' in old
    assert '"case_of_sequence"' in old
    rewrite(path, old)
    if versions_back == 1:
        assert read_profile(path).record == record
        return
    with pytest.raises(ScantlingError, match="not a profile of version 3"):
        read_profile(path)
