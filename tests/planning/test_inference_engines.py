"""Engine profiles: their rules on shapes and formats, and that what an engine refuses is never a choice."""

import pytest

from helpers.tiny_profiles import feasible, formats_of, layer, make_profile, profile_of
from scantling import Program
from scantling.common.errors import ScantlingError
from scantling.common.patterns import Pattern
from scantling.planning.constraints.inference_engines import Shape, engine_names, fits, load_engine_profile, objections
from scantling.quantization.formats import GROUP_SIZES, INTEGER_BITS, IntegerFormat, parse_format
from scantling.solver.rules import Allow, Tie

EVERY = [
    f"int{bits}-{groups}{suffix}"
    for bits in INTEGER_BITS
    for groups in (*(f"g{size}" for size in GROUP_SIZES), "row")
    for suffix in ("", "-sym")
] + ["float16", "bfloat16"]
GGUF = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "Q2_K", "Q6_K", "IQ1_S", "IQ4_XS", "TQ1_0")


def legal(engine, kind, out_features, in_features, name):
    """Each engine's rule as a person would say it, on formats as records."""
    if name in {"float16", "bfloat16"}:
        return True
    if name in GGUF:
        big = name not in {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"}
        return engine == "llama.cpp" and in_features % (256 if big else 32) == 0
    stored = parse_format(name)
    assert isinstance(stored, IntegerFormat)
    divides = stored.group_size is None or in_features % stored.group_size == 0
    at_the_end = kind in {"embedding", "head"}
    match engine:
        case "vllm-gptq" | "vllm-compressed-tensors" | "sglang-gptq" | "sglang-compressed-tensors" | "vllm" | "sglang":
            fine = stored.symmetric and stored.bits in {4, 8}
            return fine and not at_the_end and out_features % 64 == 0 and in_features % 128 == 0
        case "gptqmodel":
            fine = stored.bits in {2, 3, 4, 8} and divides
            return fine and not at_the_end and out_features % 32 == 0 and in_features % 32 == 0
        case "transformers-compressed-tensors" | "transformers":
            return stored.symmetric and divides and not at_the_end
        case "mlx":
            return not stored.symmetric and stored.group_size is not None and divides
        case "llama.cpp":
            return False
    raise AssertionError(engine)


@pytest.mark.parametrize("engine", [*engine_names(), "vllm", "sglang", "transformers"])
def test_what_is_legal_is_what_the_engine_loads(engine):
    profile = load_engine_profile(engine)
    answers = set()
    for kind in ("self_attn.q_proj", "embedding", "head"):
        for out_features in (64, 96, 100, 576):
            for in_features in (32, 64, 96, 128, 256, 576, 1536, 100):
                for name in (*EVERY, *GGUF):
                    found = not objections(profile, Shape(kind, out_features, in_features), name)
                    assert found == legal(engine, kind, out_features, in_features, name), (name, kind, in_features)
                    answers.add(found)
    assert answers == {True, False}


@pytest.mark.parametrize("engine", engine_names())
def test_every_profile_states_what_it_was_checked_against(engine):
    profile = load_engine_profile(engine)
    assert profile.name == engine
    assert profile.checked in {"2026-11-22", "2026-11-23"}
    assert profile.version
    assert profile.how
    assert all(rule.source for rule in (*profile.formats, *profile.shapes, *profile.ties))
    suggested = [word for word in EVERY + list(GGUF) if word in profile.suggest.replace(" ", ",").split(",")]
    assert suggested
    assert all(fits(profile.formats[0].formats, name) for name in suggested)


def test_the_engines_of_the_design_are_there():
    assert set(engine_names()) == {
        *("vllm-gptq", "vllm-compressed-tensors", "gptqmodel", "transformers-compressed-tensors", "llama.cpp", "mlx"),
        *("sglang-gptq", "sglang-compressed-tensors"),
    }


@pytest.mark.parametrize("engine", ["vllm", "sglang", "transformers"])
def test_an_engine_without_a_format_has_the_rules_of_all_its_formats_once(engine):
    together = load_engine_profile(engine)
    parts = [load_engine_profile(name) for name in engine_names() if name.startswith(f"{engine}-")]
    assert together.name == engine
    for rules in ("formats", "shapes", "ties"):

        def apart(profile, rules=rules):
            return [repr(rule.model_copy(update={"source": "", "why": ""})) for rule in getattr(profile, rules)]

        assert len(apart(together)) == len(set(apart(together)))
        assert set(apart(together)) == {rule for part in parts for rule in apart(part)}


@pytest.mark.parametrize("name", ["mistyped", "vll", "vllm-", ""])
def test_part_of_a_name_is_no_engine(name):
    with pytest.raises(ScantlingError, match="is not a known engine"):
        load_engine_profile(name)


KNOWN = ("int2-g128-sym", "int4-g128-sym", "int4-g128", "int8-g128-sym", "float16")
BLOCK = {
    "self_attn.q_proj": (128, 128),
    "self_attn.k_proj": (64, 128),
    "self_attn.v_proj": (64, 128),
    "mlp.x": (100, 128),
}


def test_an_illegal_format_is_closed_and_fused_layers_go_together():
    profile = make_profile(1, KNOWN, BLOCK, known=KNOWN)
    instance = Program(profile).engine("vllm-gptq").instance()
    for choice in feasible(instance):
        formats = formats_of(instance, choice)
        attention = {formats[f"model.layers.0.self_attn.{x}_proj"] for x in "qkv"}
        assert len(attention) == 1
        assert attention <= {"int4-g128-sym", "int8-g128-sym", "float16"}
        assert formats["model.layers.0.mlp.x"] == "float16"  # 100 outputs
    assert len(feasible(instance)) == 3
    names = {rule.name for rule in instance.rules}
    assert "engine vllm-gptq: out_features must be a multiple of 64" in names
    assert "engine vllm-gptq: q_proj, k_proj and v_proj are one matrix, qkv_proj" in names
    assert all(rule.origin == "engine vllm-gptq" for rule in instance.rules)


def test_experts_share_a_scheme_and_other_towers_do_not():
    kinds = {f"mlp.experts.{e}.{x}_proj": (128, 128) for e in range(2) for x in ("gate", "up", "down")}
    kinds |= {f"mlp.shared_expert.{x}_proj": (128, 128) for x in ("gate", "up")}
    profile = make_profile(2, KNOWN, kinds, known=KNOWN)
    ties = [rule for rule in Program(profile).engine("vllm-gptq").instance().rules if isinstance(rule, Tie)]
    names = [layer.name for layer in profile.record.layers]
    experts = next(rule for rule in ties if "experts" in rule.name)
    assert [len(group) for group in experts.groups] == [6, 6]
    gate_up = next(rule for rule in ties if "gate_up" in rule.name)
    assert ["shared" in names[group[0]] for group in gate_up.groups].count(True) == 2
    llama = [rule for rule in Program(gguf(kinds)).engine("llama.cpp").instance().rules if isinstance(rule, Tie)]
    assert [len(rule.groups) for rule in llama] == [1, 1, 1]


def gguf(kinds):
    return make_profile(1, ("float16", "bfloat16"), kinds, known=("float16", "bfloat16"))


def test_a_layer_without_a_legal_format_is_named_with_reason_and_mend():
    profile = make_profile(1, KNOWN[:3], {"mlp.x": (100, 128)}, known=KNOWN)
    with pytest.raises(
        ScantlingError, match=r"engine vllm-gptq: it loads model\.layers\.0\.mlp\.x \[100, 128\] in none"
    ) as no:
        Program(profile).engine("vllm-gptq").instance()
    assert "int4-g128-sym: out_features must be a multiple of 64" in str(no.value)  # formats refused alike, together
    assert "Profile the model with such formats: int4-g128-sym,int8-g128-sym,float16" in str(no.value)
    with pytest.raises(ScantlingError, match=r"engine mlx: it loads model.layers.0.mlp.x"):
        Program(make_profile(1, KNOWN[:2], {"mlp.x": (100, 128)}, known=KNOWN)).engine("mlx").instance()


def test_an_engine_that_leaves_nothing_to_decide_says_so():
    profile = make_profile(
        2, ("int2-g64", "int4-g64", "float16"), {"a": (64, 64)}, known=("int2-g64", "int4-g64", "float16")
    )
    with pytest.raises(
        ScantlingError, match=r"it leaves nothing to decide: .* loads only float16 .*Profile the model with"
    ):
        Program(profile).engine("vllm-gptq").instance()


def test_fused_layers_without_a_common_format_are_named():
    layers = [
        layer("m.0.a.q_proj", "a.q_proj", 0, (128, 128), KNOWN[1:2] + KNOWN[4:], KNOWN),
        layer("m.0.a.k_proj", "a.k_proj", 0, (128, 128), KNOWN[:1] + KNOWN[3:4], KNOWN),
    ]
    with pytest.raises(
        ScantlingError, match=r"engine vllm-gptq: layers that are tied have no common format: m\.0\.a\.q_proj"
    ):
        Program(profile_of(layers, KNOWN)).engine("vllm-gptq").instance()


def test_a_profile_that_is_legal_everywhere_gets_no_rule():
    profile = make_profile(1, ("int2-g64", "int4-g64"), {"a": (64, 64)}, known=("int2-g64", "int4-g64", "float16"))
    instance = Program(profile).engine("mlx").instance()
    assert not [rule for rule in instance.rules if isinstance(rule, Allow)]
    assert Pattern("int{2..8}-*").matches("int5-g64")
