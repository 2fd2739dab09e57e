r"""The same bytes, and more for the program to choose from: plans of other profiles of the same model.

Each further profile was made on the same text, with other formats offered, or rounded in another way. Its plans take at
most the bytes of ours with all widths, and are rounded as that profile says. With W for int2-g64, int3-g64, int4-g64,
int5-g64, int6-g64 and int8-g64, those of results/peers.md are

    scantling profile MODEL -o GROUPS --text wikipedia --formats W,int2-g32,int3-g32,int4-g32,int4-row,int5-row,\
        int6-row,int3-g64-sym,int4-g64-sym,int5-g64-sym,int6-g64-sym
    scantling profile MODEL -o EMBEDDING --text wikipedia --formats W --include embedding
    scantling profile MODEL -o AWQ --text wikipedia --formats W --rounding awq+gptq
    python benchmarks/peers PROFILE FOLDER --further "groups of 32 and 64, whole rows, symmetric too=GROUPS" \
        "embedding too=EMBEDDING" "AWQ and GPTQ=AWQ"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allocation import AVERAGE_BITS
from entries import OURS_ALL, Entry
from measure import evaluation_text, keep_quality, quality_of
from report import EIGHT, Measured, mean, ratio

from scantling.common.progress import silent
from scantling.evaluation.bootstrap import BlockBootstrap
from scantling.evaluation.quality import measure_candidates
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.planning.program import Program
from scantling.planning.solve import choose_formats
from scantling.sensitivity.profile import Profile, read_profile
from scantling.sensitivity.round_model import round_assignments
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver


@dataclass(frozen=True)
class Further:
    """A plan of another profile.

    Attributes:
        name: of the profile, as the table shows it.
        profile: prices, and says how its formats are rounded.
        entry: its plan at one target.
    """

    name: str
    profile: Profile
    entry: Entry

    @property
    def key(self) -> str:
        """By which the measurement is found again; a way of rounding has measurements of its own."""
        return f"{self.entry.key}-{self.profile.record.rounding['method']}".replace("+", "-")


def of_the_same_bytes(profile: Profile, at_most_bytes: int) -> dict[str, str]:
    """Solve for the best formats that take so many bytes.

    Args:
        profile: offers them.
        at_most_bytes: of all tensors.

    Returns:
        The format of every layer.
    """
    program = Program(profile).limit("stored_bytes", at_most=f"{at_most_bytes} B")
    return choose_formats(program.instance(), CpSatSolver(), SolverSettings())


def further_plans(profile: Profile, everyone: Sequence[Entry], named: Sequence[str]) -> list[Further]:
    """Solve every further profile at every size.

    Args:
        profile: of the demo model, that of the other tables.
        everyone: the entries of the other tables.
        named: ``NAME=PROFILE``.

    Returns:
        By profile and size.
    """
    sizes = {one.target: profile.stored_bytes(one.formats) for one in everyone if one.name == OURS_ALL}
    found = []
    for name, path in (words.rsplit("=", 1) for words in named):
        other = read_profile(Path(path))
        for target in AVERAGE_BITS:
            formats = of_the_same_bytes(other, sizes[target])
            found.append(Further(name, other, Entry(name, target, formats)))
    return found


def measure_further(profile: Profile, folder: Path, plans: Sequence[Further]) -> None:
    """Measure what was not measured yet.

    Args:
        profile: says what was calibrated on.
        folder: of the benchmark.
        plans: of further profiles.
    """
    waiting = [plan for plan in plans if quality_of(folder, plan.key) is None]
    if not waiting:
        return
    loaded = load_model(str(demo_model_path()))
    token_ids = evaluation_text(loaded, profile).token_ids
    for name in dict.fromkeys(plan.name for plan in waiting):
        of_profile = [plan for plan in waiting if plan.name == name]
        assignments = {plan.key: plan.entry.formats for plan in of_profile}
        records = round_assignments(loaded, of_profile[0].profile, assignments, silent)
        found = measure_candidates(loaded.model, records, token_ids, silent)
        for plan in of_profile:
            keep_quality(folder, plan.key, found[plan.key])
            print(f"{name}, {plan.entry.target}: {found[plan.key].mean_kl_nats:.4f}", flush=True)


def further_table(folder: Path, plans: Sequence[Further], measured: Measured, resampling: BlockBootstrap) -> list[str]:
    """Put further plans beside ours with all widths.

    Args:
        folder: of the benchmark.
        plans: of further profiles.
        measured: of the entries.
        resampling: of the documents.

    Returns:
        Lines of Markdown; none where nothing was measured.
    """
    rows = []
    for target in AVERAGE_BITS:
        for plan in plans:
            quality = quality_of(folder, plan.key)
            if plan.entry.target == target and quality is not None:
                formats = plan.entry.formats
                size, predicted = plan.profile.stored_bytes(formats), plan.profile.predict(formats)[0]
                figures = f"{mean(quality.kl_nats[EIGHT]):.3f} | {mean(quality.kl_nats):.3f}"
                over = ratio(quality, measured[OURS_ALL, target], resampling)
                rows.append(f"| {target} | {plan.name} | {size:,} | {predicted:.3f} | {figures} | {over} |")
    header = [
        f"| target | | bytes | predicted KL | KL on 8 | KL on 24 | over {OURS_ALL} |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*header, *rows] if rows else []
