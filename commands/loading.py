"""What commands that load a model share.

Knows nothing about what commands do with it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from ..models.loading import LoadedModel
    from ..reporting.terminal.progress import TerminalProgress


def progress() -> "TerminalProgress":
    """Make a bar on standard error.

    Returns:
        The bar.
    """
    from ..reporting.terminal.progress import TerminalProgress

    return TerminalProgress(Console(stderr=True))


def load(source: str, *, trust_remote_code: bool, scratch: Path | None = None) -> "LoadedModel":
    """Load a model, and show that it is being loaded.

    Args:
        source: a folder, a GGUF file, or a name on the hub.
        trust_remote_code: whether code that comes with it is run.
        scratch: a folder where its weights shall lie in a file; None for memory.

    Returns:
        The model.
    """
    from ..models.loading import load_model
    from ..reporting.terminal.progress import waiting

    with waiting(progress(), f"loading {source}"):
        return load_model(source, trust_remote_code=trust_remote_code, scratch=scratch)
