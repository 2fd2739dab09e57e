"""What a constraint file or a chain of calls means.

Every choice of a tiny profile is judged twice: by the program's rules, and by a reading of the words that shares no
code with them.
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from helpers.tiny_profiles import FORMATS, choices, feasible, formats_of, layer, make_profile, profile_of
from scantling import Program
from scantling.common.errors import ScantlingError
from scantling.planning.constraint import PinToPlan
from scantling.planning.flags import ProgramOptions, program_from_options
from scantling.planning.python_constraints import run_constraints_py
from scantling.quantization.formats import parse_format
from scantling.solver.instance import LOSS
from scantling.solver.rules import Limit

PROFILE = make_profile()


def bits(format_name):
    return int(format_name[3]) if format_name.startswith("int") else 16


def stored(formats, keep=lambda name: True):
    shapes = {record.name: (record.out_features, record.in_features) for record in PROFILE.record.layers}
    return sum(parse_format(f).stored_bytes(*shapes[name]) for name, f in formats.items() if keep(name))


def of(formats, *words):
    return [f for name, f in formats.items() if all(word in name for word in words)]


def decided(formats):
    return {name: f for name, f in formats.items() if ".layers." in name}


READINGS = {
    "limits: {stored_bytes: 36 kB}": lambda a: stored(a) + 1000 <= 36000,
    "limits: {stored_bytes: {at_least: 35 kB, at_most: 40 kB, name: both}}": lambda a: (
        35000 <= stored(a) + 1000 <= 40000
    ),
    "limits: {average_bits: 3.5}": lambda a: (
        sum(bits(f) * {"q": 4096, "v": 2048, "u": 8192}[n.split(".")[-1][0]] for n, f in decided(a).items())
        <= 3.5 * 2 * (4096 + 2048 + 8192)
    ),
    "limits: {average_bits: {at_least: 3}}": lambda a: (
        sum(bits(f) * {"q": 4096, "v": 2048, "u": 8192}[n.split(".")[-1][0]] for n, f in decided(a).items())
        >= 3 * 2 * (4096 + 2048 + 8192)
    ),
    # 2 blocks × 100 tokens × 2 sequences × 2 heads × (16 + 16) × 1 byte
    "{workload: {context: 100, batch: 2, kv_bits: 8}, limits: {memory: 64 kB}}": lambda a: (
        stored(a) + 1000 + 25600 + 2 * (640 + 384) <= 64000  # activations of two tokens, logits of two
    ),
    "{workload: {kv_cache: 20 kB}, limits: {memory: 57 kB}}": lambda a: stored(a) + 1000 + 20000 + 640 + 384 <= 57000,
    'rules: [{layers: "*.v_proj", min_bits: 4}]': lambda a: all(bits(f) >= 4 for f in of(a, "v_proj")),
    'rules: [{layers: "*.1.*", max_bits: 4.5, min_bits: 3}]': lambda a: all(bits(f) == 4 for f in of(a, ".1.")),
    'rules: [{layers: ["*.0.*", "*.1.mlp.*"], formats: ["int{2,8}-*"]}]': lambda a: all(
        bits(f) != 4 for f in [*of(a, ".0."), *of(a, ".1.", "mlp")]
    ),
    'rules: [{layers: "*.{0,1}.*.{q,v}_proj", format: int8-row}]': lambda a: set(of(a, "self_attn")) == {"int8-row"},
    'rules: [{layers: "*proj", same: true}]': lambda a: len(set(of(a, "proj"))) == 1,
    'rules: [{layers: ["*.q_proj", "*.v_proj"], same: true, per: block}]': lambda a: all(
        len(set(of(a, b, "self_attn"))) == 1 for b in (".0.", ".1.")
    ),
    'rules: [{layers: "*proj", same: true, per: parent}]': lambda a: all(
        len(set(of(a, b, "self_attn"))) == 1 for b in (".0.", ".1.")
    ),
    'rules: [{layers: "model.*", same: true, per: kind}]': lambda a: all(
        len(set(of(a, kind))) == 1 for kind in ("q_proj", "v_proj", "up_proj")
    ),
    'rules: [{layers: "*.v_proj", at_least_as_fine_as: "*.q_proj", per: block}]': lambda a: all(
        bits(of(a, b, "v_proj")[0]) >= bits(of(a, b, "q_proj")[0]) for b in (".0.", ".1.")
    ),
    'rules: [{layers: "*.v_proj", at_least_as_fine_as: ["*.q_proj", "*.up_proj"]}]': lambda a: (
        min(map(bits, of(a, "v_proj"))) >= max(map(bits, [*of(a, "q_proj"), *of(a, "up_proj")]))
    ),
    'rules: [{layers: "*.0.*v*", at_least_as_fine_as: "*.1.*v*"},'
    '{layers: "*.1.*v*", at_least_as_fine_as: "*.0.*v*"}]': (
        lambda a: len({bits(f) for f in of(a, "v_proj")}) == 1  # a cycle means equal bits
    ),
    "rules: [{distinct_formats: 2}]": lambda a: len(set(decided(a).values())) <= 2,
    "rules: [{distinct_formats: 1, per: kind}]": lambda a: all(
        len(set(of(a, kind))) == 1 for kind in ("q_proj", "v_proj", "up_proj")
    ),
    'rules: [{distinct_formats: 1, layers: ["*.q_proj", "*.up_proj"], per: block}]': lambda a: all(
        of(a, b, "q_proj") == of(a, b, "up_proj") for b in (".0.", ".1.")
    ),
    'rules: [{sum: bytes, layers: "*.mlp.*", at_most: 9 kB}]': lambda a: stored(a, lambda n: ".mlp." in n) <= 9000,
    'rules: [{sum: stored_bytes, layers: ["lm_head", "*.0.*"], at_least: 18 kB}]': lambda a: (
        stored(a, lambda n: ".0." in n or n == "lm_head") >= 18000
    ),
    'rules: [{sum: average_bits, layers: "*.mlp.*", at_most: 3}]': lambda a: sum(map(bits, of(a, "mlp"))) / 2 <= 3,
    'rules: [{linear: [{layers: "*.q_proj", formats: "int4-*", add: 1.5}, {layers: "*", bits: 8, add: -0.25},'
    '{layers: "*.0.*", add: 0.1}], at_most: 1.3, at_least: 0.05}]': lambda a: (
        Fraction("0.05")
        <= Fraction(3, 2) * of(a, "q_proj").count("int4-g32")
        - Fraction(1, 4) * of(a).count("int8-row")
        + Fraction(3, 10)
        <= Fraction("1.3")
    ),
    'rules: [{name: fours, linear: [{layers: "*", bits: 4, add: 1}]}, {sum: fours, layers: "*.0.*", at_most: 1}]': (
        lambda a: of(a, ".0.").count("int4-g32") <= 1
    ),
    "rules: [{devices: [{name: a, blocks: 0, at_most: 24 kB}, {blocks: 1..1, at_most: 22 kB}]}]": lambda a: (
        stored(a, lambda n: ".0." in n or "embed" in n) + 1000 <= 24000
        and stored(a, lambda n: ".1." in n or "head" in n) + 1000 <= 22000
    ),
}


@pytest.mark.parametrize("text", READINGS)
def test_the_program_means_what_the_file_says(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    instance = Program(PROFILE).read(path).instance()
    meant = {choice for choice in choices(instance) if READINGS[text](formats_of(instance, choice))}
    assert feasible(instance) == meant
    assert 0 < len(meant) < 3**6  # so that the test could fail
    assert all(rule.origin.startswith(f"{path}:1:") for rule in instance.rules)


RULES = [text for text in READINGS if text.startswith("rules: [") and text.endswith("]")]


@pytest.mark.parametrize("first", range(len(RULES)))
def test_rules_together_mean_all_of_them(tmp_path, first):
    texts = [RULES[(first + step) % len(RULES)] for step in (0, 1, 5)]
    path = tmp_path / "c.yaml"
    path.write_text("rules: [" + ",\n".join(text.removeprefix("rules: [").removesuffix("]") for text in texts) + "]")
    instance = Program(PROFILE).read(path).instance()
    meant = {
        choice for choice in choices(instance) if all(READINGS[text](formats_of(instance, choice)) for text in texts)
    }
    assert feasible(instance) == meant


def test_calls_and_file_say_the_same(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("""
workload: {context: 64}
limits:
  memory: 40 KiB
  average_bits: 5
  loss_increase: 0.5
