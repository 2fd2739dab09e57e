"""predict against the laws by hand; what lacks, does not fit or is out of reach is said; the reference case."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from helpers.command_line import run
from helpers.tiny_profiles import make_profile
from known_shapes import QWEN2_5_32B, Qwen2Shapes
from reference_case_model import fitted_case, reference_case, shapes_profile
from reference_case_page import reference_page
from scantling.common.errors import ScantlingError
from scantling.evaluation.prediction import Use, entries_of, predict
from scantling.hardware.resources import Rows
from scantling.hardware.specification import Hardware, SourcedNumber, load_hardware
from scantling.hardware.workload import Workload
from scantling.planning.plan import read_plan
from scantling.sensitivity.profile import uniform_formats, write_profile

CARD = Hardware.model_validate({
    "name": "card",
    "memory": "150 kB",
    "bandwidth": {"value": "1 GB/s", "origin": "measured", "source": "here"},
    "efficiency": {"value": 0.8, "origin": "estimate", "source": "a guess"},
    "overhead": "10 us",
    "base_power": "20 W",
    "traffic_power": "30 W",
})


def there(found):
    assert found is not None
    return found


def predicted(hardware=CARD, **work):
    profile = make_profile()
    entries = {"mine": uniform_formats(profile, "4"), **entries_of(profile, {}, ["2"])}
    return profile, predict(profile, entries, Use(hardware, Workload(**work)))


def test_every_number_follows_from_the_bytes():
    profile, found = predicted(context=40, rate="100 tok/s")
    assert [row.name for row in found.entries] == ["mine", "uniform int2-g32", "original"]
    rows = Rows(profile, Workload(context=40))
    cache, activations = sum(rows.kv_cache_by_block), rows.activations
    chosen = (uniform_formats(profile, "4"), uniform_formats(profile, "2"), None)
    original = 2 * sum(layer.num_weights for layer in profile.record.layers) + 1000
    for row, formats in zip(found.entries, chosen, strict=True):
        stored = original if formats is None else profile.stored_bytes(formats)
        assert row.stored_bytes == stored
        assert row.resident_bytes == stored + cache + activations
        read = stored - 96 * 64 * 2 + 64 * 2 + cache  # of the embedding one row
        assert row.read_bytes_per_step == read
        seconds = read / 0.8e9 + 1e-5
        assert row.tokens_per_second == pytest.approx(1 / seconds)
        assert there(row.full_speed).watts == pytest.approx(20 + 30 * read / 1e9 / seconds)
        assert there(row.full_speed).joules_per_token == pytest.approx(there(row.full_speed).watts * seconds)
        assert there(row.same_rate).watts == pytest.approx(20 + 30 * read * 100 / 1e9)
        loss = 0 if formats is None else profile.predict(formats)[0]
        assert row.loss_increase_nats == pytest.approx(loss)
    assert (found.kv_cache_bytes, found.activation_bytes) == (cache, activations)
    assert found.words["stored_bytes"] == "exact"
    assert set(found.words.values()) == {"exact", "predicted"}


def test_the_origin_of_every_parameter_is_told():
    _, found = predicted()
    origins = {parameter.name: parameter.origin for parameter in found.parameters}
    assert origins == {
        "bandwidth": "measured", "overhead": "stated", "base_power": "stated", "traffic_power": "stated",
        "efficiency of *": "estimate",
    }  # fmt: skip
    assert found.estimates == ("efficiency of *",)


def test_powers_are_compared_at_the_slowest_full_speed_where_no_rate_is_stated():
    _, found = predicted()
    slowest = min(found.entries, key=lambda row: there(row.tokens_per_second))
    assert found.same_rate_origin == f"full speed of {slowest.name}" == "full speed of original"
    assert found.same_rate_tokens_per_second == pytest.approx(slowest.tokens_per_second)
    assert all(row.same_rate is not None for row in found.entries)
    assert there(slowest.same_rate).watts == pytest.approx(there(slowest.full_speed).watts)


def test_what_is_out_of_reach_does_not_fit_or_lacks_is_said_beside_the_rest():
    _, found = predicted(rate="9000 tok/s", context=700)
    plan, _, original = found.entries
    assert any("does not fit: " in note and "card has 150 kB" in note for note in plan.notes)
    assert any("a rate of 9000 tok/s is out of reach" in note for note in original.notes)
    assert original.same_rate is None
    assert original.full_speed is not None
    bare = CARD.model_copy(update={"base_power": None})
    _, found = predicted(bare)
    assert all(row.full_speed is None and row.tokens_per_second for row in found.entries)
    assert "needs the hardware's base_power, which card lacks" in " ".join(found.entries[0].notes)
    assert found.same_rate_tokens_per_second is None
    capped = CARD.model_copy(update={"power_limit": SourcedNumber(value="21 W")})
    _, found = predicted(capped)
    assert any("above the power limit of card" in note for note in found.entries[-1].notes)


def test_a_query_is_predicted_at_the_mean_length_of_its_answer():
    _, found = predicted(answer=21)
    profile = make_profile()
    cache = sum(Rows(profile, Workload(context=11)).kv_cache_by_block)
    read = found.entries[0].read_bytes_per_step - sum(Rows(profile, Workload(answer=21)).kv_cache_by_block) + cache
    assert there(found.entries[0].query).seconds == pytest.approx(21 * (read / 0.8e9 + 1e-5))
    _, found = predicted(prompt=50, answer=5)
    assert found.entries[0].query is None
    assert any("a query needs the hardware's compute" in note for note in found.entries[0].notes)
    computing = CARD.model_copy(
        update={"compute": SourcedNumber(value="1 GFLOP/s"), "compute_power": SourcedNumber(value="5 W")}
    )
    _, found = predicted(computing, prompt=50, answer=1)
    multiplied = sum(layer.num_weights for layer in profile.record.layers[:6]) + 96 * 64 + 64
    assert there(found.entries[0].query).seconds_to_first_token == pytest.approx(2 * 50 * multiplied / 1e9)


def test_the_command_says_it_in_words_and_as_json(tmp_path):
    write_profile(make_profile(), tmp_path / "p.safetensors")
    plan, other = tmp_path / "plan.json", tmp_path / "other.json"
    for bits, path in (("4", plan), ("6", other)):
        assert run("solve", tmp_path / "p.safetensors", "--average-bits", bits, "-o", path).exit_code == 0
    told = json.loads(run("predict", plan, "--hardware", "rtx-4090", "--context", "64", "--json").output)
    assert [row["name"] for row in told["entries"]] == [
        "plan", "uniform int2-g32", "uniform int4-g32", "uniform int8-row", "original",
    ]  # fmt: skip
    assert told["entries"][0]["stored_bytes"] == read_plan(plan).stored_bytes
    assert told["estimates"]
    words = " ".join(run("predict", plan, "--plan", other, "--uniform", "4", "--hardware", "rtx-4090").output.split())
    for expected in ("predicted", "exact", "estimate", "rule of thumb", "These rest on estimates", "datasheet"):
        assert expected in words
    with pytest.raises(ScantlingError, match="neither known hardware nor a file"):
        run("predict", plan, "--hardware", "abacus")
    with pytest.raises(ScantlingError, match="the profile has no uniform '7'"):
        run("predict", plan, "--hardware", "rtx-4090", "--uniform", "7")
    with pytest.raises(ScantlingError, match="not a unit of tokens per second"):
        run("predict", plan, "--hardware", "rtx-4090", "--rate", "26 W")


# The reference case


def test_the_shapes_are_those_of_the_model():
    """Counts that are known of Qwen2.5-32B: 32.76 billion parameters, 31.0 outside the embeddings."""
    shapes = list(QWEN2_5_32B.shapes())
    assert len(shapes) == 64 * 7 + 2
    inside = sum(s.out_features * s.in_features for s in shapes if s.block is not None)
    ends = sum(s.out_features * s.in_features for s in shapes if s.block is None)
    total = inside + ends + QWEN2_5_32B.num_other_parameters
    assert round(total / 1e9, 2) == 32.76
    assert round((total - ends) / 1e9, 1) == 31.2


def test_shapes_agree_with_transformers():
    small = Qwen2Shapes(2, 64, 96, 4, 2, 50)
    config = Qwen2Config(
        num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = {name.removesuffix(".weight"): tuple(p.shape) for name, p in model.named_parameters() if p.ndim == 2}
    assert matrices == {s.name: (s.out_features, s.in_features) for s in small.shapes()}
    others = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert others == small.num_other_parameters


def test_the_reference_case_is_within_its_bounds():
    case = reference_case()
    for asked, ours in zip((61, 18), case.stored_bytes, strict=True):
        assert ours / 2**30 == pytest.approx(asked, rel=0.02)
    plan, original = case.prediction.entries
    assert original.tokens_per_second == pytest.approx(26, rel=0.03)
    assert plan.tokens_per_second == pytest.approx(70, rel=0.03)
    assert there(original.same_rate).watts == pytest.approx(295, rel=0.03)
    assert there(plan.same_rate).watts == pytest.approx(165, rel=0.03)
    assert plan.loss_increase_nats is None  # nothing is invented
    assert case.fitted.base_watts_at_full_speeds < 0  # the other reading of the powers is impossible
    page = reference_page(case)
    for words in ("consistent at equal throughput only", "an assumption here and not measured", "Fitted to the case"):
        assert words in page


def test_four_parameters_meet_four_numbers():
    fitted = fitted_case(64 * 10**9, 18 * 10**9, load_hardware("a100-80gb"))
    for read, speed, watts in ((64e9, 26, 295), (18e9, 70, 165)):
        assert 1 / (read / (fitted.efficiency * 2.039e12) + fitted.overhead_seconds) == pytest.approx(speed)
        assert fitted.base_watts + fitted.traffic_watts * read * 26 / 2.039e12 == pytest.approx(watts)
        at_full = fitted.base_watts_at_full_speeds + fitted.traffic_watts_at_full_speeds * read * speed / 2.039e12
        assert at_full == pytest.approx(watts)


def test_a_profile_of_shapes_has_bytes_and_no_prices():
    profile = shapes_profile(Qwen2Shapes(1, 128, 256, 4, 2, 100), "small")
    found = predict(profile, entries_of(profile, {}, None), Use(load_hardware("rtx-4090"), Workload(context=10)))
    assert [row.name for row in found.entries] == ["uniform int4-g128", "uniform float16", "original"]
    assert found.entries[1].stored_bytes == found.entries[2].stored_bytes
    assert found.entries[0].loss_increase_nats is None
    assert found.kv_cache_bytes == 10 * 2 * 2 * 32 * 2
