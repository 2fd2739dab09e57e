# /// script
# requires-python = ">=3.11"
# dependencies = ["auto-round==0.16.1", "transformers==5.23.0", "torch==2.13.0"]
# ///
"""Intel auto-round's own rounding of given widths, written as the float values that they stand for.

Integers in groups of 64 with zero points. Its signed gradient descent with the given number of steps a block; 0 is its
rounding without any. It rounds every block against the quantized inputs, as it does by itself.

Arguments: a folder with the model and the texts, a .json of widths by layer, the steps, the .safetensors to write.
"""

import json
import os
import sys
from pathlib import Path

os.environ["AR_ALLOW_W8_ASYM"] = (
    "1"  # it refuses 8 bits with zero points, which vLLM does not load; nothing loads these
)

from auto_round import AutoRound  # pyright: ignore[reportMissingImports] - in an environment of its own
from safetensors.torch import save_file

GROUP_SIZE, NUM_TEXTS, LENGTH, BATCH = 64, 16, 512, 4


def main() -> None:
    """Round and save."""
    material, widths, steps, target = sys.argv[1:]
    bits = json.loads(Path(widths).read_text())["bits"]
    quantizer = AutoRound(
        str(Path(material) / "model"),
        bits=4,
        group_size=GROUP_SIZE,
        sym=False,
        layer_config={name: {"bits": width, "group_size": GROUP_SIZE, "sym": False} for name, width in bits.items()},
        dataset=str(Path(material) / "texts.jsonl"),
        nsamples=NUM_TEXTS,
        seqlen=LENGTH,
        batch_size=BATCH,
        iters=int(steps),
        device_map="cpu",
    )
    model, _ = quantizer.quantize()
    save_file({name: model.get_submodule(name).weight.detach().float().contiguous() for name in bits}, target)


if __name__ == "__main__":
    main()
