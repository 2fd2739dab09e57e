"""Loading a model and its tokenizer: a local folder, a GGUF file, or a name on the hub.

Weights are read from safetensors or GGUF only, never from a pickle, and the model's own code runs only if allowed.
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

from ..common.errors import FileFormatError, InputError, UnsupportedModelError
from .experts import unstack_experts
from .layers import require_finite_weights
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
        input_scalings: how the model's inputs were scaled since it was loaded, see sensitivity/input_scaling.
        stored_names: where experts were unstacked, the names of the tensors in checkpoints by their names in the model;
            a tensor without one is not a tensor of its own there. None for any other model, whose names are the same.
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

    def offload_replaced_weights(self) -> None:
        """Where a file holds the weights, move those that were replaced into it."""
        if self.weights is not None:
            self.weights.store_replaced()


@dataclass(frozen=True)
class _Place:
    """Where transformers finds a model: a folder or hub name, and the GGUF file in it if it is one."""

    where: str
    gguf_file: str | None = None

    @property
    def is_gguf(self) -> bool:
        return self.gguf_file is not None

    @property
    def options(self) -> dict[str, str]:
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}


def load_model(source: str, *, trust_remote_code: bool = False, scratch: Path | None = None) -> LoadedModel:
    """Load a model.

    Args:
        source: a folder, a ``.gguf`` file, or a name on the hub such as ``org/model``.
        trust_remote_code: whether Python code that comes with the model may run.
        scratch: a folder on a disk with room for the weights in float32, to keep them in a file; None for memory.

    Returns:
        The model.

    Raises:
        InputError: there is no such file or folder.
        FileFormatError: the folder is not a model's, or the checkpoint lacks parameters.
        UnsupportedModelError: it cannot be read, is quantized already, or has weights that are not finite.
        StorageError: the scratch folder has no room.
    """
    place = _locate(source)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **place.options}
    config, tokenizer, model = _read(source, place, options, as_stored=scratch is not None and not place.is_gguf)
    if place.is_gguf:
        _make_savable(model)
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(requires_grad=False)
    weights = None if scratch is None else offload_weights(model, scratch)
    release = None if weights is None else weights.release_pages
    require_finite_weights(model, release)
    stored_names = unstack_experts(model)
    if weights is not None:
        weights.record_places(model)
    own_format = "bfloat16" if getattr(config, "dtype", None) is torch.bfloat16 else "float16"
    sha256 = weights_sha256(model, release)
    return LoadedModel(source, model, tokenizer, sha256, own_format, stored_names=stored_names, weights=weights)


def _read(
    source: str, place: _Place, options: dict[str, Any], *, as_stored: bool
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedModel]:
    """Read config, tokenizer and weights; refuse a checkpoint that lacks parameters."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(io.StringIO()):  # transformers' bar over a GGUF file cannot be switched off
            config = AutoConfig.from_pretrained(place.where, **options)
            if not place.is_gguf and getattr(config, "quantization_config", None) is not None:
                raise UnsupportedModelError("it is quantized already. Name the original in 16 or 32 bits.")
            tokenizer = AutoTokenizer.from_pretrained(place.where, **options)
            model, report = _read_weights(place.where, config, options, as_stored=as_stored)
    except Exception as error:  # readers of foreign files may raise anything
        raise UnsupportedModelError(f"cannot load the model {source!r}: {_first_lines(error)}") from error
    missing = report["missing_keys"] | {name for name, *_ in report["mismatched_keys"]}
    if missing:
        raise FileFormatError(
            f"the checkpoint {source!r} lacks {len(missing)} parameters or has them in another shape "
            f"(first: {min(missing)}). It is incomplete, or its config.json belongs to another model."
        )
    return config, tokenizer, model


def _read_weights(
    where: str, config: PreTrainedConfig, options: dict[str, Any], *, as_stored: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load the weights.

    In float32; or in the type in which all are stored, if they are of one type. Then they are mapped from the files,
    not read, and no less exact. A model that also computes buffers in that type is loaded in float32 all the same.

    Returns:
        The model, and transformers' report of missing parameters.
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
    """Give the type of all tensors in a folder's safetensors files; None if they have several."""
    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            found |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  no dictionary
    return _STORED_DTYPES.get(found.pop()) if len(found) == 1 else None


def _make_savable(model: PreTrainedModel) -> None:
    """Make a dequantized model an ordinary one: transformers refuses to save one marked as GGUF."""
    model.hf_quantizer = None  # type: ignore[assignment]
    del model.config.quantization_config


def _locate(source: str) -> _Place:
    """Find what the user named, as transformers takes it."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise FileFormatError(
                f"{source} is a file but not a .gguf file. Name a model folder, a GGUF file or a hub name."
            )
        return _Place(str(path.parent), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileFormatError(f"the folder {source} has no config.json: it is not a model folder.")
        if not any(path.glob("*.safetensors")):
            pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
            hint = f" It has {pickled[0]}, a pickle, which is not loaded: convert it to safetensors." if pickled else ""
            raise FileFormatError(f"the folder {source} has no weights (*.safetensors).{hint}")
        return _Place(str(path))
    if path.is_absolute() or source.startswith((".", "~")) or source.endswith(".gguf") or source.count("/") > 1:
        raise InputError(f"there is no model at {source}: no such file or folder.")
    return _Place(source)


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def weights_sha256(model: nn.Module, release: Callable[[], None] | None = None) -> str:
    """Hash all parameters of a model.

    Args:
        model: on the CPU.
        release: called after each parameter, which is then not needed any more.

    Returns:
        SHA-256 in hexadecimal over the names, shapes and values, in the order of names; tied parameters count once.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().reshape(-1).view(torch.uint8).numpy().data)
        if release is not None:
            release()
    return digest.hexdigest()
