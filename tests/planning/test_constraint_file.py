"""The constraint file: what is right is read and fits the published schema, what is wrong is refused with its place."""

import json
import re
import time
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from helpers.tiny_profiles import CONFIG, make_profile
from scantling import Program
from scantling.__main__ import app
from scantling.common.errors import ScantlingError
from scantling.common.yaml_source import MAX_BYTES, parse_yaml, read_yaml
from scantling.planning.constraints.file import json_schema, published_schema, read_constraints, schema_text
from scantling.sensitivity.profile import write_profile

DOCS = Path(__file__).parents[2] / "docs" / "constraints.md"


def wrote(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def examples():
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 15
    return blocks


def refused(path, match):
    start = time.perf_counter()
    with pytest.raises(ScantlingError, match=match) as refusal:
        read_constraints(path)
    assert time.perf_counter() - start < 5
    assert str(refusal.value).startswith((str(path), "cannot read"))
    assert len(str(refusal.value)) < 4000


def test_the_published_schema_is_that_of_the_records():
    assert published_schema() == schema_text(), (
        "write it again: scantling schema > planning/constraints/constraints.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert CliRunner().invoke(app, ["schema"]).output == schema_text()


@pytest.mark.parametrize(
    "value",
    [
        {"limit": {}},
        {"limits": {"memroy": "1 GB"}},
        {"limits": {"memory": ["1 GB"]}},
        {"limits": {"memory": {"at_most": True}}},
        {"workload": {"context": "8192"}},
        {"rules": [{"layers": "*"}, {"layers": "*", "min_bts": 4}]},
        {"rules": [{"layers": "*", "same": False}]},
        {"rules": [{"layers": [], "min_bits": 4}]},
        {"hardware": {"memory": "1 GB"}},
        {"minimize": []},
        {"robust": {"domains": "best"}},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(tmp_path, value):
    assert list(jsonschema.Draft202012Validator(json_schema()).iter_errors(value))
    refused(wrote(tmp_path, json.dumps(value)), "c.yaml:1:")


@pytest.mark.parametrize("number", range(len(examples())))
def test_every_example_of_the_documentation_is_read_and_fits_the_schema(tmp_path, number):
    path = wrote(tmp_path, examples()[number])
    file = read_constraints(path)
    jsonschema.validate(file.read.value, json_schema())
    program = Program(make_profile(4, KNOWN, KINDS, known=KNOWN, config=CONFIG | {"num_hidden_layers": 4})).read(path)
    assert program.without_safety().instance()


KNOWN = ("int2-g128-sym", "int4-g128-sym", "int8-g128-sym", "float16")
KINDS = {f"self_attn.{x}_proj": (128, 128) for x in "qkvo"} | {
    f"mlp.{x}_proj": (128, 128) for x in ("gate", "up", "down")
}


def test_the_documentation_names_every_key():
    text = DOCS.read_text(encoding="utf-8")
    schema = json_schema()
    keys = {key for part in [schema, *schema["$defs"].values()] for key in part.get("properties", {})}
    keys |= {
        key
        for part in schema["$defs"].values()
        for option in part.get("anyOf", [])
        for key in option.get("properties", {})
    }
    assert len(keys) > 40
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", text)] == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"c\.yaml:1:1: the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- 1\n- 2", r"c\.yaml:1:1: a constraint file is a mapping .* this is a list"),
        ("5", "this is 5"),
        ("hello", "this is 'hello'"),
        ("limits:", r"c\.yaml:1:1: 'limits' has no value"),
        ("limits: {}\n---\nlimits: {}", r"c\.yaml:2:1: a second document"),
        ("limits: {memory: 1 GB}\nlimits: {}", r"c\.yaml:2:1: the key 'limits' was given in line 1 already"),
        ("limits:\n  memory: 1 GB\n  memory: 2 GB", r"c\.yaml:3:3: the key 'memory' was given in line 2"),
        ("limit: {memory: 1 GB}", r"c\.yaml:1:1: unknown key 'limit' here. Did you mean limits\?"),
        ("limits:\n  memroy: 1 GB", r"c\.yaml:2:3: unknown key 'memroy' here. Did you mean memory\?"),
        ("limits:\n  context: 1", r"unknown key 'context' here. It belongs elsewhere"),
        ("limits:\n  memory: 18", r"c\.yaml:2:3: memory: 18 has no unit. Write for instance 18MiB"),
        ("limits:\n  memory: 18 W", r"c\.yaml:2:3: memory: 'W' in '18 W' is not a unit of bytes"),
        ("limits:\n  power: 60 tok/s", "it is one of tokens per second"),
        ("limits:\n  power: -5 W", "positive number"),
        ("limits:\n  memory: [1 GB]", r"c\.yaml:2:3: memory: .* is not a mapping"),
        ("limits:\n  memory: {at_most: 5 s}", r"not a unit of bytes .it is one of seconds"),
        ("limits:\n  memory: {name: x}", "a limit needs at_most, at_least or both"),
        ("limits: {loss_increase: .inf}", "inf is not a number of nats"),
        ("limits: {loss_increase: .nan}", "nan is not a number of nats"),
        ("limits: {average_bits: true}", "is not a mapping|is not a quantity"),
        ("limits: {average_bits: 1e400}", "inf is not a number of bits"),
        (f"limits: {{average_bits: {'9' * 5000}}}", "a number of 5,000 characters is not read"),
        (f"limits: {{average_bits: {'9' * 70}}}", "is not a number of bits"),
        (f"limits: {{memory: {'9' * 5000} GB}}", "is not a number of bytes"),
        ("workload: {context: 8192.5}", "context: 8192.5 is not a whole number"),
        ("workload: {context: '8192'}", "context: '8192' is not a whole number"),
        ("workload: {context: 0}", "greater than or equal to 1"),
        ("workload: {context: 99999999999999999999999}", "context"),
        ("workload: {kv_bits: 8}", "no effect without a context"),
        ("workload: {kv_cache: 1 GB, context: 5}", "Keep one of the two"),
        ("workload: {batch: yes}", "batch: 'yes' is not a whole number"),
        ("engine: 3", "engine: 3 is not text"),
        ("hardware: {name: x, bandwidth: 3 W}", "not a unit of bytes per second"),
        ("hardware: {nam: x}", "unknown key 'nam' here. Did you mean name"),
        ("minimize: 3", "minimize"),
        ("minimize: []", "at least 1 item"),
        ("robust: {standard_errors: -1}", "greater than or equal to 0"),
        ("robust: {standard_errors: .nan}", "finite number"),
        ("robust: {domains: best}", "'mean' or 'worst'"),
        ("rules: 5", "rules: 5 is not a list"),
        ("rules: [5]", r"c\.yaml:1:9: .*has none of the keys same, at_least_as_fine_as"),
        ("rules: [{layers: '*'}]", r"c\.yaml:1:9: .*the rule has no effect: it has none of the keys"),
        ("rules:\n  - {layers: '*', min_bts: 4}", "has none of the keys"),
        ("rules:\n  - {layers: '*', min_bits: 4, same: true}", r"c\.yaml:2:19: unknown key 'min_bits' here"),
        ("rules: [{min_bits: 4}]", "the key 'layers' is missing"),
        ("rules: [{layers: [], min_bits: 4}]", "at least 1 item"),
        ("rules: [{layers: '', min_bits: 4}]", "has 0 characters"),
        ("rules: [{layers: 4, min_bits: 4}]", "layers: 4 is not a list"),
        ("rules: [{layers: '{a', min_bits: 4}]", r"c\.yaml:1:10: layers: the pattern '\{a' opens a brace"),
        ("rules: [{layers: 'a', min_bits: '4'}]", "min_bits: '4' is not a number"),
        ("rules: [{layers: 'a', min_bits: .nan}]", "finite number"),
        ("rules: [{layers: 'a', min_bits: true}]", "min_bits: True is not a number"),
        ("rules: [{layers: 'a', min_bits: 5, max_bits: 4}]", "min_bits 5 is above max_bits 4"),
        ("rules: [{layers: 'a', format: x, min_bits: 4}]", "beside it have no effect"),
        ("rules: [{layers: 'a', same: false}]", "same"),
        ("rules: [{layers: 'a', same: true, per: row}]", "per"),
        ("rules: [{distinct_formats: 1.5}]", "1.5 is not a whole number"),
        ("rules: [{sum: bytes}]", "a sum without at_most and at_least has no effect"),
        ("rules: [{linear: [], at_most: 3}]", "at least 1 item"),
        ("rules: [{linear: [{layers: '*', add: one}], at_most: 3}]", "'one' is not a number"),
        ("rules: [{linear: [{layers: '*', add: 1}]}]", "a row without bounds has no effect"),
        ("rules: [{devices: [{blocks: 3..1, at_most: 1 GB}]}]", "the blocks 3..1 are none"),
        ("rules: [{devices: [{blocks: a, at_most: 1 GB}]}]", "blocks"),
        ("rules: [{devices: [{blocks: 0, at_most: 1}]}]", "has no unit"),
        ("limits:\n\tmemory: 1 GB", r"c\.yaml:2:\d+: this is not YAML.*Indent with spaces, not tabs"),
        ("limits: {memory: 1 GB", r"c\.yaml:\d+:\d+: this is not YAML"),
        ("rules: [{layers: *.v_proj, min_bits: 4}]", "this is not YAML|anchors and aliases"),
        ("a: &a {memory: 1 GB}\nlimits: *a", r"c\.yaml:1:4: anchors and aliases"),
        ("limits: !!python/object/apply:os.system ['true']", "tags such as tag:yaml.org,2002:python/object"),
        ("limits: !mine {}", "tags such as !mine are not read"),
        ("? [a, b]\n: 1", "a key must be text"),
        ("<<: {limits: {}}", "unknown key '<<'"),
        (b"limits: {memory: 1 GB}\n\xff\xfe", r"c\.yaml:2: this is not UTF-8 text"),
        ("limits: {memory: 1 GB}".encode("utf-16"), "not UTF-8 text"),
        ("limits: {mem\x00ory: 1 GB}", "this is not YAML"),
        ("límites: {память: 1 GB}", "unknown key 'límites'"),
        ("rules: [{layers: '層*', min_bits: 4}]\nüber: 1", "unknown key 'über'"),
        ("limits: " + "[" * 30 + "]" * 30, "nested more than 20 deep"),
        ("limits: " + "{a: " * 30 + "}" * 30, "nested more than 20 deep"),
        ("[" * 500_000, "nested more than 20 deep"),
        ("rules: [" + "1," * 100_000 + "]", "more than 50,000 values"),
        ("minimize: " + "a" * 900_000, "a constraint file|minimize|"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(tmp_path, text, match):
    if "a" * 900_000 in str(text):
        with pytest.raises(ScantlingError, match="cannot minimise"):
            Program(make_profile()).read(wrote(tmp_path, text)).instance()
        return
    refused(wrote(tmp_path, text), match)


def test_a_bomb_is_refused_before_it_grows(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    refused(wrote(tmp_path, "\n".join(lines)), r"c\.yaml:1:5: anchors and aliases")


def test_a_large_file_is_refused_without_being_parsed(tmp_path):
    path = tmp_path / "c.yaml"
    with path.open("wb") as opened:
        opened.write(b"# " + b"x" * (50 * 10**6))
    start = time.perf_counter()
    with pytest.raises(ScantlingError, match="more than 1,048,576 bytes"):
        read_constraints(path)
    assert time.perf_counter() - start < 0.5
    path.write_bytes(b"limits: {}\n#" + b"x" * (MAX_BYTES - 12))
    assert read_constraints(path)
    with pytest.raises(ScantlingError, match="cannot read"):
        read_constraints(tmp_path / "none.yaml")
    with pytest.raises(ScantlingError, match="cannot read"):
        read_constraints(tmp_path)


def test_all_faults_of_a_file_are_named_in_the_order_of_their_lines(tmp_path):
    text = "limits:\n  power: 3\n  memory: 3\nrules:\n  - {layers: 'a', min_bits: x}\nengin: a"
    with pytest.raises(ScantlingError) as refusal:
        read_constraints(wrote(tmp_path, text))
    places = re.findall(r"c\.yaml:(\d+):(\d+): ", str(refusal.value))
    assert places == [("2", "3"), ("3", "3"), ("5", "19"), ("6", "1")]


def test_plain_values_are_what_they_look_like():
    text = "a: yes\nb: 12:30\nc: 010\nd: 1_000\ne: 2026-01-01\nf: 1e3\ng: .5\nh: ~\ni: 'true'\nj: -3\nk: True\n"
    text += "l: 0x10\nm: |\n  x\n"
    assert parse_yaml(text, Path("x")).value == {
        "a": "yes", "b": "12:30", "c": "010", "d": "1_000", "e": "2026-01-01", "f": 1000.0, "g": 0.5, "h": None,
        "i": "true", "j": -3, "k": True, "l": "0x10", "m": "x\n",
    }  # fmt: skip


def test_positions_are_of_keys_and_entries(tmp_path):
    read = read_yaml(wrote(tmp_path, "\ufefflimits:\n  memory: 1 GB\nrules:\n- a: 1\n-  b"))
    assert read.marks["limits", "memory"] == (2, 3)
    assert read.marks["rules", 0] == (4, 3)
    assert read.marks["rules", 1] == (5, 4)
    assert read.where(("rules", 1, "none")).endswith("c.yaml:5:4")


def test_the_rules_command_shows_what_matched(tmp_path):
    profile = tmp_path / "p.safetensors"
    write_profile(make_profile(), profile)
    path = wrote(
        tmp_path,
        "limits: {memory: 40 kB}\nrules:\n  - {layers: '*.v_proj', min_bits: 4, name: values}\n"
        "  - {sum: bytes, layers: '*.mlp.*', at_most: 12 kB}\n  - {distinct_formats: 2}\n",
    )
    printed = CliRunner().invoke(app, ["rules", str(path), str(profile)])
    assert printed.exit_code == 0
    plain = printed.output.replace("\n", "")
    assert "c.yaml:3:5 values: at least 4 bits on *.v_proj" in plain
    assert "2 layers: model.layers.{0,1}.self_attn.v_proj" in plain
    assert "resident_bytes ≤ 39.06 KiB (40,000 bytes)" in plain
    assert "2 layers more match, but with a single format" in plain
    found = json.loads(CliRunner().invoke(app, ["rules", str(path), str(profile), "--json"]).output)
    assert [entry["num_layers"] for entry in found] == [None, 2, 2, 6]
    assert found[2]["bounds"] == ["stored_bytes ≤ 11.72 KiB (12,000 bytes)"]
    assert found[1]["layers"] == ["model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj"]
    wrong = CliRunner().invoke(app, ["rules", str(wrote(tmp_path, "rules: [{layers: x, min_bits: 4}]")), str(profile)])
    assert re.search(r"c\.yaml:1:9: the pattern 'x' matches no layer\. The nearest:", str(wrong.exception))


@pytest.mark.parametrize(("command", "word"), [("engines", "vllm-gptq"), ("hardware list", "rtx-5090")])
def test_what_is_known_can_be_listed(command, word):
    assert word in CliRunner().invoke(app, command.split()).output
    assert word in {entry["name"] for entry in json.loads(CliRunner().invoke(app, [*command.split(), "--json"]).output)}