rules:
  - {layers: "*.v_proj", min_bits: 4, name: values}
  - {layers: "*.q_proj", format: int4-g32}
  - {layers: "*.mlp.*", max_bits: 4}
  - {layers: "*.0.*", formats: "int*-g32"}
  - {layers: ["*.q_proj", "*.up_proj"], same: true, per: block}
  - {layers: "*.v_proj", at_least_as_fine_as: "*.q_proj", per: block}
  - {distinct_formats: 2, layers: "*.1.*"}
  - {sum: bytes, layers: "*.mlp.*", at_most: 12 kB}
  - {name: mine, linear: [{layers: "*.q_proj", bits: 4, add: 1.5}], at_most: 4}
  - {devices: [{blocks: 0..1, at_most: 1 MB}]}
minimize: [loss_increase, memory]
robust: {standard_errors: 2, domains: worst}
""")
    read = Program(PROFILE).read(path)
    called = (
        Program(PROFILE)
        .workload(context=64)
        .memory("40 KiB")
        .limit("average_bits", at_most=5)
        .limit("loss_increase", at_most=0.5)
        .min_bits("*.v_proj", 4, name="values")
        .pin("*.q_proj", "int4-g32")
        .max_bits("*.mlp.*", 4)
        .allow("*.0.*", "int*-g32")
        .tie(["*.q_proj", "*.up_proj"], per="block")
        .order("*.v_proj", "*.q_proj", per="block")
        .distinct(2, layers="*.1.*")
        .limit("bytes", layers="*.mlp.*", at_most="12 kB")
        .row("mine", [{"layers": "*.q_proj", "bits": 4, "add": 1.5}], at_most=4)
        .devices([{"blocks": "0..1", "at_most": "1 MB"}])
        .minimize("loss_increase", "memory")
        .robust(2, "worst")
    )

    def plain(instance):
        return replace(instance, rules=tuple(replace(rule, origin="") for rule in instance.rules))

    assert plain(read.instance()) == plain(called.instance())
    assert read.instance().minimise == (LOSS, "resident_bytes")
    assert len(read.instance().rules) == 13


def test_a_program_never_changes():
    program = Program(PROFILE)
    tighter = program.min_bits("*.v_proj", 4)
    assert program.constraints == ()
    assert len(tighter.constraints) == 1


def test_costs_and_their_deviations_give_the_profiles_own_prediction():
    instance = Program(PROFILE).robust(1).instance()
    generator = np.random.default_rng(0)
    for _ in range(20):
        choice = tuple(int(generator.integers(len(unit.formats))) for unit in instance.units)
        mean, error = PROFILE.predict(formats_of(instance, choice))
        found_mean, found_error = instance.domain_loss_nats(instance.domains[0], choice)
        assert found_mean == mean
        assert error is not None
        assert math.isclose(found_error, error, rel_tol=1e-12)
        assert math.isclose(instance.loss_increase_nats(choice), mean + error, rel_tol=1e-12)


def test_a_robust_objective_needs_more_than_one_sample():
    with pytest.raises(ScantlingError, match="at least two sequences"):
        Program(make_profile(num_samples=1)).robust(1).instance()
    assert Program(make_profile(num_samples=1)).instance().domains[0].deviations_nats == ()


@pytest.mark.parametrize(
    ("constrain", "match"),
    [
        (lambda p: p.min_bits("*.k_proj", 4), r"Python: the pattern '\*.k_proj' matches no layer. The nearest: "),
        (lambda p: p.min_bits("*", 2), "no effect: all that the profile offers"),
        (lambda p: p.min_bits("*", 9), r"leaves no format for .*q_proj.* and 2 more, offered in int2-g32, int4-g32"),
        (lambda p: p.min_bits("lm_head", 4), "no effect: the layers that it matches .lm_head. have a single format"),
        (lambda p: p.min_bits("*", math.nan), "min_bits"),
        (lambda p: p.pin("*", "int3-g32"), "the profile has no format 'int3-g32'. It has: int2-g32"),
        (lambda p: p.allow("*", "int3*"), "matches no format of the profile. The nearest: int2-g32"),
        (lambda p: p.tie("*.0.*.q_proj"), "no effect: it ties no layer"),
        (lambda p: p.tie("*.q_proj", per="block"), "no effect: it ties no layer"),
        (lambda p: p.tie("*", per="blok"), "per"),
        (lambda p: p.order("*.0.*", "*.1.*", per="block"), "no effect: it orders no two layers"),
        (lambda p: p.order("*.0.*.q_proj", "*.0.*.q_proj"), "no effect: it orders no two layers"),
        (lambda p: p.distinct(3), "no effect: no choice could have more than 3"),
        (lambda p: p.distinct(2, per="kind"), "no effect: no kind could have more than 2"),
        (lambda p: p.distinct(0), "distinct_formats"),
        (lambda p: p.limit("bytes", layers="*"), "a sum without at_most and at_least has no effect"),
        (lambda p: p.limit("memory"), "a limit needs at_most, at_least or both"),
        (lambda p: p.limit("memory", at_most="60 W"), "'W' in '60 W' is not a unit of bytes .it is one of watts"),
        (lambda p: p.limit("bytes", layers="*", at_most="3 J"), "'J' in '3 J' is not a unit of bytes"),
        (lambda p: p.limit("weight", at_most=3), "there is no row 'weight'. Known: "),
        (lambda p: p.limit("speed", at_least="0 tok/s"), "a speed of 0 is no limit"),
        (lambda p: p.limit("speed", at_least="5 tok/s"), "a limit on speed needs hardware"),
        (lambda p: p.limit("loss_increase", at_least=0.1), "from above only"),
        (lambda p: p.limit("loss_increase", at_most=math.nan), "nan is not a number of nats"),
        (lambda p: p.limit("loss_increase", at_most=math.inf), "inf is not a number of nats"),
        (lambda p: p.row("r", [{"layers": "*", "bits": 3, "add": 1}], at_most=1), "no layer there is offered"),
        (lambda p: p.row("r", [{"layers": "*", "add": 0}], at_most=1), "it adds 0"),
        (lambda p: p.row("r", [{"layers": "*", "add": math.nan}], at_most=1), "nan is not a number"),
        (lambda p: p.row("r", [{"layers": "*", "add": 1e30}], at_most=1), "exact in 64 bits"),
        (
            lambda p: p.row("r", [{"layers": "*", "add": 1e-30}, {"layers": "*", "add": 1}], at_most=1),
            "exact in 64 bits",
        ),
        (lambda p: p.row("stored_bytes", [{"layers": "*", "add": 1}], at_most=1), "exists already"),
        (
            lambda p: p.row("r", [{"layers": "*", "add": 1}]).row("r", [{"layers": "*", "add": 2}]),
            "two rows are called 'r'",
        ),
        (lambda p: p.devices([{"blocks": 0, "at_most": "1 GB"}]), "block 1 lies on no device"),
        (lambda p: p.devices([{"blocks": "0..2", "at_most": "1 GB"}]), "the model has the blocks 0..1"),
        (
            lambda p: p.devices([{"blocks": "0..1", "at_most": "1 GB"}, {"blocks": 1, "at_most": "1 GB"}]),
            "block 1 lies on device 0 and on device 1",
        ),
        (lambda p: p.minimize("speed"), "cannot minimise 'speed'"),
        (lambda p: p.minimize("energy"), "needs hardware"),
        (lambda p: p.minimize(), "nothing"),
        (lambda p: p.minimize("memory").minimize("loss_increase"), "said already to minimise memory"),
        (lambda p: p.robust(-1), "standard_errors"),
        (lambda p: p.workload(context=5).workload(context=6), "context is given twice, as 5 and 6"),
        (lambda p: p.workload(kv_bits=8), "kv_bits has no effect without a context"),
        (lambda p: p.engine("llm"), "'llm' is not a known engine. Known: gptqmodel"),
        (lambda p: p.engine("mlx").engine("gptqmodel"), "two engines are given"),
        (lambda p: p.hardware("a100"), "neither known hardware nor a file"),
        (lambda p: p.hardware("a100-80gb").hardware("rtx-5090"), "two machines are given"),
    ],
)
def test_a_constraint_that_cannot_be_meant_is_refused(constrain, match):
    with pytest.raises(ScantlingError, match=match):
        constrain(Program(PROFILE)).instance()


def test_contradictory_pins_reach_the_solver_with_both_origins():
    instance = (
        Program(PROFILE).pin("*.v_proj", "int4-g32").pin("*.0.*", "int2-g32", name="mine", origin="here").instance()
    )
    assert feasible(instance) == set()
    assert [(rule.name, rule.origin) for rule in instance.rules] == [
        ("format int4-g32 on *.v_proj", "Python"),
        ("mine", "here"),
    ]


def test_layers_that_are_tied_without_a_common_format_are_named():
    layers = [
        layer("a.0.q", "q", 0, (64, 64), FORMATS[:2]),
        layer("a.0.k", "k", 0, (64, 64), FORMATS[:2]),
        layer("a.0.v", "v", 0, (64, 64), FORMATS[2:]),
    ]
    with pytest.raises(
        ScantlingError, match=r"no common format: a\.0\.q, a\.0\.k, a\.0\.v\. For instance a\.0\.q .*int2"
    ):
        Program(profile_of(layers)).tie("*").instance()


def test_another_plans_formats_are_kept():
    formats = {record.name: "int4-g32" for record in PROFILE.record.layers}
    program = Program(PROFILE).add(PinToPlan(("*.v_proj", "*.0.*"), formats, "old.json"), "--pin-from")
    for choice in feasible(program.instance()):
        taken = formats_of(program.instance(), choice)
        assert set(of(taken, "v_proj")) == set(of(taken, ".0.")) == {"int4-g32"}
    assert len(feasible(program.instance())) == 9
    with pytest.raises(
        ScantlingError, match=r"--pin-from: old\.json has model\.layers\.0\.\S+ in float16, .* offers int2-g32"
    ):
        pin = PinToPlan(("*",), dict.fromkeys(formats, "float16"), "old.json")
        Program(PROFILE).add(pin, "--pin-from").instance()
    for spelled in ("plan.json", ":a", "plan.json:"):
        with pytest.raises(ScantlingError, match="write PLAN:PATTERN"):
            program_from_options(PROFILE, ProgramOptions(pin_from=(spelled,)))


def test_a_large_order_is_refused_rather_than_built():
    layers = [layer(f"m.{i}.w", "w", i, (32, 32), FORMATS[:2]) for i in range(700)]
    with pytest.raises(ScantlingError, match="490,000 pairs"):
        Program(profile_of(layers, num_samples=1)).order("*", "*").instance()


def test_flags_files_and_python_come_together(tmp_path):
    constraints, hook = tmp_path / "c.yaml", tmp_path / "mine.py"
    constraints.write_text('rules: [{layers: "*.v_proj", min_bits: 4}]')
    hook.write_text(
        "def add(program):\n    return program.row('mine', [{'layers': '*', 'bits': 8, 'add': 1}], at_most=2)\n"
        "def forget(program):\n    program.min_bits('*', 4)\n"
        "def fail(program):\n    return 1 / 0\n"
    )
    options = ProgramOptions(
        memory="60 kB",
        checkpoint_size="50 kB",
        average_bits="5",
        max_loss="0.5",
        context=64,
        kv_bits=8,
        minimize=("stored_bytes",),
        robust=1,
        constraints=(constraints,),
        constraints_py=f"{hook}:add",
    )
    instance = program_from_options(PROFILE, options).instance()
    origins = [rule.origin for rule in instance.rules]
    assert origins == [f"{constraints}:1:9", "--memory", "--checkpoint-size", "--average-bits", "--max-loss", "Python"]
    assert instance.minimise == ("stored_bytes",)
    assert instance.loss.standard_errors == 1
    for spelled, match in (
        ("forget", "returned NoneType, not a program"),
        ("fail", "ZeroDivisionError in line 6"),
        ("none", "has no function none"),
        ("a b", "write FILE:FUNCTION"),
    ):
        with pytest.raises(ScantlingError, match=match):
            run_constraints_py(Program(PROFILE), f"{hook}:{spelled}")
    with pytest.raises(ScantlingError, match="there is no file"):
        run_constraints_py(Program(PROFILE), f"{tmp_path}/none.py:add")
    with pytest.raises(ScantlingError, match=r"--memory: .*has no unit"):
        program_from_options(PROFILE, ProgramOptions(memory="60"))


def test_memory_without_a_context_is_what_the_tensors_take():
    program = Program(PROFILE)
    instance = program.memory("40 kB").limit("stored_bytes", at_most="40 kB").instance()
    first, second = instance.rules
    assert isinstance(first, Limit)
    assert isinstance(second, Limit)
    assert instance.row(first.row).amounts == instance.row(second.row).amounts
    assert instance.row(first.row).fixed == instance.row(second.row).fixed == 1000
