"""The backends by name.

Knows nothing about files.
"""

from ..solver.errors import ScantlingError
from .auto_gptq_backend import AutoGptqBackend
from .backend import Backend
from .fake import FakeBackend
from .gptq_backend import GptqBackend
from .pack_quantized_backend import PackQuantizedBackend

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (FakeBackend(), GptqBackend(), PackQuantizedBackend(), AutoGptqBackend())
}


def backend_named(name: str) -> Backend:
    """Find a backend.

    Args:
        name: as the user writes it.

    Returns:
        The backend.

    Raises:
        ScantlingError: there is none of that name.
    """
    if name not in BACKENDS:
        raise ScantlingError(f"{name!r} is not a backend. Known: {', '.join(BACKENDS)}, gguf.")
    return BACKENDS[name]
