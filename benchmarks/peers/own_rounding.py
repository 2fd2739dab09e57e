"""Tools with their own rounding, at equal bytes of codes, scales and zero points; measured like everyone else.

Ours is the plan with all widths, rounded block by block against quantized inputs, as ``apply`` does. auto-round rounds
its own allocation, block by block, without its descent (0 steps) unless other numbers are given; with descent our plan
too, which shows what is due to the allocation and what to the rounding. ModelOpt rounds its own to nearest, plainly and
with AWQ. GPTQModel's uniform GPTQ comes from ``gptqmodel_reference.py``, whose folder is given. NNCF's torch backend
cannot write widths below 4.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allocation import HERE, Peer, run
from allocation import PEERS as ALL_PEERS
from entries import OURS_ALL, Entry
from environments import interpreter
from measure import evaluation_text, keep_quality, quality_of, read_quality
from safetensors.torch import load_file

from scantling.common.progress import silent
from scantling.evaluation.quality import Quality, measure_candidates
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.quantization.grid import CastMatrix, Rounded
from scantling.sensitivity.profile import Profile
from scantling.sensitivity.sequential_rounding import QUANTIZED_INPUTS, round_as_shipped

AUTO_ROUND = next(peer for peer in ALL_PEERS if peer.script == "auto_round")
MODELOPT = next(peer for peer in ALL_PEERS if peer.script == "modelopt")


@dataclass(frozen=True)
class Own:
    """An allocation with a rounding of its tool.

    Attributes:
        entry: the allocation.
        rounding: in words.
        peer: that rounds; None for ours.
        setting: of its script: steps of auto-round's descent, ModelOpt's algorithm.
    """

    entry: Entry
    rounding: str
    peer: Peer | None = None
    setting: str = ""

    @property
    def key(self) -> str:
        """By which the measurement is found again."""
        by = "quantized-inputs" if self.peer is None else f"{self.peer.script}-{self.setting}".replace("_", "-")
        return f"{self.entry.key}-{by}"


def owners(everyone: Sequence[Entry], steps: Sequence[int]) -> list[Own]:
    """Say who rounds by its own means.

    Args:
        everyone: the entries.
        steps: of auto-round's descent, once with each number.

    Returns:
        Those who do, in the order of the table.
    """
    found = [Own(one, "GPTQ, against quantized inputs") for one in everyone if one.name == OURS_ALL]
    settings = (
        *((AUTO_ROUND, f"its own, {number} steps of descent", str(number)) for number in steps),
        (MODELOPT, "its own, to nearest", "max"),
        (MODELOPT, "its own, AWQ", "awq_lite"),
    )
    for peer, words, setting in settings:
        found += [Own(one, words, peer, setting) for one in everyone if one.name == peer.name]
    for number in filter(None, steps):
        words = f"auto-round's, {number} steps of descent"
        found += [Own(one, words, AUTO_ROUND, str(number)) for one in everyone if one.name == OURS_ALL]
    return found


def rounded_by(peer: Peer, folder: Path, own: Own) -> dict[str, Rounded] | None:
    """Let a peer round its allocation.

    Args:
        peer: the peer.
        folder: of the benchmark.
        own: the allocation.

    Returns:
        The matrices; None where it failed.
    """
    script, target = HERE / f"round_with_{peer.script}.py", folder / "own" / f"{own.key}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    python = interpreter(script, folder / "environments" / peer.script)
    widths = target.with_suffix(".widths.json")
    bits = {name: int(wanted[3]) for name, wanted in own.entry.formats.items() if wanted.startswith("int")}
    widths.write_text(json.dumps({"bits": bits}))
    words = [str(word) for word in (script, folder / "material", widths, own.setting, target)]
    took = run(python, words, target.with_suffix(".log"))
    if took.status:
        failed = f"{peer.name} failed with status {took.status}: {target.with_suffix('.log')}"
        print(failed, file=sys.stderr, flush=True)
        return None
    found: dict[str, Rounded] = {name: CastMatrix(values) for name, values in load_file(target).items()}
    target.unlink()
    return found


def measure_own(profile: Profile, folder: Path, everyone: Sequence[Own]) -> None:
    """Round and measure who was not measured yet.

    Args:
        profile: says how ours is rounded, and what was calibrated on.
        folder: of the benchmark.
        everyone: who rounds by its own means.
    """
    telling_first = sorted(everyone, key=lambda own: own.entry.target < 3.0)
    waiting = [own for own in telling_first if quality_of(folder, own.key) is None]
    if not waiting:
        return
    loaded = load_model(str(demo_model_path()))
    token_ids = evaluation_text(loaded, profile).token_ids
    for own in waiting:
        if own.peer is None:
            formats = {own.key: own.entry.formats}
            records = round_as_shipped(loaded, profile, formats, QUANTIZED_INPUTS, silent)[own.key]
        else:
            records = rounded_by(own.peer, folder, own)
        if records is not None:
            found = measure_candidates(loaded.model, {own.key: records}, token_ids, silent)[own.key]
            keep_quality(folder, own.key, found)
            print(f"{own.entry.name} {own.entry.target}, {own.rounding}: {found.mean_kl_nats:.4f}", flush=True)


def gptqmodel(folder: Path | None, bits: int) -> Quality | None:
    """Read what ``gptqmodel_reference.py`` measured on the usual eight sequences.

    Args:
        folder: its folder; None where it was not run.
        bits: the width.

    Returns:
        The quality; None where this width was not run.
    """
    return None if folder is None else read_quality(folder / f"theirs-int{bits}-g64.json")
