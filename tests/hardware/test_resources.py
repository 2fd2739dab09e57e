"""Rows against the laws written again in floating point, the KV cache against real caches, and what is missing said."""

import json
import math
from fractions import Fraction

import pytest

from helpers.tiny_profiles import CONFIG, FORMATS, choices, layer, limit_named, make_profile, profile_of, without_config
from scantling import Program
from scantling.common.errors import MissingFigureError, ScantlingError
from scantling.common.progress import silent
from scantling.common.units import exact_number
from scantling.hardware.resources import READ_BYTES, ROW_NAMES, SECONDS_PER_TOKEN, Rows
from scantling.hardware.specification import hardware_names, load_hardware
from scantling.hardware.workload import Workload
from scantling.models.kv_cache import kv_cache_bytes
from scantling.models.loading import load_model
from scantling.quantization.formats import parse_format
from scantling.quantization.methods import rounding_method
from scantling.sensitivity.calibration.text import load_text
from scantling.sensitivity.domains import DEFAULT_NAME, Domain
from scantling.sensitivity.profile import read_profile, write_profile
from scantling.sensitivity.profile_record import ProfileRecord
from scantling.sensitivity.profiling import ProfileSettings, build_profile

HARDWARE = """
name: card
bandwidth: 1 GB/s
memory: 1 GB
efficiency:
  - {formats: "int2*", share: {value: 0.5, origin: measured, source: here}}
  - {formats: "*", share: 0.8}
overhead: 10 us
base_power: 20 W
traffic_power: 30 W
"""


@pytest.fixture
def card(tmp_path):
    (tmp_path / "card.yaml").write_text(HARDWARE)
    return load_hardware(str(tmp_path / "card.yaml"))


def laws(profile, instance, choice, workload):
    """The laws of speed and power in floating point."""
    read, seconds = 1000.0, 1000.0 / (0.8 * 1e9)
    kv = sum(kv_cache_bytes(profile.record.config, workload.context, 1, 16)) if workload.context else 0
    read, seconds = read + kv, seconds + kv / (0.8 * 1e9)
    for unit, index, record in zip(instance.units, choice, profile.record.layers, strict=True):
        size = parse_format(unit.formats[index]).stored_bytes(record.out_features, record.in_features)
        size = size / record.out_features if unit.name == "model.embed_tokens" else size
        read += size
        seconds += size / ((0.5 if unit.formats[index].startswith("int2") else 0.8) * 1e9)
    seconds += 10e-6
    return read, seconds, 20 * seconds + 30 * read / 1e9


@pytest.mark.parametrize("context", [None, 40])
def test_rows_follow_the_laws_and_round_up(card, context):
    profile, workload = make_profile(), Workload(context=context)
    instance = Program(profile).hardware(card).workload(context=context).instance()
    for choice in list(choices(instance))[::37]:
        read, seconds, joules = laws(profile, instance, choice, workload)
        for name, expected, step in (
            ("read_bytes_per_token", read, 1),
            ("seconds_per_token", seconds, 1e-12),
            ("joules_per_token", joules, 1e-9),
        ):
            amount = instance.amount(name, choice) * step
            assert expected * (1 - 1e-12) <= amount <= expected + (len(instance.units) + 1) * step


def test_power_at_full_speed_and_at_a_rate_are_the_laws(card):
    profile = make_profile()
    limited = {
        limit: Program(profile).hardware(card).limit("power", at_most=f"{limit} W").instance() for limit in (36, 38, 40)
    }
    rated = Program(profile).hardware(card).workload(rate="100 tok/s").instance()
    agreed = set()
    for choice in list(choices(rated))[::7]:
        read, seconds, _ = laws(profile, rated, choice, Workload())
        power = 20 + 30 * read / 1e9 / seconds
        for limit, instance in limited.items():
            rule = limit_named(instance, "power")
            assert rule.at_most == 0
            assert (instance.amount(rule.row, choice) <= 0) == (power <= limit)
            agreed.add((limit, power <= limit))
        assert math.isclose(rated.amount("watts", choice) * 1e-6, 20 + 30 * read * 100 / 1e9, rel_tol=1e-6)
        assert math.isclose(rated.amount("joules_per_token", choice) * 1e-9, 20 / 100 + 30 * read / 1e9, rel_tol=1e-6)
    assert len({holds for _, holds in agreed}) == 2


