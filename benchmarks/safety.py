"""Factors of safety of the demo model: plans at 2.5, 3, 3.5, 4 bits and uniform 3 and 4, and how stable they are.

python benchmarks/safety.py measure PROFILE FOLDER    # about half an hour on two cores; goes on where it was stopped
python benchmarks/safety.py report PROFILE FOLDER     # seconds: writes benchmarks/results/safety.md and docs/
"""

import sys
from pathlib import Path

from scantling.backends.model import load_model
from scantling.backends.progress import silent
from scantling.evaluation.demo import demo_model_path
from scantling.evaluation.evaluation_text import evaluation_cases
from scantling.evaluation.measured import Measurer
from scantling.evaluation.safety_ladder import ladder
from scantling.sensitivity.final_rounding import ORIGINAL_INPUTS
from scantling.sensitivity.planning import choose_formats, uniform_formats
from scantling.sensitivity.profile import Profile, read_profile
from scantling.sensitivity.program import Program
from scantling.solver.cpsat import CpSat
from scantling.solver.engine import SearchSettings

NUM_SEQUENCES, SEQUENCE_LENGTH, NUM_RUNGS = 48, 512, 13
BITS = (2.5, 3.0, 3.5, 4.0)
UNIFORMS = ("int3-g64", "int4-g64")


def contenders(profile: Profile) -> dict[str, dict[str, str]]:
    """Give the plans whose factors are asked for."""
    plans = {
        f"plan at {bits:g} bits": choose_formats(
            Program(profile).limit("average_bits", at_most=bits).instance(), CpSat(), SearchSettings()
        )
        for bits in BITS
    }
    return plans | {f"uniform {name}": uniform_formats(profile, name) for name in UNIFORMS}


def measurer(profile: Profile, folder: Path) -> Measurer:
    """Make what measures, or finds what was measured."""
    loaded = load_model(str(demo_model_path()))
    cases = evaluation_cases(loaded, profile, (), NUM_SEQUENCES, SEQUENCE_LENGTH)
    return Measurer(loaded, profile, cases, ORIGINAL_INPUTS, folder, silent)


def measure(profile: Profile, folder: Path) -> None:
    """Measure everything."""
    measurer(profile, folder).measure(ladder(profile, NUM_RUNGS, silent) | contenders(profile))


if __name__ == "__main__":
    command, profile_path, kept = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    {"measure": measure}[command](read_profile(profile_path), kept)
