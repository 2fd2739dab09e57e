"""The program on HiGHS through cvxpy, in a process of its own.

OR-Tools and highspy each bring a library of the same name and cannot be loaded into one process (an ImportError on
whichever comes second), so this engine sends its instances to ``python -m scantling.solver.highs_worker``.

Knows nothing about layers or files.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from .engine import Outcome, SearchSettings
from .errors import ScantlingError
from .instance import Instance


@dataclass(frozen=True)
class Request:
    """What the worker reads, one a line.

    Attributes:
        instance: the program.
        settings: limits of the search.
    """

    instance: Instance
    settings: SearchSettings


REQUEST = TypeAdapter(Request)
OUTCOME = TypeAdapter(Outcome)


@dataclass(frozen=True)
class Highs:
    """HiGHS (Huangfu and Hall 2018) through cvxpy (Diamond and Boyd 2016)."""

    def solve(self, instance: Instance, settings: SearchSettings) -> Outcome:
        """Search for the best choice.

        Args:
            instance: the program.
            settings: limits of the search.

        Returns:
            The outcome.
        """
        return self.solve_all([instance], settings)[0]

    def solve_all(self, instances: Sequence[Instance], settings: SearchSettings) -> list[Outcome]:
        """Search for the best choice of several programs in one worker.

        Args:
            instances: the programs.
            settings: limits of each search.

        Returns:
            The outcomes, in order.

        Raises:
            ScantlingError: the worker failed.
        """
        requests = [REQUEST.dump_json(Request(instance, settings)) for instance in instances]
        command = [sys.executable, "-m", "scantling.solver.highs_worker"]
        done = subprocess.run(command, input=b"\n".join(requests), capture_output=True, check=False)  # noqa: S603
        lines = done.stdout.splitlines()
        if done.returncode or len(lines) != len(instances):
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            raise ScantlingError(
                f"the HiGHS worker ended with status {done.returncode}: {reason[-1] if reason else 'no message'}. "
                "Try the other engine: --engine cpsat."
            )
        return [OUTCOME.validate_json(line) for line in lines]
