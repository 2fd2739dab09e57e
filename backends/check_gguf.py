"""Whether llama.cpp computes from a GGUF file what the plan in memory computed when it was written.

Compared are log-probabilities after the last positions of a sequence, and its perplexity. llama.cpp rounds the inputs
of every product with quantized weights to 8 bits (module gguf_inputs), and so did the plan in memory; but which way a
number near the middle goes hangs on its last bits, and after some blocks the two have different draws of the same
noise. Its size was measured when the file was written, by running the plan with and without it; the engine is held to
four times that.

Knows nothing about how files are written.
"""

import math
from pathlib import Path

from ..common.errors import ScantlingError
from ..common.records import Record
from ..common.units import render_bytes
from .check import TIMES_THE_NOISE, CheckSettings, ask, distance, require_engine
from .gguf_manifest import read_gguf_manifest
from .gguf_source import open_gguf

ENGINE = "llama.cpp"


class GgufReport(Record):
    """What came out.

    Attributes:
        versions: of the engine.
        relative_difference: root mean square of the difference of log-probabilities over their spread in memory.
        tolerance: what it is held to.
        largest_difference_nats: of any log-probability above −20 nats.
        same_first_choices: at how many of the positions the most probable token is the same.
        num_positions: how many were compared.
        perplexity: on the check's tokens in llama.cpp.
        perplexity_in_memory: on the same tokens in the plan in memory.
        num_tokens: how many they are.
        file_bytes: of the file, as predicted before the first weight was rounded, and as found.
        prompt: what the line begins with.
        generated: what llama.cpp makes of it.
        tokens_per_second: of the generated line, the reading of its prompt included.
    """

    versions: dict[str, str]
    relative_difference: float
    tolerance: float
    largest_difference_nats: float
    same_first_choices: int
    num_positions: int
    perplexity: float
    perplexity_in_memory: float
    num_tokens: int
    file_bytes: int
    prompt: str
    generated: str
    tokens_per_second: float

    @property
    def passed(self) -> bool:
        """Whether llama.cpp computes what it should."""
        return self.relative_difference <= self.tolerance

    def describe(self) -> str:
        """Write the report for a person.

        Returns:
            Some lines.
        """
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        verdict = "within" if self.passed else "BEYOND"
        return "\n".join([
            f"size                  {render_bytes(self.file_bytes)}, as predicted",
            f"engine                {versions}",
            f"log-probabilities     differ from the plan in memory by {self.relative_difference:.2g} of their spread "
            f"(root mean square), {verdict} the tolerance of {self.tolerance:.2g}",
            f"                      by {self.largest_difference_nats:.2g} nats at most among those above −20 nats",
            f"most probable token   the same at {self.same_first_choices} of {self.num_positions} positions",
            f"perplexity            {self.perplexity:.4f} on {self.num_tokens} tokens of calibration text, "
            f"{self.perplexity_in_memory:.4f} in memory",
            f"speed                 {self.tokens_per_second:.1f} tokens/s",
            f"it writes             …{self.prompt[-60:]!r} → {self.generated!r}",
        ])


def check_gguf(file: Path, settings: CheckSettings) -> GgufReport:
    """Load a GGUF file in llama.cpp and compare.

    Args:
        file: the file.
        settings: where the engine is.

    Returns:
        The report; whether it passed is for the caller to look at.

    Raises:
        ScantlingError: the file is not one of ours or was changed, another engine was asked for, or llama.cpp is
            missing or fails.
    """
    if settings.engine not in {None, ENGINE}:
        raise ScantlingError(f"a GGUF file is for {ENGINE}, not for {settings.engine!r}. Leave --engine out.")
    open_gguf(file)
    manifest, tokens, logits = read_gguf_manifest(file)
    require_engine(ENGINE, settings)
    request: dict[str, object] = {
        "engine": ENGINE,
        "folder": str(file.absolute()),
        "dtype": "",
        "token_ids": tokens.tolist(),
        "num_positions": len(logits),
        "num_new_tokens": settings.num_new_tokens,
        "sequences": [tokens.tolist()],
    }
    answer, found = ask(request, settings)
    (likelihood,) = answer["negative_log_likelihoods_nats"]  # type: ignore[misc]
    return GgufReport(
        versions=answer["versions"],  # type: ignore[arg-type]
        tolerance=TIMES_THE_NOISE * manifest.arithmetic_noise,
        perplexity=math.exp(likelihood),  # type: ignore[has-type]
        perplexity_in_memory=math.exp(manifest.negative_log_likelihood_nats),
        num_tokens=len(tokens),
        file_bytes=manifest.file_bytes,
        **distance(found, logits),  # type: ignore[arg-type]
        prompt=str(answer["prompt"]),
        generated=str(answer["generated"]),
        tokens_per_second=float(answer["tokens_per_second"]),  # type: ignore[arg-type]
    )
