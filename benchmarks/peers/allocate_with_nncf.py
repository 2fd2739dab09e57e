# /// script
# requires-python = ">=3.11"
# dependencies = ["nncf==3.4.0", "torch==2.13.0", "transformers==5.23.0"]
# ///
"""NNCF's mixed-precision ratio: layers ranked by Hessian trace × error at 8 bits, the worst get 8 bits.

Two widths: 8, and the whole number below the average, symmetric in groups of 64. NNCF ranks without regard to the lower
width. Its torch backend ranks for 3 bits but cannot write them (``UnboundLocalError`` in
``get_dq_insertion_command``), so it is run with 4 and 8 bits at the ratio that the lower width asks for.

Arguments: a folder with the model and the tokens, a folder that is not used, average bits, the file to write.
"""

import json
import math
import sys
from pathlib import Path

import nncf  # pyright: ignore[reportMissingImports] - in an environment of its own
import numpy as np
import torch
from transformers import AutoModelForCausalLM

BACKUP_BITS, GROUP_SIZE = 8, 64


def main() -> None:
    """Rank and cut."""
    material, _, wanted, target = sys.argv[1:]
    low = math.ceil(float(wanted)) - 1
    model = AutoModelForCausalLM.from_pretrained(Path(material) / "model", dtype=torch.float32)
    model.config.use_cache = False
    rows = [{"input_ids": torch.from_numpy(row)[None]} for row in np.load(Path(material) / "pricing.npy")]
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=(BACKUP_BITS - float(wanted)) / (BACKUP_BITS - low),
        group_size=GROUP_SIZE,
        dataset=nncf.Dataset(rows),
        subset_size=len(rows),
        sensitivity_metric=nncf.SensitivityMetric.HESSIAN_INPUT_ACTIVATION,
        ignored_scope=nncf.IgnoredScope(patterns=[".*lm_head.*", ".*embed_tokens.*"]),
    )
    chosen = {}
    for name, module in compressed.named_modules():
        kind = type(module).__name__
        if kind.endswith("Decompressor"):
            layer = name.partition("post_hooks.")[2].partition(":weight__")[0].replace(":", ".")
            chosen[layer] = BACKUP_BITS if kind.startswith("INT8") else low
    Path(target).write_text(json.dumps({"bits": chosen}))


if __name__ == "__main__":
    main()
