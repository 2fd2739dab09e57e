"""Intelligence per watt and per joule, and task accuracy by lm-eval from a local task file."""

import json
import random
from pathlib import Path

import pytest
import torch

from helpers.command_line import invoke
from helpers.sampled import save_sampled
from helpers.tiny_models import make_model, make_tokenizer, save_model
from scantling.common.errors import ScantlingError
from scantling.evaluation.bootstrap import BootstrapSettings, Interval
from scantling.evaluation.tasks.accuracies import Accuracy, AccuracyFile, PlanAccuracy, read_accuracies
from scantling.evaluation.tasks.efficiency import Power, efficiency, measured_powers

HARDWARE = """name: card
memory: 1 GiB
bandwidth: 100 MB/s
efficiency: 0.5
overhead: 1 ms
base_power: 20 W
traffic_power: 60 W
"""


def accuracy(share=0.6):
    value = Interval(estimate=share, lower=share - 0.1, upper=share + 0.1)
    return Accuracy(task="t", metric="acc", value=value, chance=0.25, chance_origin="four choices", num_answers=100)


def power(watts=150.0, rate=30.0, joules=5.0):
    return Power(
        hardware="card", watts=watts, tokens_per_second=rate, joules=joules, work="one token", at="full speed",
        basis="measured", origin="a meter",
    )  # fmt: skip


def test_the_ratios_are_their_definitions():
    found = efficiency("plan", accuracy(), power())
    assert found.per_watt.model_dump() == pytest.approx({"estimate": 0.6 / 150, "lower": 0.5 / 150, "upper": 0.7 / 150})
    assert found.per_joule.estimate == pytest.approx(0.6 / 5)
    assert found.accuracy == accuracy()
    assert found.power == power()


@pytest.mark.parametrize(
    "bad", [{"watts": 0.0}, {"watts": -1.0}, {"rate": 0.0}, {"rate": -3.0}, {"joules": 0.0}, {"joules": -2.0}]
)
def test_power_must_be_above_0(bad):
    with pytest.raises(ScantlingError, match="above 0"):
        efficiency("plan", accuracy(), power(**bad))


