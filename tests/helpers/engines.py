"""Find the engines in this environment, or in one given by --engine-python ENGINE=PATH."""

import sys
from importlib import util
from pathlib import Path

import pytest

MODULES = {"gptqmodel": "gptqmodel", "auto-gptq": "auto_gptq", "vllm": "vllm"}


def python_with(engine: str, config: pytest.Config) -> str:
    """Find an interpreter that has an engine, or skip the test and say how to run it."""
    for given in config.getoption("--engine-python") or []:
        name, _, path = given.partition("=")
        if name == engine:
            return str(Path(path).absolute())
    if util.find_spec(MODULES[engine]) is not None:
        return sys.executable
    pytest.skip(f"{engine} is not installed; give an environment that has it: --engine-python {engine}=PATH")
