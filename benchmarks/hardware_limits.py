"""Memory, power, speed and loss limited together: `python benchmarks/hardware_limits.py`, a minute.

The made program of 448 units and 8 formats (made_programs.py). Power is limited both at 26 tokens per second and at
full speed. Seconds are from the record of the program to the verified answer. Results go to results/hardware_limits.md.
"""

import math
import statistics
from dataclasses import replace
from pathlib import Path

from made_programs import (
    BANDWIDTH,
    IDLE_WATTS,
    QWEN_32B,
    WATTS_AT_FULL_BANDWIDTH,
    made_program,
    share_of_range,
)

from scantling.solver.instance import LOSS, Instance, Row
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.registry import solver_named
from scantling.solver.rules import Limit, LossLimit
from scantling.solver.solve import solve

RESULTS = Path(__file__).parent / "results" / "hardware_limits.md"
SEEDS = range(7)
SHARES = {"memory": 0.30, "power": 0.30, "speed": 0.36}
OBJECTIVES = {"loss": (LOSS,), "watts at 26 tok/s": ("power",), "seconds per token": ("speed",)}
LOSS_ROOM = 1.2
OVERHEAD_SECONDS = 5e-3


def full_speed_row(instance: Instance, share: float) -> Row:
    """(P0 − Pmax) t + c b / B, with Pmax at a share of what plans draw, in nanojoules."""
    speed, memory = instance.row("speed"), instance.row("memory")

    def watts(column: int) -> float:
        seconds = sum(row[column] for row in speed.amounts) * 1e-12 + OVERHEAD_SECONDS
        read = sum(row[column] for row in memory.amounts)
        return IDLE_WATTS + WATTS_AT_FULL_BANDWIDTH * read / BANDWIDTH / seconds

    drawn = [watts(column) for column in range(len(speed.amounts[0]))]
    most = min(drawn) + (max(drawn) - min(drawn)) * share
    amounts = tuple(
        tuple(
            math.ceil((IDLE_WATTS - most) * pico * 1e-3 + WATTS_AT_FULL_BANDWIDTH * size / BANDWIDTH * 1e9)
            for pico, size in zip(seconds, sizes, strict=True)
        )
        for seconds, sizes in zip(speed.amounts, memory.amounts, strict=True)
    )
    fixed = math.ceil((IDLE_WATTS - most) * OVERHEAD_SECONDS * 1e9)
    return Row("full-speed power", "joules", amounts, fixed, 1e-9)


def program(seed: int, solver: str) -> Instance:
    """The program with all limits; the loss may be a fifth above the least that the others leave."""
    made = made_program(QWEN_32B, 64, 8, SHARES, seed)
    row = full_speed_row(made, 0.8)
    rules = (*made.rules, Limit("full-speed power", row.name, at_most=0))
    limited = replace(made, rows=(*made.rows, row), rules=rules)
    least = solve(limited, solver_named(solver), SolverSettings(120.0, 0, 2)).proofs[0].value
    return replace(limited, rules=(*rules, LossLimit("loss", least * LOSS_ROOM)))


def main() -> None:
    """Solve and write the page."""
    lines = ["# Memory, power, speed and loss limited together", "", "`python benchmarks/hardware_limits.py`", ""]
    lines += [
        "448 units × 8 formats; limits on bytes, on watts at 26 tok/s and at full speed, on seconds per token, and"
    ]
    lines += [
        f"on loss at {LOSS_ROOM} × the least that the others leave. Seven programs, two threads, shared cores.",
        "",
    ]
    lines += [
        "| minimised | solver | proven optimal | median s | slowest s | limits within 1 % of pressing |",
        "|---|---|---|---|---|---|",
    ]
    for solver in ("cpsat", "highs"):
        programs = [program(seed, solver) for seed in SEEDS]
        for label, objective in OBJECTIVES.items():
            seconds, proven, pressing = [], 0, set[str]()
            for instance in programs:
                found = solve(replace(instance, minimise=objective), solver_named(solver), SolverSettings(120.0, 0, 2))
                seconds.append(found.seconds)
                proven += found.status.name == "OPTIMAL"
                assert found.choice is not None
                pressing |= pressing_limits(instance, found.choice)
            lines.append(
                f"| {label} | {solver} | {proven} of {len(SEEDS)} | {statistics.median(seconds):.2f} | "
                f"{max(seconds):.2f} | {', '.join(sorted(pressing))} |"
            )
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pressing_limits(instance: Instance, choice: tuple[int, ...]) -> set[str]:
    """Limits that the plan uses to within 1 % of the range of their row."""
    found = set()
    for rule in instance.rules:
        if isinstance(rule, LossLimit):
            if instance.loss_increase_nats(choice) > 0.99 * rule.at_most_nats:
                found.add("loss")
        elif isinstance(rule, Limit) and rule.at_most is not None:
            row = instance.row(rule.row)
            margin = (share_of_range(row, 1.0) - share_of_range(row, 0.0)) // 100
            if instance.amount(rule.row, choice) > rule.at_most - margin:
                found.add(rule.name)
    return found


if __name__ == "__main__":
    main()
