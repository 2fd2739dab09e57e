"""Efficiencies of llama.cpp's CPU kernels on this machine, type by type: `python benchmarks/kernels.py FOLDER`.

Measured by `scantling hardware measure --kernels` on one thread, fitted by `hardware fit`. Beside them stand published
effective bandwidths relative to F16, of whole models on other hardware: they show whether one machine's figures can
stand for another's.

Results go to results/kernels.md.
"""

import json
import sys
from pathlib import Path

from our_command import command

RESULTS = Path(__file__).parent / "results" / "kernels.md"
PUBLISHED = {"Q8_0": 0.93, "Q6_K": 0.82, "Q5_K": 0.82, "Q4_K": 0.77, "IQ4_XS": 0.74, "Q3_K": 0.64, "Q2_K": 0.57,
             "IQ3_S": 0.54, "IQ2_XXS": 0.41}  # fmt: skip
OTHERS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL")


def main(folder: Path) -> None:
    """Measure, fit, write."""
    folder.mkdir(parents=True, exist_ok=True)
    points, hardware = folder / "kernels.csv", folder / "kernels.yaml"
    names = ("float16", *PUBLISHED, *OTHERS)
    words = ("hardware", "measure", "--kernels", ",".join(names), "--threads", "1", "--seconds", "2", "--json")
    told = json.loads(command(*words, "-o", str(points)).splitlines()[-1])
    bandwidth = f"{told['read_bytes_per_second'] / 1e9:.4g} GB/s"
    fitted = json.loads(
        command("hardware", "fit", str(points), "--bandwidth", bandwidth, "-o", str(hardware), "--json")
    )
    numbers = {number["name"].removeprefix("efficiency of "): number for number in fitted[0]["numbers"]}
    lines = ["# llama.cpp's CPU kernels", "", (__doc__ or "").split("\n\n")[1].strip(), ""]
    lines += [f"{told['engine']}; memory was read at {bandwidth} by the same thread.", ""]
    lines += [
        "| type | η (95 %) | relative to float16 | published | law on all matrices, from fewer |",
        "|---|---|---|---|---|",
    ]
    errors = {
        run["format"]: run["predicted_tokens_per_second"] / run["measured_tokens_per_second"] - 1
        for run in told["runs"]
        if run["whole"]
    }
    for name in names:
        number = numbers[name]
        half = number["interval_half_width"]
        lines.append(
            f"| {name} | {number['value']:.3f} ± {half:.3f} | {number['value'] / numbers['float16']['value']:.2f} "
            f"| {PUBLISHED.get(name, '')} | {errors[name]:+.1%} |"
        )
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
