# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "transformers==5.23.0"]
# ///
"""The rule of mlx-lm's dynamic quantization, restated in torch.

mlx runs on a CPU, but mlx-lm 0.32.2 took 62 CPU seconds there for one sequence of 128 tokens. The rule: the gradient of
KL(original ‖ quantized), averaged over tokens, is taken at the model whose layers all have the low width; a layer's
sensitivity is Σ gradient · (W(low) − W(high)) per weight; layers above a threshold get the high width. The grid is that
of ``mlx.core.quantize`` (equal to it on random matrices at 2, 3, 4, 5, 8 bits). The embedding stays in 16 bits, as
everywhere here, so the threshold is found by sorting the layers and not by mlx-lm's search, which counts it.
The widths: the two neighbours of the average; for a whole number of bits one below and one above.

Arguments: a folder with the model and the tokens, a folder to keep sensitivities in, average bits, the file to write.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

GROUP_SIZE = 64


def affine(weight: Tensor, bits: int) -> Tensor:
    """Round to mlx's grid: the end of the range that is farther from 0 is met exactly, and so is 0."""
    grouped = weight.reshape(len(weight), -1, GROUP_SIZE)
    lowest, highest = grouped.amin(2, keepdim=True), grouped.amax(2, keepdim=True)
    step = ((highest - lowest) / (2**bits - 1)).clamp_min(1e-7)
    from_below = lowest.abs() > highest.abs()
    edge, step = torch.where(from_below, lowest, highest), torch.where(from_below, step, -step)
    code = torch.round(edge / step)
    step, bias = torch.where(code != 0, edge / code, step), torch.where(code != 0, edge, 0.0)
    return (step * ((grouped - bias) / step).round().clamp(0, 2**bits - 1) + bias).reshape(weight.shape)


def install(layers: dict[str, nn.Linear], matrices: dict[str, Tensor]) -> None:
    """Put matrices into the model."""
    for name, layer in layers.items():
        layer.weight.data = matrices[name]


def estimate(source: Path, low: int, high: int) -> dict[str, list[float]]:
    """Give sensitivity and number of weights of every layer."""
    model = AutoModelForCausalLM.from_pretrained(source / "model", dtype=torch.float32).requires_grad_(False)
    layers = {
        name: module
        for name, module in model.named_modules()
        if name.endswith("_proj") and isinstance(module, nn.Linear)
    }
    own = {name: layer.weight.data for name, layer in layers.items()}
    coarse = {name: affine(weight, low) for name, weight in own.items()}
    rows = torch.from_numpy(np.load(source / "pricing.npy"))
    for layer in layers.values():
        layer.weight.requires_grad_()
    for row in rows:
        install(layers, own)
        with torch.no_grad():
            wanted = model(row[None], use_cache=False).logits[0].log_softmax(-1)
        install(layers, coarse)
        found = model(row[None], use_cache=False).logits[0].log_softmax(-1)
        nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True).backward()
    gradients = {name: layer.weight.grad for name, layer in layers.items() if layer.weight.grad is not None}
    return {
        name: [
            float((gradient * (coarse[name] - affine(own[name], high))).sum()) / len(rows) / own[name].numel(),
            own[name].numel(),
        ]
        for name, gradient in gradients.items()
    }


def main() -> None:
    """Estimate and cut."""
    material, kept, wanted, target = sys.argv[1:]
    average_bits = float(wanted)
    low, high = math.ceil(average_bits) - 1, math.floor(average_bits) + 1
    path = Path(kept) / f"{low}-{high}.json"
    if not path.is_file():
        path.write_text(json.dumps(estimate(Path(material), low, high)))
    found = json.loads(path.read_text())
    spare, chosen = (average_bits - low) * sum(size for _, size in found.values()), dict.fromkeys(found, low)
    for name, (_, size) in sorted(found.items(), key=lambda item: -item[1][0]):
        spare -= (high - low) * size
        if spare < 0:
            break
        chosen[name] = high
    Path(target).write_text(json.dumps({"bits": chosen}))


if __name__ == "__main__":
    main()
