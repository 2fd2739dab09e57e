# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "nvidia-modelopt==0.47.0", "torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0", "pulp==3.3.2",
#   "requests==2.34.2", "datasets==5.2.0",
# ]
# ///
"""NVIDIA ModelOpt's own rounding of given widths, written as the float values that they stand for.

Symmetric integers in groups of 64, to nearest. ``max`` takes the largest weight of a group for its scale, as its
auto_quantize does; ``awq_lite`` scales the inputs of every layer beforehand, as its AWQ recipes do.

Arguments: a folder with the model and the tokens, a .json of widths by layer, ``max`` or ``awq_lite``, the .safetensors
to write.
"""

import json
import sys
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq  # pyright: ignore[reportMissingImports] - in an environment of its own
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GROUP_SIZE = 64


def main() -> None:
    """Round and save."""
    material, widths, algorithm, target = sys.argv[1:]
    given = json.loads(Path(widths).read_text())["bits"]
    bits = {name: width for name, width in given.items() if width < 16}
    model = AutoModelForCausalLM.from_pretrained(Path(material) / "model", dtype=torch.float32)
    batches = [torch.from_numpy(row)[None] for row in np.load(Path(material) / "pricing.npy")]
    rules: list[dict[str, object]] = [{"quantizer_name": "*", "enable": False}]
    for name, width in bits.items():
        cfg = {"num_bits": width, "block_sizes": {-1: GROUP_SIZE}}
        rules.append({"quantizer_name": f"*{name}.weight_quantizer", "cfg": cfg, "enable": True})

    def read(quantized: torch.nn.Module) -> None:
        for batch in batches:
            quantized(batch, use_cache=False)

    with torch.no_grad():
        mtq.quantize(model, {"quant_cfg": rules, "algorithm": algorithm}, forward_loop=read)
        values = {}
        for name in bits:
            module: Any = model.get_submodule(name)
            values[name] = module.weight_quantizer(module.weight)
            scale = getattr(module.input_quantizer, "_pre_quant_scale", None)
            if scale is not None:
                values[name] = values[name] * scale
    save_file({name: matrix.detach().float().contiguous() for name, matrix in values.items()}, target)


if __name__ == "__main__":
    main()
