"""The loss around a plan against the loss itself, measured with one layer changed."""

import numpy as np
import pytest
import torch

from helpers.tiny_models import make_model, make_tokenizer
from scantling.common.progress import silent
from scantling.evaluation.linearisation import linearise
from scantling.evaluation.quality import measure_candidates
from scantling.models.layers import find_layers, matrix_of
from scantling.models.loading import LoadedModel
from scantling.quantization.formats import parse_format
from scantling.quantization.grid import CastMatrix, Rounded
from scantling.quantization.methods import round_matrices, rounding_method
from scantling.sensitivity.calibration.capture import LabelDraws

TOKENS = torch.randint(0, 92, (3, 24), generator=torch.Generator().manual_seed(5))


def records_around_a_plan(model, step: float) -> dict[str, dict[str, Rounded]]:
    """Every layer in 4 bits, and a little further along a random direction and against it."""
    generator, found = torch.Generator().manual_seed(1), {}
    method = rounding_method({"method": "rtn"})
    for layer in find_layers(model).layers:
        if layer.block is None:
            continue
        matrix = matrix_of(model.get_submodule(layer.name))
        target = parse_format("int4-row")
        (of_layer,) = round_matrices(method, [matrix], torch.eye(matrix.shape[1]), [target])
        plan = of_layer[target].dequantize()
        away = step * matrix.std() * torch.randn(matrix.shape, generator=generator)
        found[layer.name] = {
            "plan": CastMatrix(plan),
            "there": CastMatrix(plan + away),
            "back": CastMatrix(plan - away),
        }
    return found


@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "gpt2"])
def test_changes_are_those_of_the_measured_loss(family):
    model = make_model(family)
    loaded = LoadedModel("tiny", model, make_tokenizer(), "0" * 64, "float16")
    records = records_around_a_plan(model, 0.005)
    formats = dict.fromkeys(records, "plan")
    found = linearise(loaded, records, formats, (TOKENS, LabelDraws(0)), silent)

    def measured(changed: dict[str, str]) -> np.ndarray:
        candidate = {name: of[changed[name]] for name, of in records.items()}
        return np.array(measure_candidates(model, {"it": candidate}, TOKENS, silent)["it"].kl_nats)

    assert found.kl_nats == pytest.approx(measured(formats), rel=1e-4)
    assert set(found.changes_nats) == set(records)
    for layer, changes in found.changes_nats.items():
        there, back = measured({**formats, layer: "there"}), measured({**formats, layer: "back"})
        slope = (changes["there"] - changes["back"]) / 2
        assert slope == pytest.approx((there - back) / 2, rel=0.05, abs=2e-2 * np.abs(slope).max() + 2e-5)
        assert (changes["there"] + changes["back"] > 0).all()  # the curvature