def test_a_required_rate_must_be_reached_and_a_machine_brings_its_memory(card):
    instance = Program(make_profile()).hardware(card).workload(rate="100 tok/s").instance()
    assert limit_named(instance, "memory of card").at_most == 10**9
    assert limit_named(instance, "rate of the workload").row == SECONDS_PER_TOKEN
    assert limit_named(instance, "rate of the workload").at_most == 10**10


def test_speed_limits_are_rounded_to_the_safe_side(card):
    instance = Program(make_profile()).hardware(card).limit("speed", at_least="3 tok/s", at_most="7 tok/s").instance()
    at_most = limit_named(instance, "speed (at least)").at_most  # of the seconds
    at_least = limit_named(instance, "speed (at most)").at_least
    assert at_most is not None
    assert at_least is not None
    step = exact_number(instance.row("seconds_per_token").step)
    assert Fraction(at_most) * step <= Fraction(1, 3) < Fraction(at_most + 1) * step
    assert Fraction(at_least - 1) * step < Fraction(1, 7) <= Fraction(at_least) * step


def test_the_reference_case_is_met_by_the_machine_fitted_to_it():
    """64.0 and 17.8 GB read at 26 and about 70 tokens per second; 295 and 165 W at 26 tokens per second."""
    hardware = load_hardware("a100-80gb-reference")
    for read_bytes, speed, watts in ((63_970_617_344, 26, 295), (17_771_669_504, 70, 165)):
        # A whole model as one matrix of 16-bit weights.
        num_weights = read_bytes // 2
        big = layer("lm_head", "head", None, (num_weights // 1024, 1024), ["float16"])
        profile = profile_of([big], num_samples=1)
        instance = Program(profile).hardware(hardware).workload(rate="26 tok/s").instance()
        seconds = instance.amount("seconds_per_token", (0,)) * 1e-12
        assert 1 / seconds == pytest.approx(speed, rel=0.01)
        assert instance.amount("watts", (0,)) * 1e-6 == pytest.approx(watts, abs=1)


def test_what_is_read_for_a_token():
    layers = [
        layer("m.0.mlp.experts.0.up_proj", "mlp.experts.0.up_proj", 0, (64, 64), FORMATS[:2]),
        layer("m.0.mlp.experts.1.up_proj", "mlp.experts.1.up_proj", 0, (64, 64), FORMATS[:2], read_share=0.75),
        layer("m.0.q", "q", 0, (64, 64), FORMATS[:2]),
        layer("embed", "embedding", None, (100, 64), ["float16"]),
    ]
    routed = {"num_local_experts": 8, "num_experts_per_tok": 2}
    row = Rows(profile_of(layers, config=routed)).row(READ_BYTES)
    full = parse_format("int2-g32").stored_bytes(64, 64)
    assert [amounts[0] for amounts in row.amounts] == [
        full / 4,
        full * 3 / 4,
        full,
        12800,
    ]  # the tied head is read whole
    head = layer("head", "head", None, (100, 64), ["float16"])
    untied = Rows(profile_of([*layers, head], config=routed)).row(READ_BYTES)
    assert [amounts[0] for amounts in untied.amounts][3:] == [128, 12800]
    unknown = Rows(profile_of(layers, config=None)).row(READ_BYTES)
    assert unknown.amounts[0][0] == full  # nothing is known of the routing: as if always read


def test_what_is_missing_is_named(card, tmp_path):
    with pytest.raises(MissingFigureError, match="needs hardware"):
        Rows(make_profile()).row(SECONDS_PER_TOKEN)
    bare = without_config(make_profile())
    with pytest.raises(ScantlingError, match="does not record the model's config"):
        Program(bare).workload(context=5).memory("1 GB").instance()
    assert set(Rows(bare, Workload(context=5)).available()) == {"stored_bytes", "bit_weights"}
    strange = profile_of([layer("q", "q", 0, (64, 64), FORMATS[:2])], config=CONFIG | {"layer_types": ["linear"]})
    assert set(Rows(strange, Workload(context=5)).available()) == {"stored_bytes", "bit_weights"}
    program = Program(make_profile())
    blunt = card.model_copy(update={"efficiency": card.efficiency[:1]})
    with pytest.raises(ScantlingError, match=r"efficiency for the format int4-g32, which card lacks"):
        program.hardware(blunt).limit("speed", at_least="5 tok/s").instance()
    program = Program(make_profile(formats=("int4-g32", "float16")))
    with pytest.raises(ScantlingError, match=r"needs the hardware's overhead, which apple-m4-max lacks"):
        program.hardware("apple-m4-max").limit("speed", at_least="5 tok/s").instance()
    for limit, bound, lacks in (
        ("speed", {"at_least": "5 tok/s"}, "overhead"),
        ("energy", {"at_most": "5 J"}, "base_power"),
        ("power", {"at_most": "5 W"}, "traffic_power"),
        ("seconds_per_token", {"at_most": "5 ms"}, "bandwidth"),
    ):
        without = card.model_copy(update={lacks: None})
        with pytest.raises(ScantlingError, match=rf"needs the hardware's {lacks}, which card lacks"):
            program.hardware(without).limit(limit, **bound).instance()
    with pytest.raises(ScantlingError, match="workload: a speed of 0 is no limit"):
        program.hardware(card).workload(rate="0 tok/s").instance()
    with pytest.raises(ScantlingError, match="limited from above only"):
        program.hardware(card).limit("power", at_least="5 W").instance()
    with pytest.raises(ScantlingError, match="needs a rate"):
        program.hardware(card).minimize("power").instance()
    assert set(Rows(make_profile(), Workload(rate="1 tok/s"), card).available()) == set(ROW_NAMES)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name: x\nbandwidth: 3 GB", r"x\.yaml:2:1: bandwidth: 'GB' in '3 GB' is not a unit of bytes per second"),
        ("name: x\nmemory: {value: 3 GB, origin: guess}", "origin"),
        ("name: x\nmemory: {value: 3 GB, origin: measured}", "needs its source"),
        ("name: x\nefficiency: 3", "is not a share of the bandwidth"),
        ("name: x\nefficiency: .nan", "nan is not a number"),
        ("name: x\nspeed: 3", "unknown key 'speed'"),
        ("memory: 3 GB", "the key 'name' is missing"),
        ("- 1", "the file"),
    ],
)
def test_a_hardware_file_that_is_wrong_is_refused_with_its_line(tmp_path, text, match):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ScantlingError, match=match):
        load_hardware(str(tmp_path / "x.yaml"))


