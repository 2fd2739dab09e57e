"""scantling compare as a user meets it: paired differences, the naive counterparts, the verdict first."""

import json
import math
import re
from dataclasses import replace

import pytest

from helpers.command_line import run
from scantling.common.errors import InputError, ScantlingError
from scantling.evaluation.bootstrap import BlockBootstrap, BootstrapSettings, Interval
from scantling.evaluation.compare import evaluate
from scantling.evaluation.comparison import PairedDifference, read_comparison, write_comparison
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.reporting.terminal.verdicts import comparison_verdict, render_difference
from scantling.sensitivity.profile import read_profile


@pytest.fixture(scope="session")
def folder(tmp_path_factory, llama_folder, text_file):
    folder = tmp_path_factory.mktemp("compared")
    words = ["--sequences", "3", "--pricing-sequences", "6", "--length", "32"]
    formats = "int2-g32,int3-g32,int4-g32,int8-row,float16"
    run("profile", llama_folder, "-o", folder / "p.safetensors", "--text", text_file, "--formats", formats, *words)
    run("solve", folder / "p.safetensors", "--average-bits", "3.4", "-o", folder / "plan.json")
    run("solve", folder / "p.safetensors", "--average-bits", "4.4", "-o", folder / "other.json")
    words = ["--uniform", "same-bytes", "--uniform", "same-bits", "--uniform", "nearest", "--plan"]
    measured = [*words, folder / "other.json", "--sequences", "8", "--length", "32", "-o", folder / "comparison.json"]
    told = run("compare", folder / "plan.json", *measured, "--json")
    assert json.loads(told.output) == json.loads((folder / "comparison.json").read_text())
    (folder / "shown.txt").write_text(run("compare", folder / "plan.json", *measured, columns="80").output)
    return folder


@pytest.fixture
def comparison(folder):
    return read_comparison(folder / "comparison.json")


def test_differences_are_paired_by_sequence(comparison):
    plan = comparison.entries[0]
    assert [one.other for one in comparison.differences] == [row.name for row in comparison.entries[1:-1]]
    for found in comparison.differences:
        other = comparison.entry(found.other)
        pairs = zip(other.measured_kl_nats_by_sequence, plan.measured_kl_nats_by_sequence, strict=True)
        values = [theirs - mine for theirs, mine in pairs]
        assert found.kl_nats == pytest.approx(other.measured_kl_nats - plan.measured_kl_nats)
        assert found.predicted_kl_nats == other.predicted_kl_nats - plan.predicted_kl_nats
        assert found.stored_bytes == other.stored_bytes - plan.stored_bytes
        mean = math.fsum(values) / 8
        assert found.standard_error_nats == pytest.approx(
            math.sqrt(sum((value - mean) ** 2 for value in values) / 7 / 8)
        )
        unpaired = math.hypot(other.measured_kl_standard_error_nats, plan.measured_kl_standard_error_nats)
        assert found.interval.lower < found.kl_nats < found.interval.upper
        assert found.interval.upper - found.interval.lower < 2 * 2.6 * unpaired
        resampled = BlockBootstrap(tuple(range(8)), BootstrapSettings()).mean_interval(values)
        assert comparison.num_documents == 8
        assert found.interval == resampled


def test_the_rows_say_what_they_are(comparison, folder):
    profile, plan = read_profile(folder / "p.safetensors"), read_plan(folder / "plan.json")
    names = [row.name for row in comparison.entries]
    assert names[0] == "plan"
    assert names[1] == str(folder / "other.json")
    assert names[-1] == "original"
    assert any("the plan's bytes" in row.says for row in comparison.entries)
    assert any("a known engine loads" in row.says for row in comparison.entries)
    assert dict(zip(comparison.layers, comparison.entries[0].formats, strict=True)) == plan.formats()
    for row in comparison.entries[:-1]:
        formats = dict(zip(comparison.layers, row.formats, strict=True))
        assert row.stored_bytes == profile.stored_bytes(formats)
        assert (row.predicted_kl_nats, row.predicted_kl_standard_error_nats) == profile.predict(formats)
        assert 0 < row.measured_top1_agreement < 1


def test_format_changes_are_against_the_closest_baseline_and_add_up(comparison):
    baselines = [row for row in comparison.entries if row.role == "baseline"]
    plan = comparison.entries[0]
    closest = min(baselines, key=lambda row: abs(row.stored_bytes - plan.stored_bytes))
    assert comparison.changes_from == closest.name
    assert sum(change.stored_bytes for change in comparison.format_changes) == plan.stored_bytes - closest.stored_bytes
    saved = sum(change.saved_nats for change in comparison.format_changes)
    assert saved == pytest.approx(closest.predicted_kl_nats - plan.predicted_kl_nats)
    changed = [layer for layer, a, b in zip(comparison.layers, plan.formats, closest.formats, strict=True) if a != b]
    assert [change.layer for change in comparison.format_changes] == changed
    unchanged = 1 - sum(change.share_of_plan_loss for change in comparison.format_changes)
    assert -1e-9 <= unchanged < 1


def test_the_verdict_stands_first_and_every_row_has_its_name_at_80_columns(comparison, folder):
    shown = (folder / "shown.txt").read_text()
    assert " ".join(shown.split()).startswith(comparison_verdict(comparison))
    assert max(map(len, shown.splitlines())) <= 80
    for name in ("even int", "original", "uniform int3-g32"):
        assert any(line.startswith(name) for line in shown.splitlines())
    assert "average bits by kind" in shown
    assert "net" in shown


