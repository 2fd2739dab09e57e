"""GPTQModel's own uniform GPTQ, with its defaults, measured beside ours: same model, tokens, bits and groups.

GPTQModel runs in the environment that --python names. What it writes is unpacked by our own reader and measured in
float32 like everything else. Each width's result is kept in FOLDER.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from scantling.backends.gptq_layout import GptqLayout
from scantling.common.progress import silent
from scantling.evaluation.compare import EvaluationSettings, evaluation_sequences
from scantling.evaluation.quality import measure_candidates
from scantling.models.demo_model import demo_model_path
from scantling.models.layers import find_layers
from scantling.models.loading import load_model
from scantling.quantization.formats import IntegerFormat
from scantling.sensitivity.profile import read_profile, uniform_formats
from scantling.sensitivity.sequential_rounding import round_as_shipped

GROUP_SIZE = 64


def main() -> None:
    """Quantize with GPTQModel where that has not been done, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", type=Path, help="holds the tokens to round on")
    parser.add_argument("folder", type=Path)
    parser.add_argument("bits", type=int)
    parser.add_argument("symmetry", choices=("sym", "asym"))
    parser.add_argument("--python", required=True, help="an interpreter that has gptqmodel")
    arguments = parser.parse_args()
    folder, profile = arguments.folder, read_profile(arguments.profile)
    folder.mkdir(parents=True, exist_ok=True)
    target = IntegerFormat(arguments.bits, GROUP_SIZE, arguments.symmetry == "sym")
    loaded, written = load_model(str(demo_model_path())), folder / f"gptqmodel-{target.name}"
    if not (written / "config.json").is_file():
        original = folder / "original"
        loaded.model.save_pretrained(original)
        loaded.tokenizer.save_pretrained(original)
        np.save(folder / "tokens.npy", profile.rounding_token_ids)
        script = Path(__file__).with_name("quantize_with_gptqmodel.py")
        words = [original, folder / "tokens.npy", target.bits, GROUP_SIZE, arguments.symmetry, written]
        done = subprocess.run(
            [Path(arguments.python).absolute(), script, *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
        )
        (folder / f"gptqmodel-{target.name}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
    tensors = {name: t for path in sorted(written.glob("*.safetensors")) for name, t in load_file(path).items()}
    version = json.loads((written / "config.json").read_text())["quantization_config"]["checkpoint_format"]
    layout = GptqLayout(zero_offset=1 if version == "gptq" else 0)
    theirs = {}
    for layer in find_layers(loaded.model).layers:
        if layer.block is not None:
            parts = {name: tensors[f"{layer.name}.{name}"] for name in ("qweight", "qzeros", "scales", "g_idx")}
            assert torch.equal(parts["g_idx"], torch.arange(layer.in_features, dtype=torch.int32) // GROUP_SIZE)
            theirs[layer.name] = layout.unpack(parts, target, layer.out_features, layer.in_features)
    wanted = {"ours": uniform_formats(profile, target.name)}
    candidates = {"theirs": theirs} | {
        f"ours-{inputs}": round_as_shipped(loaded, profile, wanted, inputs, silent)["ours"]
        for inputs in ("original", "quantized")
    }
    _, token_ids = evaluation_sequences(loaded, profile, EvaluationSettings())
    quality = measure_candidates(loaded.model, candidates, token_ids, silent)
    for name in candidates:
        found = quality[name]
        (folder / f"{name}-{target.name}.json").write_text(json.dumps(asdict(found)))
        error, ratio = found.kl_standard_error_nats or 0.0, found.mean_kl_nats / quality["theirs"].mean_kl_nats
        print(
            f"{target.name} {name}: KL {found.mean_kl_nats:.4f} ± {error:.4f}, perplexity {found.perplexity:.2f}, "
            f"{ratio:.3f} × theirs"
        )


if __name__ == "__main__":
    main()
