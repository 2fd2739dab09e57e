"""The tree in the README names every module, and none that is not there."""

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
