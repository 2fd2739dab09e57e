"""solve, verify, edit, diff and frontier as a user meets them, on a profile that is made directly."""

import json
import re

import pytest

from helpers.command_line import run
from helpers.tiny_profiles import make_profile
from scantling.common.errors import ScantlingError
from scantling.planning.plan import read_plan
from scantling.sensitivity.profile import write_profile


@pytest.fixture(scope="session")
def profile_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "made.safetensors"
    write_profile(make_profile(num_blocks=4, num_samples=6), path)
    return path


@pytest.fixture
def plan_path(profile_path, tmp_path):
    path = tmp_path / "plan.json"
    assert run("solve", profile_path, "--average-bits", "4", "-o", path).exit_code == 0
    return path


def test_a_solved_plan_verifies(plan_path):
    result = run("verify", plan_path)
    assert result.exit_code == 0
    assert "DOES NOT HOLD" not in result.output
    assert "1 limits and rules" in result.output
    assert json.loads(run("verify", plan_path, "--json").output)["valid"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (r'"format": "int4-g32"', '"format": "int8-row"', "comes to|the plan says"),
        (r'"format": "int4-g32"', '"format": "int5-g32"', "was edited"),
        (r'"loss_increase_nats": [0-9.e-]+', '"loss_increase_nats": 0.5', "the profile predicts"),
        (r'"average_bits": [0-9.]+', '"average_bits": 3.0', "the average is"),
        (r'"stored_bytes": [0-9]+', '"stored_bytes": 7', "bytes"),
        (r'"bound": [0-9.e-]+', '"bound": 9.0', "bound 9.0"),
        (r'"at_most":[0-9]+', '"at_most":5', "the limit is at most"),
        (r'"profile_sha256": "[0-9a-f]+"', '"profile_sha256": "00"', "its hash differs"),
        (r'"used": [0-9]+', '"used": 3', "the plan says 3"),
    ],
)
def test_a_plan_changed_by_hand_does_not_verify(plan_path, old, new, fault):
    text = plan_path.read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    plan_path.write_text(changed)
    result = run("verify", plan_path)
    assert result.exit_code == 1
    assert re.search(f"DOES NOT HOLD: .*({fault})", result.output)


def test_an_embedding_that_takes_much_is_said_to_be_decidable(profile_path, tmp_path):
    hint = "profile --include embedding lets the program decide it"
    small, large = (
        " ".join(
            run(
                "solve", profile_path, "--average-bits", bits, "-o", tmp_path / f"{bits}.json", "--details"
            ).output.split()
        )
        for bits in (2.5, 8)
    )
    for output in (small, large):
        assert "12.00 KiB (12,288 bytes) of them embedding, kept in 16 bits" in output
    assert hint in small
    assert hint not in large


def test_verify_says_when_the_profile_is_missing(plan_path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    text = plan_path.read_text().replace("made.safetensors", "gone.safetensors")
    plan_path.write_text(text)
    assert "were not held against it" in run("verify", plan_path).output


def test_edit_prices_again_and_refuses_to_break_a_limit(plan_path, tmp_path):
    edited = tmp_path / "edited.json"
    result = run("edit", plan_path, "--set", "*.q_proj=int2-g32", "--set", "*.0.*.q_proj=4", "-o", edited)
    assert result.exit_code == 0
    plan = read_plan(edited)
    formats = plan.formats()
    assert formats["model.layers.0.self_attn.q_proj"] == "int4-g32"
    assert {formats[f"model.layers.{b}.self_attn.q_proj"] for b in (1, 2, 3)} == {"int2-g32"}
    assert plan.certificate.status == "EDITED"
    assert run("verify", edited).exit_code == 0

    beyond = tmp_path / "beyond.json"
    with pytest.raises(ScantlingError, match="it breaks limits"):
        run("edit", plan_path, "--set", "*=int8-row", "-o", beyond)
    assert not beyond.exists()
    assert run("edit", plan_path, "--set", "*=int8-row", "--force", "-o", beyond).exit_code == 0
    assert run("verify", beyond).exit_code == 1


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("*.q_proj", "not PATTERN=FORMAT"),
        ("*.k_proj=int4-g32", "matches no layer"),
        ("*.q_proj=int5-g32", "has no format 'int5-g32'. It has: int2-g32"),
        ("*.q_proj=5", "has no format '5'"),
        ("lm_head=int4-g32", "single format"),
    ],
)
def test_settings_that_make_no_sense_are_refused(plan_path, tmp_path, setting, match):
    with pytest.raises(ScantlingError, match=match):
        run("edit", plan_path, "--set", setting, "-o", tmp_path / "edited.json")


def test_diff_lists_what_changed(plan_path, profile_path, tmp_path):
    other = tmp_path / "other.json"
    run("solve", profile_path, "--average-bits", "3", "-o", other)
    told = json.loads(run("diff", plan_path, other, "--json").output)
    first, second = read_plan(plan_path), read_plan(other)
    assert {change["layer"] for change in told["changes"]} == {
        layer for layer, name in first.formats().items() if second.formats()[layer] != name
    }
    assert sum(change["stored_bytes"] for change in told["changes"]) == second.stored_bytes - first.stored_bytes
    shown = run("diff", plan_path, other).output
    assert f"{len(told['changes'])} of {told['num_layers']} layers differ" in shown
    assert "0 of" in run("diff", plan_path, plan_path).output


