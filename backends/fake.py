"""The backend ``fake``: a float32 checkpoint whose weights hold the quantized values.

It is as large as the original in float32; its use is to run a plan in any program that loads a transformers folder.
Knows nothing about plans: it is given matrices.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..solver.atomic import refuse_unwritable, whole_folder
from .grid import Rounded
from .layers import install_matrix
from .model import LoadedModel

PLAN_FILE = "scantling_plan.json"


def num_checkpoint_bytes(loaded: LoadedModel) -> int:
    """Count the bytes of the tensors that ``write_fake`` writes.

    Args:
        loaded: the model.

    Returns:
        Four a parameter.
    """
    return 4 * sum(parameter.numel() for parameter in loaded.model.parameters())


def write_fake(loaded: LoadedModel, rounded: Mapping[str, Rounded], plan_json: str, folder: Path) -> None:
    """Write the checkpoint, whole or not at all. The model in memory keeps the quantized values.

    Args:
        loaded: the model; its matrices are replaced.
        rounded: the matrix of every layer, by its name.
        plan_json: kept beside the weights.
        folder: where; it must not exist yet.
    """
    refuse_unwritable(folder, num_checkpoint_bytes(loaded))
    for name, record in rounded.items():
        install_matrix(loaded.model.get_submodule(name), record.dequantize())
    loaded.model.config.dtype = torch.float32
    with whole_folder(folder) as partial:
        loaded.model.save_pretrained(partial)
        loaded.tokenizer.save_pretrained(partial)
        (partial / PLAN_FILE).write_text(plan_json, encoding="utf-8")
