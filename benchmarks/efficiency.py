"""Intelligence per watt of plans of the demo model: measured accuracy on a task of our own, modelled power.

    python benchmarks/efficiency.py FOLDER PROFILE PLAN [PLAN ...] [--uniform 4 ...] [--accuracy safety.json]

The task: which of four paragraphs of a Wikipedia article follows the one shown. Articles are those kept for evaluation,
the three wrong paragraphs are from other articles, each cut to its first 80 characters; answers are scored by lm-eval
by log-likelihood per byte. Power is modelled from hardware files, at full speed and at one rate for all.
With --accuracy they are those of a file that `scantling tasks` or `scantling safety` wrote for these plans, of the
next tokens in the latter case. FOLDER takes the questions and their answers. Results go to results/efficiency.md.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from our_command import command

from scantling.sensitivity.calibration.text import load_text

RESULTS = Path(__file__).parent / "results" / "efficiency.md"
NUM_QUESTIONS = 100
SHOWN_CHARACTERS, ANSWER_CHARACTERS = 160, 80
DEVICES = ("jetson-orin-nx-16gb", "rtx-5090")
RATE = "150 tok/s"
TASK = """task: following_paragraph
dataset_path: json
dataset_kwargs:
  data_files: {path}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{shown}}}}\\n\\n"
target_delimiter: ""
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


def paragraphs(document: str) -> list[str]:
    """Find the paragraphs of an article that are long enough to ask about."""
    found = [part.strip() for part in document.split("\n\n")]
    return [part for part in found if len(part) >= SHOWN_CHARACTERS and part[0].isalnum()]


def questions() -> list[dict[str, object]]:
    """Make the questions, the same every time."""
    articles = [paragraphs(document) for document in load_text("wikipedia").evaluation()]
    pairs = [(index, at) for index, parts in enumerate(articles) for at in range(len(parts) - 1)]
    chance = random.Random(0)
    chance.shuffle(pairs)
    made = []
    for index, at in pairs[:NUM_QUESTIONS]:
        others = [chance.choice(parts) for other, parts in enumerate(articles) if other != index and parts]
        right = articles[index][at + 1]
        choices = [part[:ANSWER_CHARACTERS] for part in [right, *chance.sample(others, 3)]]
        order = chance.sample(range(4), 4)
        shown = articles[index][at][-SHOWN_CHARACTERS:]
        made.append({"shown": shown, "choices": [choices[i] for i in order], "answer": order.index(0)})
    return made


def table(rows: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Write figures as Markdown, one table a machine and way of running."""
    lines: list[str] = []
    for place in dict.fromkeys((row["power"]["hardware"], row["power"]["at"], row["power"]["work"]) for row in rows):
        lines += ["", f"## {place[0]}, {place[1]}", "", f"| | watts | tok/s | joules for {place[2]} "]
        lines[-1] += "| accuracy per watt | per joule |"
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            power = row["power"]
            if (power["hardware"], power["at"], power["work"]) == place:
                per_watt, per_joule = (
                    f"{row[key]['estimate']:.4g} ({row[key]['lower']:.4g}–{row[key]['upper']:.4g})"
                    for key in ("per_watt", "per_joule")
                )
                lines += [
                    f"| {Path(str(row['entry'])).name} | {power['watts']:.4g} | {power['tokens_per_second']:.4g} "
                    f"| {power['joules']:.4g} | {per_watt} | {per_joule} |"
                ]
    return lines


def answers(folder: Path, plans: list[str]) -> Path:
    """Ask the questions.

    Args:
        folder: takes them.
        plans: words that name the plans.

    Returns:
        The file with the accuracies.
    """
    found = folder / "accuracy.json"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "questions.jsonl"
        path.write_text("".join(json.dumps(question) + "\n" for question in questions()))
        (folder / "task.yaml").write_text(TASK.format(path=path.resolve()))
        command("tasks", *plans, "--task", str(folder / "task.yaml"), "-o", str(found))
    return found


def main() -> None:
    """Ask, put together, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("profile")
    parser.add_argument("plans", nargs="+")
    parser.add_argument("--uniform", nargs="*", default=["3", "4"])
    parser.add_argument("--accuracy", type=Path)
    arguments = parser.parse_args()
    plans = [arguments.plans[0], *(word for plan in arguments.plans[1:] for word in ("--plan", plan))]
    plans += [word for width in arguments.uniform for word in ("--uniform", width)] + ["--profile", arguments.profile]
    accuracy = arguments.accuracy or answers(arguments.folder, plans)
    devices = [word for name in DEVICES for word in ("--hardware", name)]
    told = command("efficiency", *plans, *devices, "--accuracy", str(accuracy), "--rate", RATE, "--json")
    rows = json.loads(told.splitlines()[-1])
    task = rows[0]["accuracy"]
    lines = ["# Intelligence per watt", "", "`python benchmarks/efficiency.py`", ""]
    lines += [
        f"{task['task']} ({task['metric']}); chance: {task['chance_origin']}. Power and throughput are modelled from"
    ]
    lines += ["hardware files, in which most numbers but memory and bandwidth are estimates.", ""]
    lines += ["| | accuracy (95 % interval) | answers |", "|---|---|---|"]
    for name, one in {row["entry"]: row["accuracy"] for row in rows}.items():
        value = one["value"]
        lines += [
            f"| {Path(name).name} | {value['estimate']:.1%} ({value['lower']:.1%}–{value['upper']:.1%}) "
            f"| {one['num_answers']:,} |"
        ]
    RESULTS.write_text("\n".join([*lines, *table(rows)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
