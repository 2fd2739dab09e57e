"""Holds our engine profiles against the engines' own checks of shapes, run by the Python of each engine's environment.

python benchmarks/engine_rules.py --vllm PYTHON --gptqmodel PYTHON
"""

import argparse
import itertools
import json
import subprocess

from scantling.planning.constraints.inference_engines import Shape, load_engine_profile, objections

OUT, IN, GROUPS = (64, 96, 100, 576), (32, 64, 96, 100, 128, 256, 576, 1536), (32, 64, 128, -1)
CASES = [
    (bits, group, symmetric, out_features, in_features)
    for bits, group, symmetric in itertools.product((2, 3, 4, 8), GROUPS, (True, False))
    for out_features, in_features in itertools.product(OUT, IN)
]
VLLM = """
import sys, json
for name in ("torchvision", "torchaudio", "torchcodec"):
    sys.modules[name] = None  # not needed, and broken in some environments
from vllm.model_executor.layers.quantization import auto_gptq
from vllm.model_executor.layers.quantization.utils.marlin_utils import (
    MARLIN_SUPPORTED_GROUP_SIZES, check_marlin_supports_shape)
types = next(c.TYPE_MAP for c in vars(auto_gptq).values() if isinstance(c, type) and hasattr(c, "TYPE_MAP"))
print(json.dumps([
    (bits, sym) in types and group in MARLIN_SUPPORTED_GROUP_SIZES
    and bool(check_marlin_supports_shape(out, in_, in_, group if group > 0 else in_)[0])
    for bits, group, sym, out, in_ in json.loads(sys.argv[1])]))
"""
GPTQMODEL = """
import sys, json, torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
print(json.dumps([
    TorchLinear.validate(bits=bits, group_size=group, desc_act=False, sym=sym, in_features=in_, out_features=out,
                         pack_dtype=torch.int32, dtype=torch.float16)[0] is True
    for bits, group, sym, out, in_ in json.loads(sys.argv[1])]))
"""


def ours(engine: str) -> list[bool]:
    """What our profile calls legal."""
    profile = load_engine_profile(engine)
    legal = []
    for bits, group, symmetric, out_features, in_features in CASES:
        name = f"int{bits}-{'row' if group < 0 else f'g{group}'}{'-sym' if symmetric else ''}"
        legal.append(not objections(profile, Shape("mlp.up_proj", out_features, in_features), name))
    return legal


def main() -> None:
    """Compare, and print counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm", help="the Python of an environment with vLLM")
    parser.add_argument("--gptqmodel", help="the Python of an environment with GPTQModel")
    arguments = parser.parse_args()
    for engine, python, code in (
        ("vllm-gptq", arguments.vllm, VLLM),
        ("gptqmodel", arguments.gptqmodel, GPTQMODEL),
    ):
        if python is None:
            continue
        done = subprocess.run([python, "-c", code, json.dumps(CASES)], capture_output=True, text=True, check=True)
        theirs, mine = json.loads(done.stdout.strip().splitlines()[-1]), ours(engine)
        refused = sum(legal and not accepted for legal, accepted in zip(mine, theirs, strict=True))
        closed = sum(accepted and not legal for legal, accepted in zip(mine, theirs, strict=True))
        print(
            f"{engine}: {len(CASES)} cases; the engine accepts {sum(theirs)}, our profile {sum(mine)}; "
            f"ours but refused {refused}; accepted but closed by us {closed}"
        )


if __name__ == "__main__":
    main()
