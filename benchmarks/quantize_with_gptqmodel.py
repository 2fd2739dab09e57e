"""A script for an environment with GPTQModel: its own GPTQ with its own defaults, on given tokens.

Arguments: the model's folder, an .npy of token ids [sequences, tokens], the bits, the group size, ``sym`` or ``asym``,
the folder to write.
"""

import sys
import time

import numpy as np
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # pyright: ignore[reportMissingImports] - in an environment of its own


def main() -> None:
    """Quantize and save."""
    source, tokens, bits, group, symmetry, target = sys.argv[1:]
    config = QuantizeConfig(bits=int(bits), group_size=int(group), sym=symmetry == "sym")
    model = GPTQModel.load(source, config, device="cpu", backend=BACKEND.GPTQ_TORCH)
    rows = [{"input_ids": [row.tolist()], "attention_mask": [[1] * len(row)]} for row in np.load(tokens)]
    start = time.perf_counter()
    model.quantize(rows, batch_size=1)
    print(f"seconds {time.perf_counter() - start:.0f}", flush=True)
    model.save(target)


if __name__ == "__main__":
    main()
