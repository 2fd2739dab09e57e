"""Other tools' allocations beside ours: the same model, text, formats, rounding and average bits.

Every peer runs in an environment of its own with pinned versions (the head of its script names them), gets the same
calibration text as our profile, and says how many bits each layer gets. All allocations are then rounded by our GPTQ as
PROFILE says and measured on the same 24 × 512 tokens. Every step is kept in FOLDER, so that a stopped run goes on:

    scantling profile MODEL -o PROFILE --text wikipedia --formats int2-g64,int3-g64,int4-g64,int5-g64,int6-g64,int8-g64
    python benchmarks/peers PROFILE FOLDER

A second table lets tools round as they do themselves. The results go to results/peers.md.
"""

import argparse
from pathlib import Path

from allocation import AVERAGE_BITS, PEERS, allocate, allocation_path
from contenders import contenders
from material import prepare
from measure import measure
from scantling.sensitivity.profile import read_profile

STEPS = ("prepare", "allocate", "measure")


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--peers", nargs="+", default=[peer.script for peer in PEERS])
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no further measurement after these")
    arguments = parser.parse_args()
    folder = arguments.folder
    if "prepare" in arguments.steps:
        prepare(arguments.profile, folder / "material")
    if "allocate" in arguments.steps:
        for peer in PEERS:
            for average_bits in AVERAGE_BITS:
                if peer.script in arguments.peers and not allocation_path(folder, peer, average_bits).is_file():
                    allocate(folder, peer, average_bits)
    profile = read_profile(arguments.profile)
    if "measure" in arguments.steps:
        measure(profile, folder, contenders(profile, folder), arguments.minutes)


if __name__ == "__main__":
    main()
