"""The original model, loaded when it is needed: a loaded one is used as it is.

Knows nothing about what is done with it.
"""

from os import PathLike
from typing import TYPE_CHECKING

from ..common.progress import Progress

if TYPE_CHECKING:
    from ..models.loading import LoadedModel


def load_original(
    model: "str | PathLike[str] | LoadedModel | None", recorded: str, progress: Progress, *, trust_remote_code: bool
) -> "LoadedModel":
    """Load the original model.

    Args:
        model: loaded already, or its name or path; None for the recorded one.
        recorded: the source that the profile or the plan names.
        progress: shows that it is being loaded.
        trust_remote_code: run code that comes with it.

    Returns:
        The model.
    """
    from ..models.loading import LoadedModel, load_model  # noqa: PLC0415 - needs torch, which solving does not

    if isinstance(model, LoadedModel):
        return model
    source = recorded if model is None else str(model)
    [loaded] = [
        load_model(source, trust_remote_code=trust_remote_code) for _ in progress([source], f"loading {source}")
    ]
    return loaded
