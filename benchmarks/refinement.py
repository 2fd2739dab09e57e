"""What `solve --refine` gains: plans as solved and as refined, measured on the same text.

    python benchmarks/refinement.py PROFILE FOLDER [--bits 3.0 …] [--steps 4] [--results refinement.md]

Runs the commands as a user would. Plans stay in FOLDER, where a stopped run goes on. All plans are measured on 24 × 512
tokens that neither prices, nor gradients, nor the choice of steps have seen; differences are paired by sequence.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from our_command import command

from scantling.evaluation.quality import standard_error

RESULTS = Path(__file__).parent / "results"
AVERAGE_BITS = (2.25, 2.5, 3.0, 3.5, 4.0)


def plans(profile: Path, folder: Path, bits: float, steps: int) -> tuple[Path, Path]:
    """Solve, with and without refinement.

    Args:
        profile: the profile.
        folder: for the plans.
        bits: average width.
        steps: to be tried at most.

    Returns:
        The plan and the refined plan.
    """
    solved, refined = folder / f"solved-{bits}.json", folder / f"refined-{bits}.json"
    words = ["solve", str(profile), "--average-bits", str(bits), "--no-cross-fit"]
    if not solved.exists():
        command(*words, "-o", str(solved))
    if not refined.with_suffix(".txt").exists():  # solve writes the plan before it refines
        told = command(*words, "--refine", str(steps), "-o", str(refined)).splitlines()
        refined.with_suffix(".txt").write_text("\n".join(line for line in told if line.startswith("step ")))
        print(f"{bits} bits refined", file=sys.stderr, flush=True)
    return solved, refined


def row(bits: float, solved: dict[str, Any], refined: dict[str, Any]) -> str:
    """Write a line of the table.

    Args:
        bits: average width.
        solved: how the plan measured.
        refined: how the refined plan measured.

    Returns:
        Markdown.
    """
    before, after = (one["measured_kl_nats_by_sequence"] for one in (solved, refined))
    changes = [second - first for first, second in zip(before, after, strict=True)]
    error = standard_error(changes) or 0.0
    return (
        f"| {bits} | {fmean(before):.4g} | {fmean(after):.4g} | {fmean(changes):+.2g} ± {error:.1g} "
        f"| {fmean(after) / fmean(before) - 1:+.1%} | {solved['measured_perplexity']:.2f} "
        f"| {refined['measured_perplexity']:.2f} |"
    )


def main() -> None:
    """Solve, refine, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=float, nargs="+", default=AVERAGE_BITS)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--results", default="refinement.md")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pairs = [plans(arguments.profile, arguments.folder, bits, arguments.steps) for bits in arguments.bits]
    first, *others = [str(path) for pair in pairs for path in pair]
    words = [word for path in others for word in ("--plan", path)]
    compared = json.loads(command("compare", first, *words, "--sequences", "24", "--json"))
    measured = {one["name"]: one for one in compared["entries"]}
    measured[first] = measured.pop("plan")
    model = compared["model_source"]
    lines = [
        "# Refinement",
        "",
        f"`python benchmarks/refinement.py`, at most {arguments.steps} steps; {Path(model).name}",
        "",
        "| bits | KL, solved | KL, refined | difference | in % | perplexity, solved | refined |",
        "|---|---|---|---|---|---|---|",
    ]
    for bits, (solved, refined) in zip(arguments.bits, pairs, strict=True):
        lines.append(row(bits, measured[str(solved)], measured[str(refined)]))
    for bits, (_, refined) in zip(arguments.bits, pairs, strict=True):
        steps = refined.with_suffix(".txt").read_text().splitlines()
        lines += ["", f"At {bits} bits, on the text that steps are tested on:", "", *(f"- {step}" for step in steps)]
    (RESULTS / arguments.results).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
