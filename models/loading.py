"""Loading a model and its tokenizer: a local folder, a GGUF file, or a name on the hub.

Weights are read from safetensors or GGUF only, never from a pickle, and the model's own code never runs unless asked.
Knows nothing about layers.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ..common.errors import ScantlingError
from .experts import unstack_experts
from .layers import no_release, require_finite_weights
from .scratch_weights import ScratchWeights, offload_weights

_STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for measurement, in float32, without gradients on its parameters.

    Attributes:
        source: what the user named.
        model: the network, in evaluation mode.
        tokenizer: its tokenizer.
        sha256: over names, shapes and values of all parameters.
        sixteen_bit_format: the 16-bit format of its checkpoint, ``bfloat16`` or (for all others) ``float16``.
        input_scalings: what was done to the model's inputs since it was loaded, see sensitivity/input_scaling.
        stored_names: where experts were taken apart, the names of the tensors in checkpoints by their names in the
            model; a tensor without one has no place of its own there. None for any other model: names are the same.
        weights: the file that holds the weights; None where memory does.
    """

    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    sixteen_bit_format: str
    input_scalings: list[str] = field(default_factory=list)
    stored_names: Mapping[str, str] | None = None
    weights: ScratchWeights | None = None

    def take_back_weights(self) -> None:
        """Where a file holds the weights, put those that were replaced into it."""
        if self.weights is not None:
            self.weights.take_back()


def load_model(source: str, *, trust_remote_code: bool = False, scratch: Path | None = None) -> LoadedModel:
    """Load a model.

    Args:
        source: a folder, a ``.gguf`` file, or a name on the hub such as ``org/model``.
        trust_remote_code: whether Python code that comes with the model may run.
        scratch: a folder on a disk with room for the weights in float32, where they are to lie in a file; None for
            memory.

    Returns:
        The model.

    Raises:
        ScantlingError: there is no such model, it has no readable weights, or its weights are not numbers.
    """
    where, gguf = _locate(source)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **gguf}
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(io.StringIO()):  # transformers' bar over a GGUF file cannot be switched off
            config = AutoConfig.from_pretrained(where, **options)
            if not gguf and getattr(config, "quantization_config", None) is not None:
                raise ScantlingError("it is quantized already. Name the original in 16 or 32 bits.")
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model, report = _with_report(where, config, options, as_stored=scratch is not None and not gguf)
    except Exception as error:  # whatever the readers of foreign files come upon
        raise ScantlingError(f"cannot load the model {source!r}: {_first_lines(error)}") from error
    missing = report["missing_keys"] | {name for name, *_ in report["mismatched_keys"]}
    if missing:
        raise ScantlingError(
            f"the checkpoint {source!r} lacks {len(missing)} parameters or has them in another shape "
            f"(first: {min(missing)}). It is incomplete or its config.json belongs to another model."
        )
    if gguf:
        _forget_gguf(model)
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(requires_grad=False)
    weights = None if scratch is None else offload_weights(model, scratch)
    let_go = no_release if weights is None else weights.let_go
    require_finite_weights(model, let_go)
    stored_names = unstack_experts(model)
    if weights is not None:
        weights.remember_places(model)
    sixteen = "bfloat16" if getattr(config, "dtype", None) is torch.bfloat16 else "float16"
    sha256 = weights_sha256(model, let_go)
    return LoadedModel(source, model, tokenizer, sha256, sixteen, stored_names=stored_names, weights=weights)


def _with_report(
    where: str, config: PreTrainedConfig, options: dict[str, Any], *, as_stored: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load the weights and say which parameters the checkpoint lacked.

    In float32; or in the type in which all are stored, if they are of one type. Then they are mapped from the files,
    not read, and no less exact. A model that also computes buffers in that type is loaded in float32 all the same.

    Returns:
        The model, and transformers' report.
    """
    stored = _one_stored_dtype(Path(where)) if as_stored else None
    for dtype in (stored or torch.float32, torch.float32):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        model, report = loaded
        if dtype is torch.float32 or all(buffer.dtype is not dtype for buffer in model.buffers()):
            break
    model.config.dtype = torch.float32
    return model, report


def _one_stored_dtype(folder: Path) -> torch.dtype | None:
    """Give the type of all tensors in a folder's safetensors files; None where they are of several."""
    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            found |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  no dictionary
    return _STORED_DTYPES.get(found.pop()) if len(found) == 1 else None


def _forget_gguf(model: PreTrainedModel) -> None:
    """Make a dequantized model an ordinary one: transformers refuses to save what it remembers as GGUF."""
    model.hf_quantizer = None  # type: ignore[assignment]
    del model.config.quantization_config


def _locate(source: str) -> tuple[str, dict[str, str]]:
    """Turn the user's word into what transformers is asked for: a place, and the GGUF file in it."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ScantlingError(
                f"{source} is a file but not a .gguf file. Name a model folder, a GGUF file or a hub name."
            )
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ScantlingError(f"the folder {source} has no config.json: it is no model folder.")
        if not any(path.glob("*.safetensors")):
            pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
            hint = f" It has {pickled[0]}, a pickle, which is not loaded: convert it to safetensors." if pickled else ""
            raise ScantlingError(f"the folder {source} has no weights (*.safetensors).{hint}")
        return str(path), {}
    if path.is_absolute() or source.startswith((".", "~")) or source.endswith(".gguf") or source.count("/") > 1:
        raise ScantlingError(f"there is no model at {source}: no such file or folder.")
    return source, {}


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def weights_sha256(model: nn.Module, let_go: Callable[[], None] = no_release) -> str:
    """Hash all parameters of a model.

    Args:
        model: the model, on the CPU.
        let_go: called when a parameter is not needed any more.

    Returns:
        SHA-256 in hexadecimal over the names, shapes and values, in the order of names; tied parameters count once.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().reshape(-1).view(torch.uint8).numpy().data)
        let_go()
    return digest.hexdigest()
