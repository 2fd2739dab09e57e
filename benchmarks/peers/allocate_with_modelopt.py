# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "nvidia-modelopt==0.47.0", "torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0", "pulp==3.3.2",
#   "requests==2.34.2", "datasets==5.2.0",
# ]
# ///
"""NVIDIA ModelOpt's auto_quantize, gradient method: its own price of 2, 3, 4, 8 bits and its own integer program.

Weights alone, symmetric integers in groups of 64, calibrated by ``max``. 16 bits are not offered, so that the choice is
among the same widths as everywhere. Its rules give q, k, v one width, and gate and up one. Scores are kept in a
checkpoint of its own, so that only the first target pays for them.

Arguments: a folder with the model and the tokens, a folder to keep scores in, average bits, the file to write.
"""

import json
import sys
from pathlib import Path

import modelopt.torch.quantization as mtq  # pyright: ignore[reportMissingImports] - in an environment of its own
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

WIDTHS, GROUP_SIZE = (2, 3, 4, 8), 64


def weight_only(bits: int) -> dict[str, object]:
    """State a format as its presets do."""
    cfg = {"num_bits": bits, "block_sizes": {-1: GROUP_SIZE}}
    disabled = {"quantizer_name": "*", "enable": False}
    return {
        "quant_cfg": [disabled, {"quantizer_name": "*weight_quantizer", "cfg": cfg, "enable": True}],
        "algorithm": "max",
    }


def with_head(model: PreTrainedModel, average_bits: float) -> float:
    """Average over the output head too, which ModelOpt counts at 16 bits though it is not quantized."""
    decided = sum(values.numel() for name, values in model.named_parameters() if name.endswith("_proj.weight"))
    embeddings = model.get_output_embeddings()
    assert embeddings is not None
    head = embeddings.get_parameter("weight").numel()
    return (average_bits * decided + 16 * head) / (decided + head)


def main() -> None:
    """Score and search."""
    material, kept, average_bits, target = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(Path(material) / "model", dtype=torch.float32)
    batches = [torch.from_numpy(row)[None] for row in np.load(Path(material) / "pricing.npy")]
    formats = {bits: weight_only(bits) for bits in WIDTHS}
    searched = {
        "module_name_patterns": ["*_proj"],
        "quantization_formats": list(formats.values()),
        "allow_no_quant": False,
    }
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": with_head(model, float(average_bits))},
        quantization_formats=list(formats.values()),
        module_search_spaces=[searched],
        data_loader=batches,
        forward_step=lambda model, batch: model(batch, labels=batch, use_cache=False),
        loss_func=lambda output, _batch: output.loss,
        disabled_layers=["*lm_head*"],
        num_calib_steps=1,  # ``max`` looks at weights alone
        num_score_steps=len(batches),
        checkpoint=str(Path(kept) / "modelopt.pt"),
        verbose=True,
    )
    chosen = {
        name: recipe.num_bits
        for unit, recipe in state["best"]["recipe"].items()
        for name in state["candidate_stats"][unit]["module_names"]
    }
    Path(target).write_text(json.dumps({"bits": chosen, "satisfied": state["best"]["is_satisfied"]}))


if __name__ == "__main__":
    main()
