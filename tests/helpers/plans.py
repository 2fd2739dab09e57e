"""Plans by the command line."""

from pathlib import Path

from helpers.command_line import SMALL, run


def a_plan(folder: Path, model: Path, text: Path, formats: str, bits: float = 4, *more) -> Path:
    words = ["profile", model, "-o", folder / "profile.safetensors", "--text", text, "--formats", formats]
    assert run(*words, *SMALL, "--rounding", "rtn", *more).exit_code == 0
    plan = folder / "plan.json"
    assert run("solve", folder / "profile.safetensors", "--average-bits", bits, "-o", plan).exit_code == 0
    return plan
