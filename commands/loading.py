"""Loading a model, and progress on the terminal.

Knows nothing about what commands do with it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from ..models.loading import LoadedModel
    from ..reporting.terminal.progress import TerminalProgress


def progress() -> "TerminalProgress":
    """Make a progress bar on standard error."""
    from ..reporting.terminal.progress import TerminalProgress

    return TerminalProgress(Console(stderr=True))


def load(source: str, *, trust_remote_code: bool, scratch: Path | None = None) -> "LoadedModel":
    """Load a model, and show that it is being loaded; its weights lie in a file in ``scratch``, or in memory."""
    from ..models.loading import load_model
    from ..reporting.terminal.progress import waiting

    with waiting(progress(), f"loading {source}"):
        return load_model(source, trust_remote_code=trust_remote_code, scratch=scratch)
