"""The program on HiGHS through cvxpy, in a process of its own.

OR-Tools and highspy each bring a library of the same name and cannot be loaded into one process (an ImportError on
whichever comes second), so this solver sends its statements to ``python -m scantling.solver.milp.highs_worker``, one a
line, and keeps that process for the next.

Knows nothing about layers or files.
"""

import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO

import numpy as np
from pydantic import TypeAdapter

from ...common.errors import SolverError
from .base import SolverAnswer, SolverSettings, Status
from .standard_form import Integers, StandardForm

_GRACE_SECONDS = 20.0  # HiGHS has been seen to overrun its time limit by half


@dataclass(frozen=True)
class SolveRequest:
    """What the worker reads: a statement's arrays as lists, under the names that Statement gives them.

    Attributes:
        starts: first option of every group.
        costs: [vectors, options].
        constants: [vectors].
        amounts: [rows, options].
        at_most: [rows].
        bits: [options].
        formats: [options].
        orders: (finer group, coarser group).
        distinct: (groups, at most that many formats).
        slack_prices: a price a row, or None.
        settings: limits of the search.
    """

    starts: list[int]
    costs: list[list[float]]
    constants: list[float]
    amounts: list[list[int]]
    at_most: list[int]
    bits: list[float]
    formats: list[int]
    orders: list[tuple[int, int]]
    distinct: list[tuple[list[int], int]]
    slack_prices: list[int] | None
    settings: SolverSettings


@dataclass(frozen=True)
class SolveReply:
    """What the worker writes: an Answer as lists.

    Attributes:
        status: the name of a Status.
        chosen: one option a group.
        bound: as in Answer.
        resolution: as in Answer.
    """

    status: str
    chosen: list[int] | None = None
    bound: float | None = None
    resolution: float = 0.0


REQUEST = TypeAdapter(SolveRequest)
REPLY = TypeAdapter(SolveReply)


class HighsSolver:
    """HiGHS (Huangfu and Hall 2018) through cvxpy (Diamond and Boyd 2016)."""

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None

    @property
    def name(self) -> str:
        """Its name and version."""
        return f"cvxpy {version('cvxpy')} with HiGHS {version('highspy')}"

    def solve(self, statement: StandardForm, settings: SolverSettings, hint: Integers | None = None) -> SolverAnswer:  # noqa: ARG002
        """Search for the best choice.

        Args:
            statement: the program.
            settings: limits of the search.
            hint: not used, since cvxpy hands HiGHS no start.

        Returns:
            The answer.

        Raises:
            SolverError: the worker failed.
        """
        request = SolveRequest(
            starts=statement.starts.tolist(),
            costs=statement.costs.tolist(),
            constants=statement.constants.tolist(),
            amounts=statement.amounts.tolist(),
            at_most=statement.at_most.tolist(),
            bits=statement.bits.tolist(),
            formats=statement.formats.tolist(),
            orders=list(statement.orders),
            distinct=[(list(groups), most) for groups, most in statement.distinct],
            slack_prices=None if statement.slack_prices is None else statement.slack_prices.tolist(),
            settings=settings,
        )
        line = self._ask(REQUEST.dump_json(request) + b"\n", settings.time_limit_seconds + _GRACE_SECONDS)
        if line is None:
            return SolverAnswer(Status.UNKNOWN)
        reply = REPLY.validate_json(line)
        chosen = None if reply.chosen is None else np.array(reply.chosen, dtype=np.int64)
        if chosen is not None and statement.slack_prices is None and not statement.meets_limits(chosen):
            raise SolverError(
                f"{self.name} returned a plan that breaks a limit by its floating-point tolerance. "
                "Use the solver with exact integers: --solver cpsat."
            )
        return SolverAnswer(Status[reply.status], chosen, reply.bound, reply.resolution)

    def _ask(self, request: bytes, patience_seconds: float) -> bytes | None:
        """Send a line and wait for one; None where the worker took far longer than it was given."""
        if self._worker is None:
            command = [sys.executable, "-m", "scantling.solver.milp.highs_worker"]
            self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
            self._worker = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages
            )
        worker = self._worker
        assert worker.stdin is not None
        assert worker.stdout is not None
        overrun = threading.Timer(patience_seconds, worker.kill)
        overrun.start()
        try:
            worker.stdin.write(request)
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            overrun.cancel()
        if line:
            return line
        self._worker = None
        if worker.wait() == -9:
            return None
        assert self._messages is not None
        self._messages.seek(0)
        reason = self._messages.read().decode(errors="replace").strip().splitlines()
        raise SolverError(
            f"the HiGHS worker ended with status {worker.returncode}: {reason[-1] if reason else 'no message'}. "
            "Try the other solver: --solver cpsat."
        )
