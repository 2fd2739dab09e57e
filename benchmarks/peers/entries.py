"""Everyone in the comparison: uniform quantization, the peers' allocations, and plans of ours under the same rules.

Ours are solved from PROFILE at the same average bits, in three ways: the widths 2, 3, 4, 8 with q/k/v and gate/up tied,
as ModelOpt has them; the same widths without ties; and 2, 3, 4, 5, 6, 8 without ties. Where ``cost_of_ours`` has made
its quick profile, there is a fourth: the peers' widths without ties, by that.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from allocation import AVERAGE_BITS, PEERS, Allocation, allocation_path
from cost_of_ours import quick_profile_path

from scantling.planning.baselines import SAME_BYTES, baselines
from scantling.planning.program import Program
from scantling.planning.solve import choose_formats
from scantling.quantization.formats import IntegerFormat, parse_format
from scantling.sensitivity.profile import Profile, decided_layers, read_profile, uniform_formats
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

GROUP_SIZE, FLOAT_BITS = 64, 16
ATTENTION, MLP = ("*.q_proj", "*.k_proj", "*.v_proj"), ("*.gate_proj", "*.up_proj")
PEERS_WIDTHS, ALL_WIDTHS = (2, 3, 4, 8), (2, 3, 4, 5, 6, 8)
OURS_TIED, OURS_UNTIED, OURS_ALL = "ours, 2/3/4/8, tied", "ours, 2/3/4/8", "ours, 2/3/4/5/6/8"
OURS_QUICK = "ours, 2/3/4/8, quick"
UNIFORM = "uniform"


@dataclass(frozen=True)
class Entry:
    """One row of the comparison.

    Attributes:
        name: as tables show it.
        target: the average bits asked for.
        formats: of every layer.
        allocation: what the peer said; None for ours and for uniform quantization.
    """

    name: str
    target: float
    formats: dict[str, str]
    allocation: Allocation | None = None

    @property
    def key(self) -> str:
        """A digest of the formats, by which measurements are found again."""
        return hashlib.sha256(json.dumps(sorted(self.formats.items())).encode()).hexdigest()[:16]


def ours(profile: Profile, target: float, widths: tuple[int, ...], *, tied: bool) -> dict[str, str]:
    """Solve for the best formats.

    Args:
        profile: of the demo model.
        target: average bits at most.
        widths: that may be used.
        tied: whether q/k/v and gate/up have one format each.

    Returns:
        The format of every layer.
    """
    program = Program(profile).limit("average_bits", at_most=target)
    if set(widths) < offered_widths(profile):  # a rule without effect is refused
        program = program.allow("*_proj", [f"int{bits}-g{GROUP_SIZE}" for bits in widths])
    if tied:
        program = program.tie(ATTENTION, per="block").tie(MLP, per="block")
    return choose_formats(program.instance(), CpSatSolver(), SolverSettings())


def offered_widths(profile: Profile) -> set[int]:
    """Give the widths of the formats that a profile has."""
    formats = map(parse_format, profile.record.formats)
    return {target.bits for target in formats if isinstance(target, IntegerFormat)}


def formats_of(profile: Profile, bits: dict[str, int]) -> dict[str, str]:
    """Turn a peer's widths into formats.

    Args:
        profile: knows the layers.
        bits: by layer, of all layers that are decided; 16 where it left a layer alone.

    Returns:
        The format of every layer; embedding and head stay in 16 bits.
    """
    decided = {layer.name for layer in decided_layers(profile)}
    given = {name for name, width in bits.items() if width < FLOAT_BITS}
    assert decided == given, f"the peer decided {sorted(given ^ decided)} otherwise"
    kept = uniform_formats(profile, f"int4-g{GROUP_SIZE}")
    return {name: f"int{bits[name]}-g{GROUP_SIZE}" if name in decided else own for name, own in kept.items()}


def uniform(profile: Profile, target: float, plan: dict[str, str]) -> Entry:
    """Give uniform quantization of a size; between two widths both, spread evenly over the layers."""
    if target == int(target):
        return Entry(UNIFORM, target, uniform_formats(profile, f"int{int(target)}-g{GROUP_SIZE}"))
    found = baselines(profile, plan, [SAME_BYTES])[0]
    return Entry(UNIFORM, target, found.formats)


def entries(profile: Profile, folder: Path) -> list[Entry]:
    """Gather everyone who is there.

    Args:
        profile: of the demo model.
        folder: of the benchmark.

    Returns:
        By target: uniform, the peers that answered, ours.
    """
    found, quick_path = [], quick_profile_path(folder / "ours")
    quick = read_profile(quick_path) if quick_path.is_file() else None
    for target in AVERAGE_BITS:
        ways = ((OURS_TIED, PEERS_WIDTHS, True), (OURS_UNTIED, PEERS_WIDTHS, False), (OURS_ALL, ALL_WIDTHS, False))
        plans = [Entry(name, target, ours(profile, target, widths, tied=tied)) for name, widths, tied in ways]
        found.append(uniform(profile, target, plans[-1].formats))
        for peer in PEERS:
            path = allocation_path(folder, peer, target)
            if path.is_file():
                said = Allocation.model_validate_json(path.read_text())
                found.append(Entry(peer.name, target, formats_of(profile, said.bits), said))
        found += plans
        if quick is not None:
            found.append(Entry(OURS_QUICK, target, ours(quick, target, PEERS_WIDTHS, tied=False)))
    return found
