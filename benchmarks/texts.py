"""Which text to calibrate on: plans and uniform quantization calibrated on each text, measured on every text.

    python benchmarks/texts.py FOLDER

The demo model, 8 + 12 sequences of 512 tokens, 3.0 average bits. ``code`` is the folder of Python's own asyncio;
``all`` are the three texts as domains, 9 + 12 sequences in thirds. Everything is rounded and priced on the
calibration text; measured on 8 sequences of the part of each text that no calibration sees, the same for all. What is
measured stays in FOLDER, so that a stopped run goes on. Writes results/texts.md.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev

from our_command import command

from scantling.common.progress import silent
from scantling.evaluation.quality import measure_candidates
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.sensitivity.calibration.text import cut_sequences, load_text
from scantling.sensitivity.profile import read_profile, uniform_formats
from scantling.sensitivity.sequential_rounding import ORIGINAL_INPUTS, round_as_shipped

RESULTS = Path(__file__).parent / "results"
READ_ON = {"wikipedia": "wikipedia", "pydoc": "pydoc", "code": str(Path(asyncio.__file__).parent)}
CALIBRATED_ON = {
    **{name: [source] for name, source in READ_ON.items()},
    "sampled": ["sampled"],
    "all": [f"{name}={source}" for name, source in READ_ON.items()],
}
Values = dict[str, dict[str, list[float]]]


def calibrated(folder: Path, name: str) -> tuple[Path, Path]:
    """Profile and solve by the commands.

    Args:
        folder: for the files.
        name: of the calibration.

    Returns:
        The profile and the plan.
    """
    profile, plan = folder / f"{name}.safetensors", folder / f"{name}.plan.json"
    num_domains = len(CALIBRATED_ON[name])
    if not profile.exists():
        words = [word for source in CALIBRATED_ON[name] for word in ("--text", source)]
        numbers = ["--sequences", "8" if num_domains == 1 else "9", "--pricing-sequences", str(12 // num_domains)]
        command("profile", str(demo_model_path()), "-o", str(profile), *words, *numbers)
    if not plan.exists():
        command("solve", str(profile), "--average-bits", "3.0", "--no-cross-fit", "-o", str(plan))
    return profile, plan


def measure(folder: Path, name: str) -> Values:
    """Measure the plan and uniform 3 bits of one calibration on every text.

    Args:
        folder: keeps what was measured.
        name: of the calibration.

    Returns:
        KL by sequence, by text and by what was measured.
    """
    kept = folder / f"{name}.measured.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    profile_path, plan_path = calibrated(folder, name)
    profile, loaded = read_profile(profile_path), load_model(str(demo_model_path()))
    formats = {"plan": read_plan(plan_path).formats(), "uniform": uniform_formats(profile, "3")}
    rounded = round_as_shipped(loaded, profile, formats, ORIGINAL_INPUTS, silent)
    found: Values = {}
    for text, source in READ_ON.items():
        token_ids = cut_sequences(loaded.tokenizer, load_text(source).evaluation(), 8, 512).token_ids
        quality = measure_candidates(loaded.model, rounded, token_ids, silent)
        found[text] = {one: list(quality[one].kl_nats) for one in formats}
    kept.write_text(json.dumps(found), encoding="utf-8")
    print(f"{name} measured", file=sys.stderr, flush=True)
    return found


def table(everyone: Mapping[str, Values], what: str) -> list[str]:
    """Lay out one kind of measurement.

    Args:
        everyone: what was measured, by calibration.
        what: ``plan`` or ``uniform``.

    Returns:
        Lines of Markdown.
    """
    lines = [f"| {what}, calibrated on | " + " | ".join(f"on {text}" for text in READ_ON) + " | worst over best |"]
    lines.append("|---|" + "---|" * (len(READ_ON) + 1))
    best = {text: min(fmean(of[text][what]) for of in everyone.values()) for text in READ_ON}
    for name, of in everyone.items():
        values = [of[text][what] for text in READ_ON]
        cells = [f"{fmean(one):.4f} ± {stdev(one) / len(one) ** 0.5:.4f}" for one in values]
        worst = max(fmean(one) / best[text] for text, one in zip(READ_ON, values, strict=True))
        lines.append(f"| {name} | {' | '.join(cells)} | {worst:.2f} |")
    return lines


def main() -> None:
    """Measure every calibration, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    everyone = {name: measure(folder, name) for name in CALIBRATED_ON}
    about = (__doc__ or "").split("\n\n")
    lines = ["# Calibration text", "", about[0], "", about[2].replace(" Writes results/texts.md.", "").strip(), ""]
    lines += ["KL in nats per token ± one standard error. The last column: on the text where it does worst, how many"]
    lines += ["times the loss of what does best there.", ""]
    lines += [*table(everyone, "plan"), "", *table(everyone, "uniform")]
    (RESULTS / "texts.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
