"""Files that version 0.1 wrote are read under today's names."""

import json
from pathlib import Path

from scantling.evaluation.comparison import Comparison
from scantling.evaluation.safety.record import read_safety
from scantling.evaluation.tasks.accuracies import AccuracyFile

DOCS = Path(__file__).parents[2] / "docs"
SAFETY = DOCS / "safety-demo.json"
COMPARISON = DOCS / "report/comparison.json"


def test_a_safety_file_of_0_1_is_read():
    written = json.loads(SAFETY.read_text(encoding="utf-8"))
    assert written["safety_version"] == 1
    read = read_safety(SAFETY)
    assert read.num_points == written["num_rungs"]
    assert len(read.sweep) == len(written["ladder"])
    assert [curve.domain for curve in read.curves] == [curve["load_case"] for curve in written["curves"]]
    assert read.plans[0].prediction_margin.value == written["plans"][0]["gamma"]["value"]


def test_a_comparison_of_0_1_is_read():
    written = json.loads(COMPARISON.read_text(encoding="utf-8"))
    assert written["comparison_version"] == 1
    read = Comparison.model_validate_json(COMPARISON.read_text(encoding="utf-8"))
    assert [entry.name for entry in read.entries] == [entry["name"] for entry in written["contenders"]]
    assert len(read.format_changes) == len(written["moves"])


def test_accuracies_of_0_1_are_read():
    written = {
        "accuracy_version": 1,
        "scantling_version": "0.1.0",
        "model_sha256": "0" * 64,
        "origin": "lm-eval 0.4.9",
        "certainty": json.loads(SAFETY.read_text(encoding="utf-8"))["certainty"],
        "plans": [],
    }
    assert AccuracyFile.model_validate_json(json.dumps(written)).bootstrap.confidence == 0.95
