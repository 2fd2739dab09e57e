"""Runs the library function behind llama-quantize, in a process of its own, as the command line tells it to.

    python tests/llama_quantize_worker.py llama-quantize --imatrix FILE --tensor-type RULE=TYPE IN OUT MIX

The importance matrix is divided sum by count in float32, as the tool does.
"""

import argparse
import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader

TYPES = {kind.name.lower(): int(kind) for kind in GGMLQuantizationType}
MIXES = {
    name.removeprefix("LLAMA_FTYPE_MOSTLY_"): value
    for name, value in vars(llama_cpp).items()
    if name.startswith("LLAMA_FTYPE_MOSTLY_")
}


class Imatrix(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("num_values", ctypes.c_size_t))


class Override(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("kind", ctypes.c_int))


def read_importance(path: Path) -> dict[str, np.ndarray]:
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32).reshape(-1) for tensor in GGUFReader(path).tensors}
    return {
        name.removesuffix(".in_sum2"): sums / tensors[name.removesuffix("in_sum2") + "counts"]
        for name, sums in tensors.items()
        if name.endswith(".in_sum2")
    }


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--token-embedding-type")
    parser.add_argument("--output-tensor-type")
    parser.add_argument("--tensor-type", action="append", default=[])
    parser.add_argument("--allow-requantize", action="store_true")
    parser.add_argument("tool")
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("mix")
    asked = parser.parse_args(words)
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 2
    params.ftype = MIXES[asked.mix]
    params.allow_requantize = asked.allow_requantize
    if asked.token_embedding_type:
        params.token_embedding_type = TYPES[asked.token_embedding_type]
    if asked.output_tensor_type:
        params.output_tensor_type = TYPES[asked.output_tensor_type]
    importance = read_importance(asked.imatrix) if asked.imatrix else {}
    entries = (Imatrix * (len(importance) + 1))(
        *(Imatrix(name.encode(), values.ctypes.data, len(values)) for name, values in importance.items())
    )
    if importance:
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    rules = [rule.rpartition("=") for rule in asked.tensor_type]
    overrides = (Override * (len(rules) + 1))(*(Override(rule.encode(), TYPES[kind]) for rule, _, kind in rules))
    if rules:
        params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
    return llama_cpp.llama_model_quantize(asked.source.encode(), asked.out.encode(), ctypes.pointer(params))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
