"""Other tools' allocations beside ours: the same model, text, formats, rounding and average bits.

Every peer runs in an environment of its own with pinned versions (the head of its script names them), gets the same
calibration text as our profile, and says how many bits each layer gets. All allocations are then rounded by our GPTQ as
PROFILE says and measured on the same 24 × 512 tokens. Every step is kept in FOLDER, so that a stopped run goes on:

    scantling profile MODEL -o PROFILE --text wikipedia --formats int2-g64,int3-g64,int4-g64,int5-g64,int6-g64,int8-g64
    python benchmarks/peers PROFILE FOLDER

A second table lets tools round as they do themselves. The results go to results/peers.md, whatever is there.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from allocation import AVERAGE_BITS, PEERS, allocate, allocation_path
from cost_of_ours import cost_rows, measure_cost
from entries import Entry, entries
from further import Further, further_plans, further_table, measure_further
from material import prepare
from measure import documents_of, measure
from own_rounding import measure_own, owners
from report import (
    OwnRow,
    cost_table,
    main_table,
    measured_of,
    original_of,
    own_rows,
    own_table,
    own_targets,
    ratio_table,
    short_table,
    targets,
    unavailable,
    versions,
)

from scantling.common.files import whole_file
from scantling.evaluation.bootstrap import BlockBootstrap
from scantling.sensitivity.profile import Profile, read_profile

RESULTS = Path(__file__).parents[1] / "results" / "peers.md"
ELSEWHERE = (
    "llama.cpp's own mixes beside plans of their exact size, in llama.cpp itself: [gguf.md](gguf.md). Rounding: "
    "[rounding.md](rounding.md)."
)
STEPS_OF_ENTRIES = ("measure", "own", "further", "report")
STEPS = ("prepare", "allocate", "cost", *STEPS_OF_ENTRIES)


def report(
    profile: Profile,
    folder: Path,
    everyone: Sequence[Entry],
    further: Sequence[Further],
    own: Mapping[float, Sequence[OwnRow]],
) -> list[str]:
    """Put the tables together.

    Args:
        profile: of the demo model.
        folder: of the benchmark.
        everyone: the entries.
        further: plans of further profiles.
        own: tools with their own rounding, by target.

    Returns:
        Lines of Markdown.
    """
    measured = measured_of(folder, everyone)
    documents = documents_of(folder)
    resampling = BlockBootstrap(documents)
    sections = {
        "In short: KL on 8 × 512 tokens, in brackets on 24 × 512": short_table(measured),
        "Allocations, all rounded by our GPTQ": main_table(profile, everyone, measured, resampling),
        "Ours over theirs": ratio_table(measured, resampling),
        "What was aimed at": [*targets(measured, resampling), *own_targets(own, documents)],
        "The same bytes, more to choose from": further_table(folder, further, measured, resampling),
        "What allocation takes": cost_table(everyone, cost_rows(folder / "ours")),
        "With their own rounding": own_table(own),
        "Not there": unavailable(folder, everyone),
    }
    intro = f"KL in nats per token, from {resampling.num_documents} documents. {original_of(folder)}"
    sections["Elsewhere"] = [ELSEWHERE]
    body = [line for title, lines in sections.items() if lines for line in (f"### {title}", "", *lines, "")]
    return [intro, "", *body, versions(), ""]


def allocate_all(folder: Path, scripts: Sequence[str]) -> None:
    """Ask peers for what they did not answer yet.

    Args:
        folder: of the benchmark.
        scripts: of the peers.
    """
    for peer in PEERS:
        for average_bits in AVERAGE_BITS:
            if peer.script in scripts and not allocation_path(folder, peer, average_bits).is_file():
                allocate(folder, peer, average_bits)


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--peers", nargs="+", default=[peer.script for peer in PEERS])
    parser.add_argument(
        "--steps-of-descent", type=int, nargs="+", default=[0], help="of auto-round's own rounding, for each block"
    )
    parser.add_argument("--gptqmodel", type=Path, help="folder of gptqmodel_reference.py")
    parser.add_argument("--further", nargs="+", default=[], metavar="NAME=PROFILE", help="of the same model and text")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further measurement after these")
    arguments = parser.parse_args()
    folder = arguments.folder
    if "prepare" in arguments.steps:
        prepare(arguments.profile, folder / "material")
    if "allocate" in arguments.steps:
        allocate_all(folder, arguments.peers)
    if "cost" in arguments.steps:
        measure_cost(folder / "ours")
    if set(arguments.steps) & set(STEPS_OF_ENTRIES):
        of_entries(arguments)


def of_entries(arguments: argparse.Namespace) -> None:
    """Solve our plans, once for all steps that need them, and do those.

    Args:
        arguments: of the command.
    """
    folder, profile = arguments.folder, read_profile(arguments.profile)
    everyone = entries(profile, folder)
    own = owners(everyone, arguments.steps_of_descent)
    further = further_plans(profile, everyone, arguments.further)
    if "measure" in arguments.steps:
        measure(profile, folder, everyone, arguments.minutes)
    if "own" in arguments.steps:
        measure_own(profile, folder, own)
    if "further" in arguments.steps:
        measure_further(profile, folder, further)
    if "report" in arguments.steps:
        rows = own_rows(folder, own, profile, arguments.gptqmodel)
        lines = report(profile, folder, everyone, further, rows)
        with whole_file(RESULTS) as partial:
            partial.write_text("\n".join(lines), encoding="utf-8")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
