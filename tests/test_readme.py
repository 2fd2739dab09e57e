"""The tree in the README names every module, and none that is not there; its figures are those that were measured."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("solver", "backends", "sensitivity", "evaluation", "evaluation/report", "commands")


def listed():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The tree")[2]
    folder, found = "", {}
    for line in tree.splitlines():
        if match := re.match(r"    ([\w/]+)/ ", line):
            folder = match[1]
        elif match := re.match(r"      (\w+\.py) +\S", line):
            found.setdefault(folder, set()).add(match[1])
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tree_is_the_checkout(folder):
    present = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
    assert listed()[folder] == present


def rows(text):
    """Rows of Markdown tables without their heads."""
    return [line for line in text.splitlines() if re.match(r"\| .*\d", line)]


def by_average_bits(text):
    """Cells of the table that goes by average bits, its head first."""
    return [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if re.match(r"\| (average|\d)", line)]


def test_figures_beside_other_tools_are_those_of_the_benchmark():
    results = (ROOT / "benchmarks/results/peers.md").read_text(encoding="utf-8")
    whole = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").partition("## Beside other tools")[2]
    found = rows(whole)
    assert len(found) > 30
    assert set(found) <= set(rows(results))
    short = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Beside other tools")[2].partition("\n## ")[0]
    head, *lines = by_average_bits(short)
    ours = {"2/3/4/8": "ours, 2/3/4/8", "2/3/4/5/6/8": "ours, 2/3/4/5/6/8"}
    names = ["ours, 2/3/4/8, tied" if "alike" in name else ours.get(name, name) for name in head]
    theirs, *measured = by_average_bits(results.partition("### Allocations")[0])
    assert len(lines) == len(measured) == 4
    for line, of_results in zip(lines, measured, strict=True):
        for name, cell in zip(names[1:], line[1:], strict=True):
            assert of_results[theirs.index(name)].endswith(f"({cell})")
