"""A peer's allocation: asked for in its own environment, timed, and kept as a file.

Seconds and peak memory are those of the whole process, the loading of the model included.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from environments import interpreter

from scantling.common.files import whole_file
from scantling.common.records import Record

HERE = Path(__file__).parent


class Allocation(Record):
    """What a peer chose.

    Attributes:
        peer: its name.
        average_bits: that were asked for.
        bits: by layer.
        seconds: of its process.
        cpu_seconds: of its process, on all cores together.
        peak_gib: resident memory of its process at most.
        scores_were_there: an earlier target had paid for them.
    """

    peer: str
    average_bits: float
    bits: dict[str, int]
    seconds: float
    cpu_seconds: float
    peak_gib: float
    scores_were_there: bool


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        name: as tables show it.
        script: allocates in the peer's environment.
        ties: what the peer gives one width, in words.
    """

    name: str
    script: str
    ties: str = "none"

    @property
    def path(self) -> Path:
        """The script's file."""
        return HERE / f"allocate_with_{self.script}.py"


PEERS = (
    Peer("AutoScheme", "auto_round"),
    Peer("ModelOpt", "modelopt", "q/k/v, gate/up"),
    Peer("NNCF", "nncf"),
    Peer("mlx-lm's rule", "mlx_rule"),
)
AVERAGE_BITS = (2.5, 3.0, 3.5, 4.0)


@dataclass(frozen=True)
class Run:
    """What a process took.

    Attributes:
        status: its exit status.
        seconds: by the clock.
        cpu_seconds: on all cores together, which a shared machine changes less.
        peak_gib: resident memory at most.
    """

    status: int
    seconds: float
    cpu_seconds: float
    peak_gib: float


def run(python: Path, words: list[str], log: Path) -> Run:
    """Run a script and watch it.

    Args:
        python: its interpreter.
        words: the script and its arguments.
        log: for all that it prints.

    Returns:
        What it took.
    """
    start = time.perf_counter()
    with log.open("w") as opened:
        actions = [(os.POSIX_SPAWN_DUP2, opened.fileno(), stream) for stream in (1, 2)]
        child = os.posix_spawn(python, [str(python), *words], os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
    seconds, cpu_seconds = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return Run(os.waitstatus_to_exitcode(status), seconds, cpu_seconds, usage.ru_maxrss / 2**20)


def allocation_path(folder: Path, peer: Peer, average_bits: float) -> Path:
    """Say where an allocation is kept.

    Args:
        folder: of the benchmark.
        peer: whose.
        average_bits: asked for.

    Returns:
        The file.
    """
    return folder / "allocations" / f"{peer.script}-{average_bits}.json"


def allocate(folder: Path, peer: Peer, average_bits: float) -> None:
    """Let a peer allocate; a failure leaves its log and no allocation.

    Args:
        folder: of the benchmark, with its material.
        peer: the peer.
        average_bits: over the weights of all blocks.
    """
    path = allocation_path(folder, peer, average_bits)
    kept, answer, log = folder / "kept" / peer.script, path.with_suffix(".answer"), path.with_suffix(".log")
    for parent in (path.parent, kept):
        parent.mkdir(parents=True, exist_ok=True)
    python = interpreter(peer.path, folder / "environments" / peer.script)
    scores_were_there = any(kept.iterdir())
    print(f"{peer.name} at {average_bits} bits …", file=sys.stderr, flush=True)
    words = [str(word) for word in (peer.path, folder / "material", kept, average_bits, answer)]
    took = run(python, words, log)
    if took.status:
        print(f"{peer.name} failed with status {took.status}: {log}", file=sys.stderr, flush=True)
        return
    found = Allocation(
        peer=peer.name,
        average_bits=average_bits,
        bits=json.loads(answer.read_text())["bits"],
        seconds=took.seconds,
        cpu_seconds=took.cpu_seconds,
        peak_gib=took.peak_gib,
        scores_were_there=scores_were_there,
    )
    with whole_file(path) as partial:
        partial.write_text(found.model_dump_json())
