"""Programs as files, also those of version 0.1, and programs that make no sense."""

import json
import math
from dataclasses import replace

import pytest

from helpers.old_names import with_old_names
from helpers.random_programs import random_program, sweep
from scantling.common.errors import FileFormatError, InputError
from scantling.solver.instance import (
    INSTANCE,
    DomainCosts,
    LossMeasure,
    Row,
    Unit,
    read_instance,
    write_instance,
)
from scantling.solver.rules import Allow, Distinct, Limit, LossLimit, Tie


def test_programs_survive_a_file(tmp_path):
    instance = random_program(100)
    for seed in range(100):
        instance = random_program(seed)
        assert INSTANCE.validate_json(INSTANCE.dump_json(instance)) == instance
    write_instance(instance, tmp_path / "program.json")
    assert read_instance(tmp_path / "program.json") == instance
    (tmp_path / "broken.json").write_text('{"units": 3}')
    with pytest.raises(FileFormatError, match="not a program"):
        read_instance(tmp_path / "broken.json")


RENAMED = {"load_cases": "domains", "over_cases": "over_domains"}


def test_a_program_of_version_01_is_read_by_its_old_names(tmp_path):
    instance, path = random_program(4), tmp_path / "program.json"
    old = with_old_names(json.loads(INSTANCE.dump_json(instance)), RENAMED)
    assert "load_cases" in old
    assert "over_cases" in old["loss"]
    path.write_text(json.dumps(old))
    assert read_instance(path) == instance
    path.write_text(json.dumps(old | {"domains": old["load_cases"]}))
    with pytest.raises(FileFormatError, match="the key 'load_cases' is the old name of 'domains'"):
        read_instance(path)
    path.write_text("{")
    with pytest.raises(FileFormatError, match="it is not JSON"):
        read_instance(path)
    with pytest.raises(FileFormatError, match="cannot read the program"):
        read_instance(tmp_path / "missing.json")


def malformed(**changes):
    return replace(sweep(2), **changes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"units": (Unit("u", (), ()),) * 2}, "two units"),
        ({"units": (Unit("u", (), ()), Unit("v", (), ()))}, "at least one format"),
        ({"units": (Unit("u", ("a", "a"), (1.0, 1.0)), Unit("v", ("a",), (1.0,)))}, "twice"),
        ({"rows": (Row("bytes", "bytes", ((1,), (2,))),)}, "1 amounts for the 4 formats"),
        ({"rows": (Row("bytes", "bytes", ()),)}, "0 units of 2"),
        ({"domains": ()}, "no domain"),
        ({"domains": (DomainCosts("t", ((0, 0, 0, math.nan),) * 2),)}, "int8' is nan"),
        ({"domains": (DomainCosts("t", ((0, 0, 0, math.inf),) * 2),)}, "finite"),
        ({"loss": LossMeasure("mean", 1.0)}, "no standard errors"),
        ({"loss": LossMeasure("mean", -1.0)}, "no standard errors|must be 0 or more"),
        ({"minimise": ("speed",)}, "cannot minimise"),
        ({"minimise": ()}, "cannot minimise"),
        ({"rules": (Limit("m", "power", at_most=1),)}, "not a row"),
        ({"rules": (Limit("m", "bytes"),)}, "either at_most or at_least"),
        ({"rules": (LossLimit("m", math.nan),)}, "nan"),
        ({"rules": (Tie("t", ((0, 5),)),)}, "the unit 5"),
        ({"rules": (Allow("a", ((0, (9,)),)),)}, "formats"),
        ({"rules": (Distinct("d", (0,), 0),)}, "at least 1"),
    ],
)
def test_a_malformed_program_is_refused(changes, word):
    with pytest.raises(InputError, match=word):
        malformed(**changes)
