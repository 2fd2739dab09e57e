# /// script
# requires-python = ">=3.11"
# dependencies = ["auto-round==0.16.1", "transformers==5.23.0", "torch==2.13.0"]
# ///
"""Intel auto-round's AutoScheme: the sum of |gradient × rounding error| of 2, 3, 4, 8 bits, and its own search.

Weights alone, integers in groups of 64 with zero points, scales and zero points left out of the average. It keeps its
scores itself, so that only the first target pays for them. Nothing is tied, as is its default.

Arguments: a folder with the model and the texts, a folder to keep scores in, average bits, the file to write.
"""

import json
import os
import sys
from pathlib import Path

from auto_round import AutoRound, AutoScheme  # pyright: ignore[reportMissingImports] - in an environment of its own
from auto_round.schemes import QuantizationScheme  # pyright: ignore[reportMissingImports] - in an environment of its own

WIDTHS, GROUP_SIZE = (2, 3, 4, 8), 64
NUM_TEXTS, LENGTH = 16, 256  # its defaults


def main() -> None:
    """Score and search."""
    material, kept, average_bits, target = sys.argv[1:]
    os.environ["AR_AUTO_SCHEME_CACHE"] = kept  # it has no other way to say where scores are kept
    source, texts = str(Path(material) / "model"), str(Path(material) / "texts.jsonl")
    scheme = AutoScheme(
        avg_bits=float(average_bits),
        options=[QuantizationScheme(bits=bits, group_size=GROUP_SIZE, sym=False) for bits in WIDTHS],
        ignore_scale_zp_bits=True,
        nsamples=NUM_TEXTS,
        seqlen=LENGTH,
        dataset=texts,
    )
    quantizer = AutoRound(
        source, scheme=scheme, dataset=texts, nsamples=NUM_TEXTS, seqlen=LENGTH, iters=0, device_map="cpu"
    )
    quantizer.post_init()
    chosen = {name: layer["bits"] for name, layer in quantizer.layer_config.items() if layer["bits"] < 16}
    Path(target).write_text(json.dumps({"bits": chosen}))


if __name__ == "__main__":
    main()
