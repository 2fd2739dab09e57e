"""Reproduce the figures of the integer program: `python benchmarks/program.py`, about ten minutes on two quiet cores.

Seconds are those from the record of the program to the verified answer, presolve included; medians over seven programs
that differ by their seed. Every case runs in a process of its own, whose peak memory is told.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from made_programs import QWEN_32B, SMOLLM_135M, made_program, share_of_range
from peer_solvers import PEERS

from scantling.solver.compilation import compile_instance
from scantling.solver.frontier import frontier
from scantling.solver.instance import Instance
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.registry import solver_named
from scantling.solver.rules import Limit
from scantling.solver.solve import solve

RESULTS = Path(__file__).parent / "results" / "program.md"
SEEDS = range(7)
SEEDS_OF_THE_LARGEST = range(3)  # up to a minute each
LARGEST = "20,000 × 8, 2 limits, optimum"
THREADS = 2
CASES = {
    "210 × 6, 1 limit": (SMOLLM_135M, 30, 6, {"memory": 0.2}, False, 0.0),
    "448 × 8, 4 limits, ties, 3 formats": (
        QWEN_32B, 64, 8, {"memory": 0.30, "power": 0.30, "speed": 0.36, "average_bits": 0.295}, True, 0.0,
    ),
    "448 × 8, 4 limits": (
        QWEN_32B, 64, 8, {"memory": 0.30, "power": 0.30, "speed": 0.36, "average_bits": 0.295}, False, 0.0,
    ),
    "20,000 × 8, 2 limits, gap 1e-4": (QWEN_32B, 2858, 8, {"memory": 0.25, "speed": 0.3}, False, 1e-4),
    LARGEST: (QWEN_32B, 2858, 8, {"memory": 0.25, "speed": 0.3}, False, 0.0),
}  # fmt: skip


def program(case: str, seed: int) -> tuple[Instance, SolverSettings]:
    """Make a case's program."""
    shapes, num_blocks, num_formats, shares, tied, gap = CASES[case]
    made = made_program(shapes, num_blocks, num_formats, shares, seed, tied_and_distinct=tied)
    return made, SolverSettings(120.0, 0, THREADS, gap)


def measure(case: str, solver_name: str) -> dict[str, Any]:
    """Solve a case for every seed, in this process."""
    solver = solver_named(solver_name)
    warm, settings = program("210 × 6, 1 limit", 99)
    solve(warm, solver, settings)  # the worker starts, libraries load
    seconds, statuses, cores, gaps = [], [], [], []
    for seed in SEEDS_OF_THE_LARGEST if case == LARGEST else SEEDS:
        instance, settings = program(case, seed)
        found = solve(instance, solver, settings)
        seconds.append(found.seconds)
        statuses.append(found.status.name)
        cores.append(found.core_options)
        gaps.append(found.proofs[0].gap / found.proofs[0].value if found.proofs else float("nan"))
    return {"seconds": seconds, "statuses": statuses, "cores": cores, "gaps": gaps, "peak": peak_gib()}


def measure_alone(case: str, solver_name: str) -> dict[str, Any]:
    """Give the whole statement to the solver, without presolve; one seed, 60 seconds."""
    solver = solver_named(solver_name)
    instance, settings = program(case, 0)
    settings = replace(settings, time_limit_seconds=60.0)
    statement = compile_instance(instance)
    assert statement is not None
    began = time.perf_counter()
    found = solver.solve(statement, settings)
    taken = time.perf_counter() - began
    objective = None if found.chosen is None else statement.objective(found.chosen)
    gap = None if objective is None or found.bound is None else (objective - found.bound) / objective
    return {"seconds": taken, "status": found.status.name, "gap": gap, "peak": peak_gib()}


def measure_frontier(solver_name: str) -> dict[str, Any]:
    """Forty points of memory on the tied case, the other three limits staying."""
    solver = solver_named(solver_name)
    warm, settings = program("210 × 6, 1 limit", 99)
    solve(warm, solver, settings)
    seconds, proven = [], 0
    for seed in SEEDS:
        instance, settings = program("448 × 8, 4 limits, ties, 3 formats", seed)
        rules = [rule for rule in instance.rules if rule.name != "memory"]
        row = instance.row("memory")
        bounds = [share_of_range(row, 0.02 + 0.4 * k / 39) for k in range(40)]
        began = time.perf_counter()
        points = list(frontier(instance.with_rules(rules), "memory", bounds, solver, settings))
        seconds.append(time.perf_counter() - began)
        proven += sum(point.solution.status.name == "OPTIMAL" for point in points)
    return {"seconds": seconds, "proven": proven, "points": 40 * len(SEEDS), "peak": peak_gib()}