def test_every_number_of_known_hardware_has_a_source():
    for name in hardware_names():
        hardware = load_hardware(name)
        assert hardware.name == name
        figures = [
            figure for figure in json.loads(hardware.model_dump_json(exclude_none=True)).values() if "value" in figure
        ]
        figures += [entry.share.model_dump() for entry in hardware.efficiency]
        assert all(figure["source"] and figure["origin"] != "stated" for figure in figures)


def test_a_profile_records_what_the_kv_cache_depends_on(tmp_path, llama_folder, text_file):
    settings = ProfileSettings(("int2-g32", "float16"), (), 1, 1, 16, rounding=rounding_method({"method": "rtn"}))
    case = Domain(DEFAULT_NAME, load_text(str(text_file)))
    built = build_profile(load_model(str(llama_folder)), [case], settings, tmp_path / "p.safetensors", silent)
    write_profile(built, tmp_path / "p.safetensors")
    read = read_profile(tmp_path / "p.safetensors")
    assert Rows(read, Workload(context=10)).kv_cache_by_block == (10 * 2 * 2 * 8 * 2,) * 3
    json_record = read.record.model_dump(exclude={"config"})
    assert ProfileRecord.model_validate(json_record).config is None  # profiles written before


def test_twenty_thousand_layers_are_built_in_seconds(card):
    layers = [
        layer(f"m.{b}.mlp.experts.{e}.up_proj", f"mlp.experts.{e}.up_proj", b, (64, 64), FORMATS)
        for b in range(50)
        for e in range(400)
    ]
    profile = profile_of(layers, num_samples=1)
    program = Program(profile).hardware(card).limit("power", at_most="45 W").min_bits("*.experts.{0..9}.*", 4)
    program = program.tie("*.experts.*", per="block").distinct(2)
    assert len(program.instance().units) == 20_000