def test_a_plan_of_another_model_is_not_compared(plan_path, tmp_path):
    write_profile(make_profile(num_blocks=1), tmp_path / "small.safetensors")
    run("solve", tmp_path / "small.safetensors", "--average-bits", "4", "-o", tmp_path / "small.json")
    with pytest.raises(ScantlingError, match="different layers"):
        run("diff", plan_path, tmp_path / "small.json")


def test_a_frontier_falls_and_every_point_is_proven(profile_path, tmp_path):
    output, picture = tmp_path / "frontier.json", tmp_path / "frontier.png"
    words = ["--against", "memory", "--points", "9", "--json", "-o", output, "--picture", picture]
    told = json.loads(run("frontier", profile_path, *words).output)
    losses = [point["predicted_loss_nats"] for point in told["points"]]
    assert losses == sorted(losses)
    assert {point["status"] for point in told["points"]} == {"OPTIMAL"}
    assert json.loads(output.read_text()) == told
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = run("frontier", profile_path, "--against", "average_bits", "--from", "3", "--to", "6", "--points", "4")
    assert "6 bits per weight" in shown.output


def test_a_frontier_at_every_breakpoint_and_a_nested_one(profile_path):
    every = json.loads(run("frontier", profile_path, "--against", "memory", "--points", "every", "--json").output)
    used = [point["used"][0] for point in every["points"] if point["used"]]
    assert used == sorted(set(used), reverse=True)
    assert len(used) > 20
    nested = json.loads(run("frontier", profile_path, "--against", "memory", "--nested", "--json").output)
    bits = {"int2-g32": 2, "int4-g32": 4, "int8-row": 8, "float16": 16}
    for looser, tighter in zip(nested["points"], nested["points"][1:], strict=False):
        assert all(bits[a] >= bits[b] for a, b in zip(looser["formats"], tighter["formats"], strict=True))


def test_a_grid_of_two_limits(profile_path, tmp_path):
    words = ["--against", "memory", "--against", "average_bits", "--points", "3", "--json"]
    told = json.loads(run("frontier", profile_path, *words, "--picture", tmp_path / "map.svg").output)
    assert len(told["points"]) == 9
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--against", "volume"], "cannot sweep 'volume'"),
        (["--against", "speed"], "cannot sweep"),
        (["--against", "memory", "--points", "0"], "from 1 to"),
        (["--against", "memory", "--points", "many"], "from 1 to"),
        (["--against", "memory", "--from", "1 GiB", "--to", "1 MiB"], "Swap"),
        (["--against", "memory", "--from", "1 W"], "not a unit of bytes"),
        (["--against", "memory", "--against", "memory", "--against", "memory"], "Give one limit, or two"),
        (["--against", "memory", "--against", "average_bits", "--nested"], "one limit"),
        (["--against", "memory", "--picture", "x.bmp"], ".png"),
    ],
)
def test_frontiers_that_make_no_sense_are_refused(profile_path, words, match):
    with pytest.raises(ScantlingError, match=match):
        run("frontier", profile_path, *words)


def test_pins_of_an_earlier_plan_hold(plan_path, profile_path, tmp_path):
    other = tmp_path / "other.json"
    run("solve", profile_path, "--average-bits", "3.2", "--pin-from", f"{plan_path}:*.v_proj", "-o", other)
    first, second = read_plan(plan_path).formats(), read_plan(other).formats()
    pinned = [layer for layer in first if layer.endswith("v_proj")]
    assert all(first[layer] == second[layer] for layer in pinned)
    assert first != second


def test_limits_are_priced_in_words(profile_path, tmp_path):
    words = ["--average-bits", "4", "--memory", "1 GiB", "-o", tmp_path / "p"]
    shown = run("solve", profile_path, *words, "--details").output.replace("\n", " ")
    assert "saves about" in shown
    assert "has no effect (proven" in re.sub(r"\s+", " ", shown)
    tight = run("solve", profile_path, "--average-bits", "2", "-o", tmp_path / "p")
    assert "leave no freedom" in re.sub(r"\s+", " ", tight.output)


def test_a_limit_on_the_loss_and_the_least_memory(profile_path, tmp_path):
    path = tmp_path / "p.json"
    run("solve", profile_path, "--max-loss", "0.05", "--minimize", "memory", "-o", path)
    plan = read_plan(path)
    assert plan.loss_increase_nats <= 0.05
    assert plan.certificate.objectives[0].value == plan.stored_bytes
    assert run("verify", path).exit_code == 0
    tighter = run("solve", profile_path, "--max-loss", "0.05", "--memory", f"{plan.stored_bytes - 1}B", "-o", path)
    assert tighter.exit_code == 3


def test_a_robust_plan_is_solved_and_verified(profile_path, tmp_path):
    path = tmp_path / "p.json"
    run("solve", profile_path, "--average-bits", "4", "--robust", "2", "-o", path)
    assert read_plan(path).certificate.objectives[0].value > read_plan(path).loss_increase_nats
    assert run("verify", path).exit_code == 0


def test_the_program_can_be_saved_and_read(profile_path, tmp_path):
    from scantling.solver.instance import read_instance  # noqa: PLC0415

    run("solve", profile_path, "--average-bits", "4", "-o", tmp_path / "p", "--save-program", tmp_path / "program.json")
    assert read_instance(tmp_path / "program.json") == read_plan(tmp_path / "p").program
