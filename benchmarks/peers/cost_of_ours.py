"""What our own allocation takes with the peers' widths: a profile and one solve, by the commands that a user gives."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from allocation import Run, run

from scantling.evaluation.demo import demo_model_path
from scantling.solver.atomic import whole_file

FORMATS = "int2-g64,int3-g64,int4-g64,int8-g64"


def stages(folder: Path) -> dict[str, list[str]]:
    """State the commands.

    Args:
        folder: for profile and plan.

    Returns:
        Words by stage.
    """
    profile, plan = str(folder / "profile.safetensors"), str(folder / "plan.json")
    return {
        "profile": ["profile", str(demo_model_path()), "-o", profile, "--text", "wikipedia", "--formats", FORMATS],
        "solve": ["solve", profile, "--average-bits", "3.0", "-o", plan],
    }


def measure_cost(folder: Path) -> None:
    """Run what was not run yet.

    Args:
        folder: for profile, plan and what they took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stage, words in stages(folder).items():
        if not (folder / f"{stage}.json").is_file():
            took = run(Path(sys.executable), ["-m", "scantling", *words], folder / f"{stage}.log")
            if took.status:
                print(f"{stage} failed with status {took.status}: {folder / stage}.log", file=sys.stderr)
                return
            with whole_file(folder / f"{stage}.json") as partial:
                partial.write_text(json.dumps(asdict(took)))


def cost_rows(folder: Path) -> list[str]:
    """Give the rows of the table.

    Args:
        folder: has what the stages took.

    Returns:
        Lines of Markdown.
    """
    lines = []
    for stage in stages(folder):
        path = folder / f"{stage}.json"
        if path.is_file():
            took = Run(**json.loads(path.read_text()))
            every = "serves every target" if stage == "profile" else "each target"
            figures = f"{took.seconds:.0f} | {took.cpu_seconds:.0f} | {took.peak_gib:.2f}"
            lines.append(f"| ours, 2/3/4/8: {stage} | | {figures} | {every} |")
    return lines
