"""The backends by name.

Knows nothing about files.
"""

from ..common.errors import ScantlingError
from .auto_gptq import AutoGptqBackend
from .base import Backend
from .compressed_tensors import PackQuantizedBackend
from .fake import FakeBackend
from .gptq import GptqBackend

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
