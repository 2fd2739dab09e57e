"""What llama.cpp calls a model's tensors, by the package gguf's own tables.

Knows nothing about files.
"""

from collections.abc import Iterable

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

from ..common.errors import UnsupportedModelError
from .layers import Layer

# transformers' names of architectures that llama.cpp calls something else
_OTHER_NAMES = {"mistral": "llama", "mixtral": "llama", "gemma3_text": "gemma3", "qwen2_moe": "qwen2moe", "phi": "phi2"}


def architecture_of(model_type: str) -> str:
    """Translate transformers' name of an architecture (a config's model_type) to llama.cpp's.

    Returns:
        llama.cpp's name.

    Raises:
        UnsupportedModelError: the package gguf does not know it.

    >>> architecture_of("llama"), architecture_of("mistral")
    ('llama', 'llama')
    """
    plain = _OTHER_NAMES.get(model_type, model_type).replace("_", "")
    for name in (model_type, _OTHER_NAMES.get(model_type, ""), plain):
        if name in MODEL_ARCH_NAMES.values():
            return name
    raise UnsupportedModelError(
        f"the package gguf does not know the architecture {model_type!r}. It knows: "
        f"{', '.join(sorted(MODEL_ARCH_NAMES.values()))}."
    )


def tensor_names(layers: Iterable[Layer], architecture: str, num_blocks: int) -> dict[str, str]:
    """Give every layer's tensor its name in GGUF.

    Args:
        layers: the layers.
        architecture: llama.cpp's name.
        num_blocks: of the model.

    Returns:
        The names by layer, such as ``blk.0.attn_q.weight``.

    Raises:
        UnsupportedModelError: the architecture or a layer has no name there.
    """
    kinds: dict[str, MODEL_ARCH] = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        raise UnsupportedModelError(
            f"the package gguf does not know the architecture {architecture!r}. It knows: {', '.join(sorted(kinds))}."
        )
    table = get_tensor_name_map(kinds[architecture], num_blocks)
    found = {}
    for layer in layers:
        name = table.get_name(f"{layer.name}.weight", try_suffixes=(".weight",))
        if name is None:
            raise UnsupportedModelError(
                f"the package gguf has no name for {layer.name} in models of the architecture {architecture}: "
                "the converter would drop or change it. Use another backend."
            )
        found[layer.name] = name
    return found
