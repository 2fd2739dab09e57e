"""Whether an engine computes from a checkpoint what the plan in memory computed when it was written.

The engine runs in a process of its own. Compared are the log-probabilities of the tokens after the last positions of a
sequence that ``apply`` ran through the plan in memory, in float32. They may differ by the engine's arithmetic. What
that does to this model was measured when the checkpoint was written, by running the plan in memory with the roundings
of float16 and of bfloat16 (module arithmetic_noise); the root mean square of the difference must stay within four times
that. In float32, where products are summed term by term in an order that the engine chooses, a sum of some hundreds of
terms is off by about √256 roundoffs of 2⁻²⁴: the noise of float16, whose unit roundoff is 2⁻¹¹, times 2⁻⁹.

llama.cpp rounds the inputs of every product with quantized weights to 8 bits (module gguf_inputs), and so did the plan
in memory; but which way a number near the middle goes hangs on its last bits, and after some blocks the two have
different draws of the same noise. Its size was measured by running the plan with and without it.

Knows nothing about how checkpoints are written.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.records import Record
from ..common.units import render_bytes
from .arithmetic_noise import relative_difference
from .engine_process import EngineAnswer, EngineProcess, EngineRequest
from .manifest import WrittenCheckpoint
from .registry import read_checkpoint, writer_named

TIMES_THE_NOISE = 4.0
NUM_NEW_TOKENS = 24
_FLOAT32_SHARE = 2.0**-9
_LEAST_LOG_PROBABILITY_NATS = -20.0


class Distance(Record):
    """How far an engine's log-probabilities are from the expected ones.

    Attributes:
        relative_difference: root mean square of the difference, over the spread of the expected ones.
        largest_difference_nats: of any log-probability above −20 nats.
        same_first_choices: at how many positions the most probable token is the same.
        num_positions: how many were compared.
    """

    relative_difference: float
    largest_difference_nats: float
    same_first_choices: int
    num_positions: int


class CheckReport(Distance):
    """What an engine made of a checkpoint.

    Attributes:
        backend: the checkpoint's format.
        engine: the engine.
        versions: of the engine and what it rests on.
        arithmetic: the type that the engine computes in.
        relative_difference: root mean square of the difference, over the spread of the expected ones.
        tolerance: the largest relative difference that passes.
        largest_difference_nats: of any log-probability above −20 nats.
        same_first_choices: at how many positions the most probable token is the same.
        num_positions: how many were compared.
        perplexity: on the check's tokens in the engine.
        perplexity_in_memory: on the same tokens in the plan in memory; None where the checkpoint does not say.
        num_tokens: of the check.
        prompt: what the generated line begins with.
        generated: what the engine makes of it.
        load_seconds: until the engine was ready.
        tokens_per_second: of the generated line, the reading of its prompt included.
        checkpoint_bytes: of all files, as predicted before the first weight was rounded, and as found.
        negative_log_likelihoods_nats: of further sequences, where some were given.
    """

    backend: str
    engine: str
    versions: dict[str, str]
    arithmetic: str
    tolerance: float
    perplexity: float
    perplexity_in_memory: float | None
    num_tokens: int
    prompt: str
    generated: str
    load_seconds: float
    tokens_per_second: float
    checkpoint_bytes: int
    negative_log_likelihoods_nats: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether the engine computes what it should."""
        return self.relative_difference <= self.tolerance

    def describe(self) -> str:
        """Write the report for a person, in a few lines."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        verdict = "within" if self.passed else "BEYOND"
        in_memory = "" if self.perplexity_in_memory is None else f", {self.perplexity_in_memory:.4f} in memory"
        return "\n".join([
            f"size                  {render_bytes(self.checkpoint_bytes)}, as predicted",
            f"engine                {versions}, ready after {self.load_seconds:.1f} s",
            f"arithmetic            {self.arithmetic}",
            f"log-probabilities     differ from the plan in memory by {self.relative_difference:.2g} of their spread "
            f"(root mean square), {verdict} the tolerance of {self.tolerance:.2g}",
            "                      = 4 × what the roundings of this arithmetic do to the plan in memory",
            f"                      by at most {self.largest_difference_nats:.2g} nats among those above −20 nats",
            f"most probable token   the same at {self.same_first_choices} of {self.num_positions} positions",
            f"perplexity            {self.perplexity:.4f} on {self.num_tokens} tokens of calibration text{in_memory}",
            f"speed                 {self.tokens_per_second:.1f} tokens/s",
            f"it writes             …{self.prompt[-60:]!r} → {self.generated!r}",
        ])


def check_checkpoint(
    path: Path | str,
    *,
    engine: str | None = None,
    python: str | None = None,
    time_limit: float = 1800.0,
    sequences: Sequence[Sequence[int]] = (),
) -> CheckReport:
    """Load a checkpoint in an engine, and compare what it computes with what the plan in memory did.

    Args:
        path: a folder or a .gguf file that ``scantling apply`` wrote.
        engine: by name; None for the default of the checkpoint's backend.
        python: an interpreter that has the engine; None for this one.
        time_limit: seconds for the engine.
        sequences: further token sequences, whose negative log-likelihood is wanted.

    Returns:
        The report; ``passed`` says whether the engine computes what it should.

    Raises:
        FileFormatError: the checkpoint is not a finished one of scantling, or it was changed.
        InputError: the engine is not for this checkpoint, or there is no such interpreter.
        MissingDependencyError: the interpreter does not have the engine.
        EngineError: the engine failed, or took too long.
    """
    checkpoint = read_checkpoint(Path(path))
    process = EngineProcess(_engine_for(checkpoint, engine), python, time_limit)
    process.require()
    expected = checkpoint.expected
    request = EngineRequest(
        folder=str(checkpoint.path.absolute()),
        dtype=checkpoint.manifest.float_dtype,
        token_ids=expected.token_ids.tolist(),
        num_positions=len(expected.logits),
        num_new_tokens=NUM_NEW_TOKENS,
        sequences=[expected.token_ids.tolist(), *(list(map(int, sequence)) for sequence in sequences)],
    )
    return _report(checkpoint, process.engine, process.ask(request))


def _report(checkpoint: WrittenCheckpoint, engine: str, answer: EngineAnswer) -> CheckReport:
    expected, in_memory = checkpoint.expected, checkpoint.expected.negative_log_likelihood_nats
    own_loss, *losses = answer.says.negative_log_likelihoods_nats
    return CheckReport(
        **distance(answer.log_probabilities, expected.logits).model_dump(),
        **answer.says.model_dump(exclude={"negative_log_likelihoods_nats"}),
        backend=checkpoint.manifest.backend,
        engine=engine,
        tolerance=tolerance(answer.says.arithmetic, expected.noise),
        perplexity=math.exp(own_loss),
        perplexity_in_memory=None if in_memory is None else math.exp(in_memory),
        num_tokens=len(expected.token_ids),
        checkpoint_bytes=checkpoint.manifest.checkpoint_bytes,
        negative_log_likelihoods_nats=tuple(losses),
    )


def _engine_for(checkpoint: WrittenCheckpoint, engine: str | None) -> str:
    backend = checkpoint.manifest.backend
    engines = writer_named(backend).engines
    if engine is not None and engine not in engines:
        raise InputError(f"a checkpoint of the backend {backend} is for {', '.join(engines)}, not for {engine!r}.")
    return engine or engines[0]


def distance(found: NDArray[np.float32], logits: NDArray[np.float32]) -> Distance:
    """Compare an engine's log-probabilities with the expected ones.

    Args:
        found: log-probabilities, [positions, vocabulary or more, where the engine pads it].
        logits: of the plan in memory, [positions, vocabulary].

    Returns:
        How far they are apart.
    """
    expected = log_softmax(logits)
    known = found[:, : expected.shape[1]].astype(np.float64)
    return Distance(
        relative_difference=relative_difference(known, expected),
        largest_difference_nats=float(np.abs(known - expected)[expected > _LEAST_LOG_PROBABILITY_NATS].max()),
        same_first_choices=int((known.argmax(1) == expected.argmax(1)).sum()),
        num_positions=len(expected),
    )


def tolerance(arithmetic: str, noise: Mapping[str, float]) -> float:
    """Say how far an engine may be off, relative to the spread of the log-probabilities.

    Args:
        arithmetic: that it computes in.
        noise: what the roundings of an arithmetic do to the plan in memory, by arithmetic.

    Returns:
        Four times what this one's roundings do.

    >>> tolerance("float16", {"float16": 0.0025, "bfloat16": 0.02})
    0.01
    """
    if arithmetic in noise:
        return TIMES_THE_NOISE * noise[arithmetic]
    return TIMES_THE_NOISE * noise["float16"] * _FLOAT32_SHARE


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn logits into log-probabilities, both [positions, vocabulary]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
