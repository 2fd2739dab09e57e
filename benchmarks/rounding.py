"""The rounding methods at uniform 2, 3, 4 bits and at the solved plan of 3.0 bits: KL, perplexity, seconds.

Set-up: the demo model, groups of 64 with zero points, rounding on 16 × 512 tokens of the Wikipedia excerpt, measured
on 8 × 512 others. The plan is solved from the profile, whose prices are of GPTQ against original inputs. Every cell is
kept in FOLDER, so that a stopped run goes on. The profile:

    scantling profile MODEL -o PROFILE --text wikipedia --formats int2-g64,int3-g64,int4-g64,int5-g64,int6-g64,int8-g64
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path

from scantling.backends.model import load_model
from scantling.backends.progress import silent
from scantling.backends.rounding import rounding_method
from scantling.evaluation.compare import EvaluationSettings, evaluation_sequences
from scantling.evaluation.demo import demo_model_path
from scantling.evaluation.quality import Quality, measure_candidates
from scantling.sensitivity.final_rounding import round_as_shipped
from scantling.sensitivity.planning import Origin, solve, uniform_formats
from scantling.sensitivity.profile import Profile, read_profile
from scantling.sensitivity.program import Program
from scantling.solver.cpsat import CpSat
from scantling.solver.engine import SearchSettings
from scantling.solver.plan import file_sha256

RESULTS = Path(__file__).parent / "results"
ROWS = (
    ("rtn", "original"),
    ("gptq", "original"),
    ("gptq", "quantized"),
    ("gptq", "corrected"),
    ("awq", "original"),
    ("awq", "corrected"),
    ("awq+gptq", "original"),
    ("awq+gptq", "corrected"),
)
COLUMNS = ("int2-g64", "int3-g64", "int4-g64", "plan")


def cell(profile: Profile, path: Path, row: tuple[str, str], column: str) -> dict[str, object]:
    """Round and measure.

    Args:
        profile: of the demo model.
        path: of its file.
        row: rounding method, and what layers are rounded against.
        column: a format, or ``plan``.

    Returns:
        Quality, seconds of rounding, and for original inputs what the profile predicts.
    """
    method, inputs = row
    instance = Program(profile).limit("average_bits", at_most=3.0).instance()
    plan = solve(profile, Origin(path, file_sha256(path)), instance, CpSat(), SearchSettings())
    formats = plan.formats() if column == "plan" else uniform_formats(profile, column)
    record = profile.record.model_copy(update={"rounding": rounding_method({"method": method}).describe()})
    chosen = Profile(record, profile.samples, profile.rounding_token_ids, profile.pricing_token_ids)
    loaded = load_model(str(demo_model_path()))
    _, token_ids = evaluation_sequences(loaded, profile, EvaluationSettings())
    original = measure_candidates(loaded.model, {}, token_ids, silent)["original"]
    start = time.perf_counter()
    rounded = round_as_shipped(loaded, chosen, {column: formats}, inputs, silent)
    seconds = time.perf_counter() - start
    quality = measure_candidates(loaded.model, rounded, token_ids, silent)[column]
    return {
        "seconds": seconds,
        "predicted": profile.predict(formats),
        **asdict(quality),
        "original": original.perplexity,
    }


def table(folder: Path) -> list[str]:
    """Lay out what has been measured.

    Args:
        folder: with the cells.

    Returns:
        Lines of Markdown.
    """
    lines = [
        "KL in nats per token ± one standard error, perplexity, seconds of rounding one assignment.",
        "",
        "| method | against | uniform 2 | uniform 3 | uniform 4 | plan of 3.0 bits |",
        "|---|---|---|---|---|---|",
    ]
    predicted = ["–"] * len(COLUMNS)
    for method, inputs in ROWS:
        cells = []
        for number, column in enumerate(COLUMNS):
            path = folder / f"{method}-{inputs}-{column}.json"
            if not path.is_file():
                cells.append("not run")
                continue
            found = json.loads(path.read_text())
            quality = Quality(*(tuple(found[field.name]) for field in fields(Quality)))
            error = quality.kl_standard_error_nats or 0.0
            seconds = found["seconds"] or math.nan
            cells.append(f"{quality.mean_kl_nats:.4f} ± {error:.4f}, {quality.perplexity:.2f}, {seconds:.0f} s")
            predicted[number] = "{:.4f} ± {:.4f}".format(*found["predicted"])
        lines.append(f"| {method} | {inputs} | {' | '.join(cells)} |")
    lines.append(f"| predicted for gptq | original | {' | '.join(predicted)} |")
    return lines


def _dearest_last(pair: tuple[tuple[str, str], str]) -> tuple[bool, bool, bool, int, int]:
    """Order the cells so that a run which is cut short has the most telling ones: 3 bits and the plan first."""
    (method, inputs), column = pair
    first = (column in {"int3-g64", "plan"}, (method, inputs) in {("gptq", "corrected"), ("gptq", "original")})
    return not all(first), not first[0], not first[1], ROWS.index((method, inputs)), COLUMNS.index(column)


def main() -> None:
    """Measure the cells that are not there yet, until the time is up, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("folder", type=Path, help="for the cells")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further cell after these")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    profile, began = read_profile(arguments.profile), time.perf_counter()
    for row, column in sorted(product(ROWS, COLUMNS), key=_dearest_last):
        path = arguments.folder / f"{row[0]}-{row[1]}-{column}.json"
        if path.is_file() or time.perf_counter() - began > 60 * arguments.minutes:
            continue
        print(f"{row[0]} against {row[1]} inputs, {column} …", file=sys.stderr, flush=True)
        path.write_text(json.dumps(cell(profile, arguments.profile, row, column)))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "rounding.md").write_text("\n".join([*table(arguments.folder), ""]), encoding="utf-8")
    print("\n".join(table(arguments.folder)))


if __name__ == "__main__":
    main()