def test_without_targets_the_three_counterparts_are_found(folder):
    words = ["--sequences", "2", "--length", "32"]
    told = run("compare", folder / "plan.json", *words, "--json").output
    roles = [row["role"] for row in json.loads(told)["entries"]]
    assert roles[0] == "plan"
    assert roles.count("baseline") >= 2
    shown = " ".join(run("compare", folder / "plan.json", *words).output.split())
    assert "2 documents are too few for an interval, ± is one standard error" in shown
    assert [row["interval"] for row in json.loads(told)["differences"]] == [None] * roles.count("baseline")


def test_a_plan_beside_itself_is_no_better(folder):
    words = ["--plan", folder / "plan.json", "--sequences", "8", "--length", "32", "--json"]
    (found,) = json.loads(run("compare", folder / "plan.json", *words).output)["differences"]
    assert found["kl_nats"] == found["interval"]["lower"] == found["interval"]["upper"] == 0


def test_python_and_the_command_line_give_the_same_comparison(folder, llama_folder, comparison):
    plan, other = (read_plan(folder / name) for name in ("plan.json", "other.json"))
    targets = ["same-bytes", "same-bits", "nearest"]
    others = {str(folder / "other.json"): other}
    found = evaluate(plan, against=targets, sequences=8, length=32, other_plans=others)
    assert found == comparison
    given = {"model": load_model(str(llama_folder)), "profile": read_profile(folder / "p.safetensors")}
    assert evaluate(
        plan, against=targets, sequences=8, length=32, other_plans=others, **given
    ) == comparison.model_copy(update={"model_source": given["model"].source})


def test_python_takes_the_three_counterparts_unless_something_else_is_named(folder):
    plan = read_plan(folder / "plan.json")
    short = {"sequences": 2, "length": 32, "profile": folder / "p.safetensors"}
    assert [row.name for row in evaluate(plan, against="int3-g32", **short).entries] == [
        "plan",
        "uniform int3-g32",
        "original",
    ]
    assert [row.name for row in evaluate(plan, other_plans={"it": plan}, **short).entries] == ["plan", "it", "original"]
    assert sum(row.role == "baseline" for row in evaluate(plan, **short).entries) >= 2


def test_python_refuses_what_does_not_belong_together_before_the_model_is_loaded(folder, tmp_path):
    plan = read_plan(folder / "plan.json")
    elsewhere = {"model": tmp_path / "no model"}
    with pytest.raises(InputError, match=r"there is no profile .*gone"):
        evaluate(plan, profile=tmp_path / "gone", **elsewhere)
    (tmp_path / "other").write_bytes(b"other")
    with pytest.raises(InputError, match="other is damaged or not a profile"):
        evaluate(plan, profile=tmp_path / "other", **elsewhere)
    profile = read_profile(folder / "p.safetensors")
    fewer = replace(profile, record=profile.record.model_copy(update={"layers": profile.record.layers[:-1]}))
    with pytest.raises(InputError, match=r"not solved from this profile of .*layers or bytes differ"):
        evaluate(plan, profile=fewer, **elsewhere)
    with pytest.raises(InputError, match="it was solved from another profile than the plan"):
        evaluate(plan, other_plans={"it": plan.model_copy(update={"profile_sha256": "0" * 64})}, **elsewhere)
    with pytest.raises(InputError, match="another plan is called 'plan'"):
        evaluate(plan, other_plans={"plan": plan}, **elsewhere)
    with pytest.raises(ScantlingError, match="the profile has no uniform 'int5'"):
        evaluate(plan, against=["int5"], **elsewhere)
    with pytest.raises(ScantlingError, match="'mended' is not"):
        evaluate(plan, inputs="mended", **elsewhere)
    with pytest.raises(ScantlingError, match="no model"):
        evaluate(plan, **elsewhere)


def difference(low, mean, high):
    interval = None if low is None else Interval(estimate=mean, lower=low, upper=high)
    return PairedDifference(
        other="uniform int3-g32", kl_nats=mean, standard_error_nats=0.03, interval=interval, predicted_kl_nats=0.1,
        stored_bytes=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (difference(0.45, 0.51, 0.57), r"^The plan is better than uniform int3-g32.*by 0.510 \(0.450 to 0.570\) nats"),
        (difference(-0.57, -0.51, -0.45), r"^The plan is worse than .*by 0.510 \(0.450 to 0.570\) nats"),
        (difference(-0.1, 0.02, 0.14), r"^No clear difference between .*: 0.020 \(-0.100 to 0.140\) nats"),
        (difference(None, 0.51, None), r"^The plan is better than .*by 0.510±0.030 nats.*too few for an interval"),
    ],
)
def test_the_verdict_follows_the_interval(comparison, found, says):
    changed = comparison.model_copy(update={"differences": (found,), "changes_from": "uniform int3-g32"})
    assert re.search(says, comparison_verdict(changed))


def test_a_difference_is_written_to_the_digits_that_it_has():
    assert render_difference(difference(0.4512, 0.5123, 0.5733)) == "0.512 (0.451 to 0.573)"
    assert render_difference(difference(0.00012, 0.00034, 0.00056)) == "0.00034 (0.00012 to 0.00056)"


def test_a_comparison_that_broke_is_refused(folder, tmp_path, comparison):
    path = tmp_path / "comparison.json"
    write_comparison(comparison, path)
    assert read_comparison(path) == comparison
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ScantlingError, match=r"is not a comparison of version 2: .*Make it again with"):
        read_comparison(path)
    path.write_text(whole.replace('"comparison_version": 2', '"comparison_version": 9'))
    with pytest.raises(ScantlingError, match="comparison_version"):
        read_comparison(path)
    with pytest.raises(ScantlingError, match=r"there is no comparison .*scantling compare PLAN -o"):
        read_comparison(tmp_path / "none.json")
    with pytest.raises(ScantlingError, match="does not exist"):
        run("compare", folder / "plan.json", "-o", tmp_path / "none" / "comparison.json")