def measure_peers() -> dict[str, Any]:
    """One budget, three ways of other tools and ours: what they lose against the optimum, and seconds."""
    rows: dict[str, dict[str, list[float]]] = {}
    solver = solver_named("cpsat")
    for label, (shapes, blocks) in {"210 × 6": (SMOLLM_135M, 30), "448 × 6": (QWEN_32B, 64)}.items():
        for seed in SEEDS:
            instance = made_program(shapes, blocks, 6, {"memory": 0.2}, seed)
            (limit,) = instance.rules
            assert isinstance(limit, Limit)
            assert limit.at_most is not None
            ours = solve(instance, solver, SolverSettings(60.0, 0, THREADS))
            optimum = ours.proofs[0].value
            add(rows, f"{label}: scantling", 0.0, ours.seconds)
            losses = np.array(instance.domains[0].loss_increase_nats)
            stored = np.array(instance.row("memory").amounts)
            for name, choose in PEERS.items():
                began = time.perf_counter()
                chosen = choose(losses, stored, limit.at_most)
                taken = time.perf_counter() - began
                units = np.arange(len(losses))
                assert stored[units, chosen].sum() <= limit.at_most
                add(rows, f"{label}: {name}", losses[units, chosen].sum() / optimum - 1, taken)
    return {"rows": rows}


def add(rows: dict[str, dict[str, list[float]]], name: str, excess: float, seconds: float) -> None:
    """Note one run."""
    row = rows.setdefault(name, {"excess": [], "seconds": []})
    row["excess"].append(float(excess))
    row["seconds"].append(seconds)


def peak_gib() -> float:
    """Peak memory of this process and of its workers."""
    usages = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usages) / 2**20


def fresh(*words: str) -> dict[str, Any]:
    """Run one measurement in a new process."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure everything and write the page."""
    lines = ["# The integer program", "", "`python benchmarks/program.py`; two shared cores, two threads.", ""]
    lines += ["| program | solver | median s | slowest s | proven | core options | largest gap | peak GiB |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for case in CASES:
        for solver in ("cpsat", "highs"):
            got = fresh("measure", case, solver)
            seconds, statuses = got["seconds"], got["statuses"]
            lines.append(
                f"| {case} | {solver} | {statistics.median(seconds):.3f} | {max(seconds):.3f} | "
                f"{statuses.count('OPTIMAL')} of {len(statuses)} | {statistics.median(got['cores']):.0f} | "
                f"{max(got['gaps']):.0e} | {got['peak']:.2f} |"
            )
            print(lines[-1], flush=True)
    lines += ["", "The same without our presolve, one program each, 60 s at most:", ""]
    lines += ["| program | solver | s | status | gap | peak GiB |", "|---|---|---|---|---|---|"]
    for case in list(CASES)[:4]:
        for solver in ("cpsat", "highs"):
            got = fresh("alone", case, solver)
            gap = "none" if got["gap"] is None else f"{got['gap']:.0e}"
            lines.append(f"| {case} | {solver} | {got['seconds']:.1f} | {got['status']} | {gap} | {got['peak']:.2f} |")
            print(lines[-1], flush=True)
    lines += ["", "A frontier of 40 points over memory, of the tied 448-unit program, the other limits staying:", ""]
    lines += ["| solver | median s | slowest s | proven points | peak GiB |", "|---|---|---|---|---|"]
    for solver in ("cpsat", "highs"):
        got = fresh("frontier", solver)
        lines.append(
            f"| {solver} | {statistics.median(got['seconds']):.1f} | {max(got['seconds']):.1f} | "
            f"{got['proven']} of {got['points']} | {got['peak']:.2f} |"
        )
        print(lines[-1], flush=True)
    lines += ["", "One memory limit, solved as other tools do; loss above the proven optimum, medians of seven:", ""]
    lines += ["| program: way | loss above the optimum | worst | s |", "|---|---|---|---|"]
    for name, row in fresh("peers")["rows"].items():
        excess, seconds = row["excess"], row["seconds"]
        lines.append(
            f"| {name} | {statistics.median(excess):.3%} | {max(excess):.3%} | {statistics.median(seconds):.3f} |"
        )
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    verbs = {"measure": measure, "alone": measure_alone, "frontier": measure_frontier, "peers": measure_peers}
    if len(sys.argv) > 1:
        print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:])))
    else:
        main()
