"""The rounding methods at uniform 2, 3, 4 bits and at the solved plan of 3.0 bits: KL, perplexity, seconds.

Set-up: the demo model, groups of 64 with zero points, rounding on 16 × 512 tokens of the Wikipedia excerpt, measured
on 8 × 512 others. The plan is solved from the profile, whose prices are of GPTQ against original inputs. Against
original inputs all columns of a method are rounded in one pass, against quantized ones each by itself. Every cell is
kept in FOLDER, so that a stopped run goes on. The profile:

    scantling profile MODEL -o PROFILE --text wikipedia --formats int2-g64,int3-g64,int4-g64,int5-g64,int6-g64,int8-g64
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from scantling.common.files import file_sha256
from scantling.common.progress import silent
from scantling.evaluation.compare import EvaluationSettings, evaluation_sequences
from scantling.evaluation.quality import Quality, measure_candidates
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.planning.program import Program
from scantling.planning.solve import solve
from scantling.quantization.methods import rounding_method
from scantling.sensitivity.profile import Profile, ProfileOrigin, read_profile, uniform_formats
from scantling.sensitivity.sequential_rounding import round_as_shipped
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

RESULTS = Path(__file__).parent / "results"
ROWS = (
    ("rtn", "original"),
    ("gptq", "original"),
    ("gptq", "quantized"),
    ("gptq", "corrected"),
    ("awq", "original"),
    ("awq+gptq", "original"),
    ("awq+gptq", "quantized"),
)
COLUMNS = ("int2-g64", "int3-g64", "int4-g64", "plan")
Row = tuple[str, str]


def measure(profile: Profile, path: Path, row: Row, columns: Sequence[str]) -> dict[str, dict[str, object]]:
    """Round in one call, and measure.

    Args:
        profile: of the demo model.
        path: of its file.
        row: rounding method, and what layers are rounded against.
        columns: formats, or ``plan``.

    Returns:
        For each column: quality, seconds of rounding, how many columns these are for, and what the profile predicts.
    """
    method, inputs = row
    instance = Program(profile).limit("average_bits", at_most=3.0).instance()
    plan = solve(profile, ProfileOrigin(path, file_sha256(path)), instance, CpSatSolver(), SolverSettings())
    formats = {name: plan.formats() if name == "plan" else uniform_formats(profile, name) for name in columns}
    record = profile.record.model_copy(update={"rounding": rounding_method({"method": method}).describe()})
    chosen = Profile(record, profile.measured_samples, profile.rounding_token_ids, profile.pricing_token_ids)
    loaded = load_model(str(demo_model_path()))
    _, token_ids = evaluation_sequences(loaded, profile, EvaluationSettings())
    start = time.perf_counter()
    rounded = round_as_shipped(loaded, chosen, formats, inputs, silent)
    seconds = time.perf_counter() - start
    quality = measure_candidates(loaded.model, rounded, token_ids, silent)
    return {
        name: {
            "seconds": seconds,
            "num_columns": len(columns),
            "predicted": profile.predict(formats[name]),
            **asdict(quality[name]),
            "original": quality["original"].perplexity,
        }
        for name in columns
    }


def table(folder: Path, reference: Path | None) -> list[str]:
    """Lay out what has been measured.

    Args:
        folder: with the cells.
        reference: folder of ``gptqmodel_reference.py``; None where it was not run.

    Returns:
        Lines of Markdown.
    """
    lines = [
        "KL in nats per token ± one standard error, and perplexity; seconds of rounding all columns.",
        "",
        "| method | against | uniform 2 | uniform 3 | uniform 4 | plan of 3.0 bits | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    predicted = ["–"] * len(COLUMNS)
    for method, inputs in ROWS:
        cells, seconds = [], 0.0
        for number, column in enumerate(COLUMNS):
            path = folder / f"{method}-{inputs}-{column}.json"
            if not path.is_file():
                cells.append("not run")
                continue
            found = json.loads(path.read_text())
            quality = _quality(found)
            seconds += found["seconds"] / found["num_columns"]
            cells.append(_cell(quality))
            predicted[number] = "{:.4f} ± {:.4f}".format(*found["predicted"])
        total = "–" if "not run" in cells else f"{seconds:.0f}"
        lines.append(f"| {method} | {inputs} | {' | '.join(cells)} | {total} |")
    lines.append(f"| predicted for gptq | original | {' | '.join(predicted)} | |")
    if reference is not None:
        kept = [reference / f"theirs-{column}.json" for column in COLUMNS]
        theirs = [_cell(_quality(json.loads(path.read_text()))) if path.is_file() else "–" for path in kept]
        lines.append(f"| GPTQModel's own GPTQ | | {' | '.join(theirs)} | |")
    return lines


def _quality(found: Mapping[str, Any]) -> Quality:
    return Quality(*(tuple(found[field.name]) for field in fields(Quality)))


def _cell(quality: Quality) -> str:
    return f"{quality.mean_kl_nats:.4f} ± {quality.kl_standard_error_nats or 0.0:.4f}, {quality.perplexity:.2f}"


def _jobs(folder: Path) -> Iterator[tuple[Row, list[str]]]:
    """List what is rounded in one call and not measured yet: 3 bits and the plan first where calls are many."""
    for row in sorted(ROWS, key=lambda row: (row[1] == "corrected", row[1] != "original")):
        missing = [name for name in COLUMNS if not (folder / f"{row[0]}-{row[1]}-{name}.json").is_file()]
        missing.sort(key=lambda name: name not in {"int3-g64", "plan"})
        if row[1] == "original":
            yield from [(row, missing)] if missing else []
        else:
            yield from ((row, [name]) for name in missing)


def main() -> None:
    """Measure the cells that are not there yet, until the time is up, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("folder", type=Path, help="for the cells")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further call after these")
    parser.add_argument("--gptqmodel", type=Path, help="folder of gptqmodel_reference.py, for a row of its own")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    profile, began = read_profile(arguments.profile), time.perf_counter()
    for row, columns in list(_jobs(arguments.folder)):
        if time.perf_counter() - began > 60 * arguments.minutes:
            break
        print(f"{row[0]} against {row[1]} inputs, {', '.join(columns)} …", file=sys.stderr, flush=True)
        for column, found in measure(profile, arguments.profile, row, columns).items():
            (arguments.folder / f"{row[0]}-{row[1]}-{column}.json").write_text(json.dumps(found))
    RESULTS.mkdir(exist_ok=True)
    lines = table(arguments.folder, arguments.gptqmodel)
    (RESULTS / "rounding.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