def test_what_a_user_measured_is_read():
    found = measured_powers(["plan.json=165W@26 tok/s", "original=295 W@26tok/s", "plan.json=200W@70tok/s"])
    assert [p.watts for p in found["plan.json"]] == [165.0, 200.0]
    assert found["original"][0].joules == pytest.approx(295 / 26)
    assert {p.basis for powers in found.values() for p in powers} == {"measured"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("plan=0W@26tok/s", "above 0"),
        ("plan=-165W@26tok/s", "above 0|-165"),
        ("plan=165W@0tok/s", "above 0"),
        ("plan=165W", "is not NAME"),
        ("165W@26tok/s", "is not NAME"),
        ("plan=165 GiB@26tok/s", "GiB"),
    ],
)
def test_what_is_no_measurement_is_refused(words, message):
    with pytest.raises(ScantlingError, match=message):
        measured_powers([words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("efficiency")
    model, text = save_model(folder / "model", "llama-tied"), save_sampled(folder / "text.txt")
    made = invoke(
        "profile", model, "--text", text, "-o", folder / "p", "--length", 32, "--sequences", 8,
        "--pricing-sequences", 16, "--formats", "int2-g32,int3-g32,int4-g32,int8-row",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert invoke("solve", folder / "p", "--average-bits", 4, "-o", folder / "plan", "--no-cross-fit").exit_code == 0
    made = invoke(
        "safety", folder / "plan", "--uniform", "int2-g32", "-o", folder / "safety", "--length", 32, "--sequences", 24,
        "--points", 6, "--require", 0.001,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    (folder / "card.yaml").write_text(HARDWARE)
    (folder / "dim.yaml").write_text("name: dim\nbandwidth: 100 MB/s\nefficiency: 0.5\noverhead: 1 ms\n")
    return folder


def test_plans_and_machines_are_compared_with_all_that_a_figure_is_made_of(folder):
    words = [
        "efficiency", folder / "plan", "--uniform", "int2-g32", "--accuracy", folder / "safety", "--hardware",
        folder / "card.yaml", "--measured", "original=80W@20tok/s",
    ]  # fmt: skip
    rows = json.loads(invoke(*words, "--json").stdout)
    assert {row["entry"] for row in rows} == {str(folder / "plan"), "uniform int2-g32", "original"}
    assert {row["power"]["at"] for row in rows} == {"full speed", "the same rate for all", "as measured"}
    for row in rows:
        assert row["accuracy"]["chance"] == pytest.approx(1 / 92)
        assert row["per_watt"]["estimate"] == pytest.approx(
            row["accuracy"]["value"]["estimate"] / row["power"]["watts"]
        )
        assert row["power"]["joules"] == pytest.approx(row["power"]["watts"] / row["power"]["tokens_per_second"])
    at_one_rate = [row["power"] for row in rows if row["power"]["at"] == "the same rate for all"]
    assert len({round(p["tokens_per_second"], 6) for p in at_one_rate}) == 1
    shown = invoke(*words).output
    for word in ("chance 1.09%", "watts", "tok/s", "modelled from the numbers of card", "stated by the user"):
        assert word in shown
    query = json.loads(invoke(*words[:7], folder / "card.yaml", "--answer", 10, "--json").stdout)
    assert {row["power"]["work"] for row in query} == {"one token", "a query of 1 + 10 tokens"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no power was given"),
        (["--hardware", "none"], "neither known hardware"),
        (["--measured", "other=1W@1tok/s"], "names 'other'"),
        (["--measured", "original=-1W@1tok/s"], "above 0|-1W"),
    ],
)
def test_bad_input(folder, words, message):
    result = invoke("efficiency", folder / "plan", "--accuracy", folder / "safety", *words)
    with pytest.raises(ScantlingError, match=message):
        raise result.exception or AssertionError(result.output)


def test_a_machine_without_a_power_law_is_refused(folder):
    result = invoke("efficiency", folder / "plan", "--accuracy", folder / "safety", "--hardware", folder / "dim.yaml")
    with pytest.raises(ScantlingError, match="base_power"):
        raise result.exception or AssertionError(result.output)


def test_an_accuracy_file_of_version_0_1_is_read(tmp_path):
    plan = PlanAccuracy(name="original", formats_sha256=None, accuracies=(accuracy(),))
    new = AccuracyFile(
        scantling_version="0.1.0", model_sha256="0" * 64, origin="lm-eval", bootstrap=BootstrapSettings(), plans=(plan,)
    )
    old = new.model_dump() | {"accuracy_version": 1}
    old["certainty"] = old.pop("bootstrap")
    (tmp_path / "old").write_text(json.dumps(old))
    assert read_accuracies(tmp_path / "old", None) == new


def test_accuracies_of_other_plans_are_refused(folder, tmp_path):
    assert invoke("solve", folder / "p", "--average-bits", 3, "-o", tmp_path / "other", "--no-cross-fit").exit_code == 0
    result = invoke(
        "efficiency", tmp_path / "other", "--profile", folder / "p", "--accuracy", folder / "safety", "--measured",
        f"{tmp_path / 'other'}=1W@1tok/s",
    )  # fmt: skip
    with pytest.raises(ScantlingError, match="has no accuracy of"):
        raise result.exception or AssertionError(result.output)
    (tmp_path / "nothing").write_text('{"a": 1}')
    result = invoke(
        "efficiency", folder / "plan", "--accuracy", tmp_path / "nothing", "--measured", "original=1W@1tok/s"
    )
    with pytest.raises(ScantlingError, match="has no accuracies"):
        raise result.exception or AssertionError(result.output)


# Tasks


def preferred(model, tokenizer, question, choices) -> int:
    ids = torch.tensor([tokenizer(question).input_ids])
    with torch.no_grad():
        following = model(ids).logits[0, -1]
    scores = [float(following[tokenizer(word, add_special_tokens=False).input_ids[0]]) for word in choices]
    return scores.index(max(scores))


@pytest.fixture(scope="module")
def task_file(tmp_path_factory) -> Path:
    """Which of four words comes next; three answers in four are the original's own."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    generator, model, tokenizer = random.Random(0), make_model("llama-tied"), make_tokenizer()
    with (folder / "questions.jsonl").open("w") as file:
        for number in range(24):
            question = " ".join(f"w{generator.randrange(90)}" for _ in range(10))
            choices = [f"w{word}" for word in generator.sample(range(90), 4)]
            answer = preferred(model, tokenizer, question, choices) if number % 4 else 0
            file.write(json.dumps({"question": question, "choices": choices, "answer": answer}) + "\n")
    (folder / "words.yaml").write_text(
        "task: next_word\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {folder / 'questions.jsonl'}}}\n"
        "test_split: train\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\n'
        'doc_to_target: "{{answer}}"\n'
        'doc_to_choice: "{{choices}}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return folder / "words.yaml"


def right_answers(model, questions: Path) -> float:
    """The same questions, asked without lm-eval."""
    tokenizer, right = make_tokenizer(), []
    for line in questions.read_text().splitlines():
        entry = json.loads(line)
        right.append(preferred(model, tokenizer, entry["question"], entry["choices"]) == entry["answer"])
    return sum(right) / len(right)


def test_tasks_are_run_offline_on_a_plan_in_memory_and_on_a_checkpoint(folder, task_file, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["tasks", folder / "plan", "--task", task_file, "-o", tmp_path / "accuracy"]
    result = invoke(*words, "--uniform", "int2-g32")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "accuracy").read_text())
    by_name = {plan["name"]: plan["accuracies"][0] for plan in found["plans"]}
    assert by_name.keys() == {"original", str(folder / "plan"), "uniform int2-g32"}
    original = by_name["original"]
    assert original["chance"] == 0.25
    assert original["num_answers"] == 24
    assert original["value"]["estimate"] == right_answers(
        make_model("llama-tied"), task_file.with_name("questions.jsonl")
    )
    assert original["value"]["lower"] < original["value"]["estimate"] < original["value"]["upper"]
    assert original["value"]["estimate"] >= 0.75 > by_name["uniform int2-g32"]["value"]["estimate"]
    made = invoke("apply", folder / "plan", "--backend", "fake", "--inputs", "original", "-o", tmp_path / "checkpoint")
    assert made.exit_code == 0, made.output
    result = invoke("tasks", tmp_path / "checkpoint", "--task", task_file, "-o", tmp_path / "of-checkpoint", "--json")
    assert result.exit_code == 0, result.output
    (checkpoint,) = json.loads((tmp_path / "of-checkpoint").read_text())["plans"]
    assert checkpoint["accuracies"][0]["value"] == by_name[str(folder / "plan")]["value"]
    with_power = invoke(
        "efficiency", folder / "plan", "--accuracy", tmp_path / "accuracy", "--hardware", folder / "card.yaml"
    )
    assert with_power.exit_code == 0, with_power.output
    assert "chance 25.00%" in with_power.output
    assert "it/s" not in result.output + capfd.readouterr().err  # bars are for terminals


@pytest.mark.parametrize(
    ("task", "limit", "message"),
    [("no-such.yaml", 24, "cannot read the task file"), ("", 24, "no task|knows no task"), (None, 4, "which take 6")],
)
def test_tasks_that_cannot_be_run(folder, task_file, tmp_path, task, limit, message):
    asked = task_file if task is None else task
    result = invoke("tasks", folder / "plan", "--task", asked, "--limit", limit, "-o", tmp_path / "accuracy")
    with pytest.raises(ScantlingError, match=message):
        raise result.exception or AssertionError(result.output)


def test_a_task_file_without_a_name(folder, task_file, tmp_path):
    (tmp_path / "t.yaml").write_text("dataset_path: json\n")
    result = invoke("tasks", folder / "plan", "--task", tmp_path / "t.yaml", "-o", tmp_path / "accuracy")
    with pytest.raises(ScantlingError, match="has no line 'task: NAME'"):
        raise result.exception or AssertionError(result.output)


def test_without_lm_eval_its_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = invoke("tasks", folder / "plan", "--task", "any", "-o", tmp_path / "accuracy")
    with pytest.raises(ScantlingError, match=r"scantling\[tasks\]"):
        raise result.exception or AssertionError(result.output)
