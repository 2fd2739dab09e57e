"""The program on HiGHS through cvxpy, in a process of its own.

OR-Tools and highspy each bring a library of the same name and cannot be loaded into one process (an ImportError on
whichever comes second), so this solver sends its programs to ``python -m scantling.solver.milp.highs_worker``, one per
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
from .standard_form import DistinctLimit, Integers, StandardForm

_GRACE_SECONDS = 20.0  # HiGHS has been seen to overrun its time limit by half


@dataclass(frozen=True)
class SolveRequest:
    """What the worker reads: the arrays of a StandardForm as lists, under the same names.

    Attributes:
        starts: first option of every group.
        costs: [vectors, options].
        constants: [vectors].
        amounts: [rows, options].
        at_most: [rows].
        bits: [options].
        formats: [options].
        orders: (finer group, coarser group).
        distinct: limits on the number of distinct formats.
        slack_prices: one price per row, or None.
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
    distinct: list[DistinctLimit]
    slack_prices: list[int] | None
    settings: SolverSettings


@dataclass(frozen=True)
class SolveReply:
    """What the worker writes: a SolverAnswer as lists.

    Attributes:
        status: the name of a Status.
        chosen: one option per group.
        bound: as in SolverAnswer.
        resolution: as in SolverAnswer.
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
        """Name and version."""
        return f"cvxpy {version('cvxpy')} with HiGHS {version('highspy')}"

    def solve(self, form: StandardForm, settings: SolverSettings, hint: Integers | None = None) -> SolverAnswer:  # noqa: ARG002
        """Search for the best choice.

        Args:
            form: the program.
            settings: limits of the search.
            hint: not used, since cvxpy gives HiGHS no start.

        Returns:
            The answer.

        Raises:
            SolverError: the worker failed, or its plan breaks a limit.
        """
        request = SolveRequest(
            starts=form.starts.tolist(),
            costs=form.costs.tolist(),
            constants=form.constants.tolist(),
            amounts=form.amounts.tolist(),
            at_most=form.at_most.tolist(),
            bits=form.bits.tolist(),
            formats=form.formats.tolist(),
            orders=list(form.orders),
            distinct=list(form.distinct),
            slack_prices=None if form.slack_prices is None else form.slack_prices.tolist(),
            settings=settings,
        )
        line = self._ask(REQUEST.dump_json(request) + b"\n", settings.time_limit_seconds + _GRACE_SECONDS)
        if line is None:
            return SolverAnswer(Status.UNKNOWN)
        reply = REPLY.validate_json(line)
        chosen = None if reply.chosen is None else np.array(reply.chosen, dtype=np.int64)
        if chosen is not None and form.slack_prices is None and not form.meets_limits(chosen):
            raise SolverError(
                f"{self.name} returned a plan that breaks a limit by its floating-point tolerance. "
                "Use the solver that is exact: --solver cpsat."
            )
        return SolverAnswer(Status[reply.status], chosen, reply.bound, reply.resolution)

    def _ask(self, request: bytes, patience_seconds: float) -> bytes | None:
        """Send a line and wait for one; None if the worker took far longer than its time limit."""
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
