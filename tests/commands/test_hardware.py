"""Limits of a machine together, as flags; infeasible ones are reported with what would mend them."""

import json
import re
from pathlib import Path

import pytest

from helpers.command_line import run
from helpers.tiny_profiles import make_profile
from scantling.common.errors import ScantlingError
from scantling.hardware.decode_laws import operate
from scantling.hardware.points import read_points
from scantling.hardware.resources import Rows
from scantling.hardware.specification import load_hardware
from scantling.hardware.workload import Workload
from scantling.planning.plan import read_plan
from scantling.sensitivity.profile import read_profile, write_profile

CARD = """
name: card
memory: 1 MB
bandwidth: 1 GB/s
efficiency: [{formats: "int2*", share: 0.5}, {formats: "*", share: 0.8}]
overhead: 10 us
base_power: 20 W
traffic_power: 30 W
"""
DOCS = Path(__file__).parents[2] / "docs" / "hardware.md"


@pytest.fixture
def card(tmp_path):
    (tmp_path / "card.yaml").write_text(CARD)
    return tmp_path / "card.yaml"


@pytest.fixture
def profile_path(tmp_path):
    write_profile(make_profile(num_blocks=3), tmp_path / "p.safetensors")
    return tmp_path / "p.safetensors"


def test_all_flags_together_give_a_plan_that_keeps_to_all(tmp_path, profile_path, card):
    limits = {
        "--memory": "72 kB",
        "--power": "25.2 W",
        "--energy": "4.2 mJ",
        "--speed": "12000 tok/s",
        "--max-loss": "0.1",
    }
    use = {"--hardware": card, "--context": 64, "--batch": 2, "--rate": "3000 tok/s", "--kv-bits": 8}
    words = [word for pair in (limits | use).items() for word in pair]
    result = run("solve", profile_path, "-o", tmp_path / "plan.json", *words)
    assert result.exit_code == 0, result.output
    plan = read_plan(tmp_path / "plan.json")
    assert plan.certificate.status == "OPTIMAL"
    profile, hardware = read_profile(profile_path), load_hardware(str(card))
    rows = Rows(profile, Workload(context=64, batch=2, kv_bits=8), hardware)
    read = rows.read_bytes(plan.formats())
    full, rated = operate(read, hardware, batch=2), operate(read, hardware, rate=3000, batch=2)
    assert full.tokens_per_second >= 12000
    assert rated.watts <= 25.2
    assert rated.joules_per_token <= 4.2e-3
    assert plan.stored_bytes + sum(rows.kv_cache_by_block) + rows.activations <= 72_000
    assert plan.loss_increase_nats <= 0.1
    assert run("verify", tmp_path / "plan.json").exit_code == 0


@pytest.mark.parametrize("objective", ["power", "energy", "memory", "seconds_per_token", "read_bytes"])
@pytest.mark.parametrize("rate", [(), ("--rate", "3000 tok/s")])
def test_any_need_can_be_minimised_under_a_limit_on_the_loss(tmp_path, profile_path, card, objective, rate):
    words = ("-o", tmp_path / "plan.json", "--hardware", card, "--minimize", objective, "--max-loss", "0.1", *rate)
    assert run("solve", profile_path, *words).exit_code == 0
    plan = read_plan(tmp_path / "plan.json")
    assert plan.certificate.status == "OPTIMAL"
    assert plan.loss_increase_nats <= 0.1


def test_a_rate_out_of_reach_is_infeasible_and_the_reach_is_given_in_tokens_per_second(tmp_path, profile_path, card):
    words = ("-o", tmp_path / "plan.json", "--hardware", card, "--rate", "900000 tok/s")
    result = run("solve", profile_path, *words)
    assert result.exit_code == 3
    assert "rate of the workload at most 1.111 µs (9e+05 tok/s)" in result.output
    assert re.search(r"the least change, proven.*plans have .* tok/s\)", result.output)


def test_contradictory_limits_are_reported_as_the_smallest_conflict(tmp_path, profile_path, card):
    words = ("-o", tmp_path / "plan.json", "--hardware", card, "--rate", "100 tok/s", "--json")
    result = run("solve", profile_path, *words, "--power", "20.12 W", "--max-loss", "0.001", "--memory", "999 kB")
    assert result.exit_code == 3
    conflict = json.loads(result.output)
    assert {rule["name"] for rule in conflict["conflict"]} == {"power", "loss_increase"}


def test_minimising_a_speed_says_what_to_minimise_instead(tmp_path, profile_path, card):
    with pytest.raises(ScantlingError, match="For the fastest plan minimise seconds_per_token"):
        run("solve", profile_path, "-o", tmp_path / "plan.json", "--hardware", card, "--minimize", "speed")


def test_machines_are_shown_by_name_and_by_file(card):
    shown = run("hardware", "list", card, "rtx-4090").output
    assert "overhead: 10 us (stated)" in shown
    assert "450 W (datasheet: NVIDIA GeForce RTX 4090)" in shown
    assert len(json.loads(run("hardware", "list", "--json").output)) == 13
    listed = run("hardware", "list").output.splitlines()
    assert len([line for line in listed if "datasheet" not in line and "GB/s" in line]) == 13
    assert any(line.startswith("rtx-pro-6000-blackwell-max-q ") and "60 W ~" in line for line in listed)


def test_the_examples_of_the_documentation_are_read(tmp_path):
    text = DOCS.read_text(encoding="utf-8")
    hardware, points = (
        re.search(rf"(?:^    {start}.*\n)(?:^    .*\n)*", text, re.MULTILINE) for start in ("name: my card", "format,")
    )
    assert hardware is not None
    assert points is not None
    (tmp_path / "d.yaml").write_text(re.sub("^    ", "", hardware.group(), flags=re.MULTILINE))
    (tmp_path / "p.csv").write_text(re.sub("^    ", "", points.group(), flags=re.MULTILINE))
    assert load_hardware(str(tmp_path / "d.yaml")).overhead is not None
    assert len(read_points(tmp_path / "p.csv").points) == 3
