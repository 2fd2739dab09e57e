"""What peers are given: the demo model as a folder, and the calibration text of our profile.

The model is the dequantized one, in float32. Peers that take tokens get the sequences that our profile prices on;
those that take texts get the articles that these were cut from.
"""

import json
from pathlib import Path

import numpy as np

from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.sensitivity.calibration.text import load_text
from scantling.sensitivity.profile import read_profile


def prepare(profile_path: Path, folder: Path) -> None:
    """Write the material where it is not there.

    Args:
        profile_path: of the demo model.
        folder: for ``model``, ``pricing.npy`` and ``texts.jsonl``.
    """
    texts = folder / "texts.jsonl"
    if texts.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    profile, loaded = read_profile(profile_path), load_model(str(demo_model_path()))
    loaded.model.save_pretrained(folder / "model")
    loaded.tokenizer.save_pretrained(folder / "model")
    np.save(folder / "pricing.npy", profile.pricing_token_ids)
    articles = load_text(profile.record.text_source, loaded).calibration()
    texts.write_text("".join(json.dumps({"text": article}) + "\n" for article in articles))
