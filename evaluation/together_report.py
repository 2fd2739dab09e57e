"""What a person is told about tensors of experts that were not taken apart.

Knows nothing about how experts are taken apart.
"""

from rich.console import Console
from torch import nn

from ..backends.experts import still_together
from ..solver.quantities import show_bytes


def print_still_together(model: nn.Module, console: Console) -> None:
    """Name tensors of experts that are no layers; nothing where there are none.

    Args:
        model: the model.
        console: where.
    """
    names = still_together(model)
    if names:
        size = 2 * sum(model.get_parameter(name).numel() for name in names)
        console.print(
            f"Warning: {len(names)} tensors of three dimensions are no layers and stay in 16 bits, {show_bytes(size)} "
            f"(first: {names[0]}): {type(model).__name__} does not call its experts in the way that scantling takes "
            "them apart.",
            style="bold red",
            soft_wrap=True,
        )
