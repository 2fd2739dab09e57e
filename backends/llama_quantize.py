"""The llama-quantize command that makes the same tensors as a GGUF file of ours, for people who use their own build.

One ``--tensor-type`` rule stands for all blocks in which a kind of tensor has a type; rules are regular expressions
over tensor names. The type that ends the command is for tensors that no rule names, and there are none.

Knows nothing about plans.
"""

import shlex
from collections import defaultdict
from pathlib import Path

from gguf import GGMLQuantizationType

from ..common.errors import ScantlingError
from .gguf_source import GgufSource, open_gguf

LLAMA_QUANTIZE = "llama-quantize"
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_REST = "Q8_0"


def validate_emission(emit: str | None, imatrix: Path | None, rounding: str) -> None:
    """Refuse a command that cannot be printed.

    Args:
        emit: the user's word; None for none.
        imatrix: where the importance matrix goes.
        rounding: the method of the plan.

    Raises:
        ScantlingError: another word than ``llama-quantize``, a plan that llama-quantize cannot make, or no file for the
            importance matrix it needs.
    """
    if emit is None:
        return
    if emit != LLAMA_QUANTIZE:
        raise ScantlingError(f"{emit!r} cannot be emitted. Known: {LLAMA_QUANTIZE}.")
    if rounding != "ggml":
        raise ScantlingError(
            f"this plan is rounded by {rounding}, which {LLAMA_QUANTIZE} does not know. Leave --emit out and take the "
            "file itself, or profile with --rounding ggml."
        )
    if imatrix is None:
        raise ScantlingError(
            "llama-quantize makes the same file only with the same importance matrix. Say where to write it, with "
            "--write-imatrix FILE."
        )


def tensor_types(file: GgufSource) -> dict[str, str]:
    """List the types of the tensors that are quantized by rule: two-dimensional weights.

    Args:
        file: a GGUF file.

    Returns:
        Types by tensor, in llama-quantize's spelling.
    """
    return {
        name: GGMLQuantizationType(tensor.tensor_type).name.lower()
        for name, tensor in file.tensors.items()
        if len(tensor.shape) > 1 and name.endswith(".weight") and tensor.tensor_type != GGMLQuantizationType.F32
    }


def rules(types: dict[str, str]) -> list[str]:
    r"""Write the rules of the tensors inside blocks.

    Args:
        types: by tensor.

    Returns:
        One ``pattern=type`` for every kind of tensor and type.

    >>> print(*rules({"blk.0.ffn_up.weight": "q4_k", "blk.2.ffn_up.weight": "q4_k", "blk.1.ffn_up.weight": "q8_0"}))
    ^blk\.(0|2)\.ffn_up\.weight$=q4_k ^blk\.(1)\.ffn_up\.weight$=q8_0
    """
    blocks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, target in types.items():
        if name.startswith("blk."):
            _, block, kind = name.split(".", 2)
            blocks[kind, target].append(block)
    return [
        rf"^blk\.({'|'.join(numbers)})\.{kind.replace('.', chr(92) + '.')}$={target}"
        for (kind, target), numbers in blocks.items()
    ]


def command_line(file: Path, imatrix: Path, source: str) -> str:
    """Write the command.

    Args:
        file: the GGUF file that was written.
        imatrix: its importance matrix.
        source: the model: a GGUF file, or a folder, which is converted first.

    Returns:
        The command, or two of them.
    """
    types = tensor_types(open_gguf(file))
    words = [LLAMA_QUANTIZE, "--imatrix", str(imatrix)]
    for name, option in ((_EMBEDDING, "--token-embedding-type"), (_HEAD, "--output-tensor-type")):
        if name in types:
            words += [option, types[name]]
    for rule in rules(types):
        words += ["--tensor-type", rule]
    first, start = "", source
    if Path(source).expanduser().is_dir():
        start = f"{Path(source).name}-f32.gguf"
        first = shlex.join(["python", "convert_hf_to_gguf.py", source, "--outtype", "f32", "--outfile", start]) + "\n"
    elif _is_quantized(Path(source)):
        words.append("--allow-requantize")
    return first + shlex.join([*words, start, f"{file.stem}-by-llama-quantize.gguf", _REST])


def _is_quantized(source: Path) -> bool:
    kinds = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
    return any(tensor.tensor_type not in kinds for tensor in open_gguf(source).tensors.values())