def test_a_batch_shares_what_is_read_and_holds_its_own_caches(card):
    """Steps of n sequences: matrices once, caches and embedding rows n times, joules over n tokens."""
    profile = make_profile()
    one, four = (Program(profile).hardware(card).workload(context=40, batch=batch).instance() for batch in (1, 4))
    cache = 2 * 40 * 2 * 2 * 16 * 2  # two blocks, keys and values, two heads of 16 numbers of two bytes
    picks = list(choices(one))[::19]
    for choice in picks:
        step, steps = one.amount("read_bytes_per_token", choice), four.amount("read_bytes_per_token", choice) * 4
        assert 0 <= steps - (step + 3 * cache + 3 * 128) <= 4 * len(one.units)
        seconds, joules = (
            four.amount(name, choice) * s for name, s in (("seconds_per_token", 1e-12), ("joules_per_token", 1e-9))
        )
        assert seconds - one.amount("seconds_per_token", choice) * 1e-12 == pytest.approx(
            (3 * cache + 3 * 128) / 0.8e9, rel=1e-6
        )
        read = four.amount("read_bytes_per_token", choice) * 4
        assert joules == pytest.approx((20 * seconds + 30 * read / 1e9) / 4, rel=1e-3)
    expert = layer("m.0.mlp.experts.0.up_proj", "mlp.experts.0.up_proj", 0, (64, 64), FORMATS[:1])
    config = {"num_local_experts": 8, "num_experts_per_tok": 2}
    shares = [Rows(profile_of([expert], config=config), Workload(batch=batch)).read_shares[0] for batch in (1, 2, 4, 5)]
    assert shares == [Fraction(1, 4), Fraction(1, 2), 1, 1]


def test_activations_are_counted_by_hand():
    """Hidden 64, widest layers 128 and 64, vocabulary 96: 2 n (2·64 + 128 + 64) + 4 s·96 bytes."""
    for workload, num_tokens, num_sequences in (
        (Workload(context=100), 1, 1),
        (Workload(context=100, batch=3), 3, 3),
        (Workload(prompt=50, answer=10), 50, 1),
        (Workload(prompt=50, answer=10, prompt_chunk=16, batch=2), 32, 2),
        (Workload(prompt=50, prompt_chunk=999), 50, 1),
        (Workload(), 0, 0),
    ):
        rows = Rows(make_profile(), workload)
        assert rows.activations == 640 * num_tokens + 384 * num_sequences
        resident, stored = rows.row("resident_bytes"), rows.row("stored_bytes")
        assert resident.fixed - stored.fixed == rows.activations + sum(rows.kv_cache_by_block)
    assert Rows(make_profile(), Workload(prompt=50, activations="3 kB")).activations == 3000
    experts = [layer(f"m.0.mlp.experts.{e}.up", f"mlp.experts.{e}.up", 0, (256, 64), FORMATS[:1]) for e in range(4)]
    mixture = profile_of(
        [*experts, layer("e", "embedding", None, (96, 64), ["float16"])], config=CONFIG | {"num_experts_per_tok": 3}
    )
    assert Rows(mixture, Workload(context=1)).activations == 2 * (2 * 64 + 3 * 256) + 4 * 96


def test_prompt_and_answer_are_the_context_by_default():
    profile = make_profile()
    held = Rows(profile, Workload(context=60)).kv_cache_by_block
    assert Rows(profile, Workload(prompt=50, answer=10)).kv_cache_by_block == held
    assert Rows(profile, Workload(prompt=5, context=60)).kv_cache_by_block == held


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"context": 50, "prompt": 40, "answer": 11}, "a context of 50 does not hold a query of 51 tokens"),
        ({"prompt_chunk": 16}, "prompt_chunk has no effect without a prompt"),
        ({"prompt": 0}, "prompt"),
        ({"activations": "3 W"}, "'W' in '3 W' is not a unit of bytes"),
        ({"kv_bits": 8}, "kv_bits has no effect without a context"),
        ({"rate": "3 W"}, "not a unit of tokens per second"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(values, match):
    with pytest.raises(ScantlingError, match=match):
        Program(make_profile()).workload(**values)


def test_a_context_that_leaves_no_memory_for_weights_is_reported(card):
    """The card has 1 GB; 131,072 tokens of 128 bytes in two blocks are 33.6 MB, a thousandfold context too much."""
    roomy = Program(make_profile()).hardware(card).workload(context=131_072)
    assert limit_named(roomy.instance(), "memory of card").at_most == 10**9
    with pytest.raises(
        ScantlingError, match=r"machine card: the workload leaves no memory for weights: .* KV cache takes .* GiB"
    ):
        Program(make_profile()).hardware(card).workload(context=131_072_000).instance()
    with pytest.raises(ScantlingError, match=r"--memory: the workload leaves no memory for weights"):
        Program(make_profile()).workload(context=131_072).limit("memory", at_most="30 MB", origin="--memory").instance()


def test_rows_that_are_too_large_are_refused():
    layers = [layer("m.0.w", "w", 0, (2**31, 2**31), FORMATS[2:])]
    with pytest.raises(ScantlingError, match="exact in 64 bits"):
        Rows(profile_of(layers, num_samples=1)).row("bit_weights")
