"""What our own allocation takes with the peers' widths: a profile and one solve, by the commands that a user gives.

Once with the defaults, once quickly, on fewer sequences and one draw of labels.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from allocation import Run, run

from scantling.common.files import whole_file
from scantling.models.demo_model import demo_model_path

FORMATS = "int2-g64,int3-g64,int4-g64,int8-g64"
QUICK = ("--sequences", "8", "--pricing-sequences", "8", "--label-draws", "1")


def quick_profile_path(folder: Path) -> Path:
    """Say where the quick profile is kept.

    Args:
        folder: for profiles and plans.

    Returns:
        The file.
    """
    return folder / "quick.safetensors"


def stages(folder: Path) -> dict[str, list[str]]:
    """State the commands.

    Args:
        folder: for profiles and plans.

    Returns:
        Words by stage.
    """
    profile, quick, plan = folder / "profile.safetensors", quick_profile_path(folder), folder / "plan.json"
    making = ["--text", "wikipedia", "--formats", FORMATS]
    found = {
        "profile": ["profile", demo_model_path(), "-o", profile, *making],
        "solve": ["solve", profile, "--average-bits", "3.0", "-o", plan],
        "quick profile": ["profile", demo_model_path(), "-o", quick, *making, *QUICK],
        "quick solve": ["solve", quick, "--average-bits", "3.0", "-o", folder / "quick.json"],
    }
    return {stage: [str(word) for word in words] for stage, words in found.items()}


def measure_cost(folder: Path) -> None:
    """Run what was not run yet.

    Args:
        folder: for profiles, plans and what they took.
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
            every = "serves every target" if stage.endswith("profile") else "each target"
            figures = f"{took.seconds:.0f} | {took.cpu_seconds:.0f} | {took.peak_gib:.2f}"
            lines.append(f"| ours, 2/3/4/8: {stage} | | {figures} | {every} |")
    return lines
