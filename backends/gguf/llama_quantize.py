"""The llama-quantize command that makes the same tensors as a GGUF file of ours, for people who use their own build.

One ``--tensor-type`` rule covers all blocks in which a kind of tensor has a type; rules are regular expressions over
tensor names. llama-quantize takes as its last word a type for tensors that no rule names; there are none.

Knows nothing about plans.
"""

import shlex
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from gguf import GGMLQuantizationType

from ...common.errors import InputError
from .layout import GgufLayout
from .source import open_gguf

LLAMA_QUANTIZE = "llama-quantize"
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_REST = "Q8_0"


def validate_emission(emit: str | None, imatrix: Path | None, rounding: str) -> None:
    """Refuse a command that cannot be emitted.

    Args:
        emit: the tool; None for no command.
        imatrix: where the importance matrix goes.
        rounding: the plan's rounding method.

    Raises:
        InputError: a tool other than ``llama-quantize``, a plan that llama-quantize cannot make, or no file for the
            importance matrix that it needs.
    """
    if emit is None:
        return
    if emit != LLAMA_QUANTIZE:
        raise InputError(f"a command for {emit!r} cannot be emitted. Known: {LLAMA_QUANTIZE}.")
    if rounding != "ggml":
        raise InputError(
            f"this plan is rounded by {rounding}, which {LLAMA_QUANTIZE} does not know. Leave --emit out and use the "
            "file itself, or profile with --rounding ggml."
        )
    if imatrix is None:
        raise InputError(
            "llama-quantize makes the same file only with the same importance matrix. Name a file for it with "
            "--write-imatrix FILE."
        )


def tensor_types(layout: GgufLayout) -> dict[str, str]:
    """Give the types, in llama-quantize's spelling, of the tensors that it quantizes: weights of two dimensions."""
    return {
        name: tensor.kind.name.lower()
        for name, tensor in layout.tensors.items()
        if len(tensor.shape) > 1 and name.endswith(".weight") and tensor.kind != GGMLQuantizationType.F32
    }


def rules(types: Mapping[str, str]) -> list[str]:
    r"""Write the rules of the tensors inside blocks: one ``pattern=type`` for every kind of tensor and type.

    Returns:
        The rules.

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


def command_line(types: Mapping[str, str], file: Path, imatrix: Path, source: str) -> str:
    """Write the command, preceded by that of the converter where the model is a folder.

    Args:
        types: by tensor, in llama-quantize's spelling.
        file: the GGUF file of ours.
        imatrix: its importance matrix.
        source: the model: a GGUF file or a folder.

    Returns:
        One line, or two.
    """
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
