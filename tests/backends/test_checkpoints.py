"""Checkpoints on tiny models: what is in the files, their sizes, stopped runs, and every way a folder can be wrong."""

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.command_line import refused, run
from helpers.engines import python_with
from helpers.plans import a_plan
from helpers.tiny_models import save_model
from scantling.backends.check import check_checkpoint, tolerance
from scantling.backends.engine_process import complaint
from scantling.backends.folder_format import FormattedLayer, TensorSpec
from scantling.backends.folder_manifest import MANIFEST_FILE, read_manifest, wrong_sizes
from scantling.backends.gptq import GptqBackend, split_fusions
from scantling.backends.resumable_writer import open_resumable_writer, work_folder
from scantling.backends.shards import Shard, ShardFiles, index_file, lay_out
from scantling.common.errors import ScantlingError
from scantling.models.layers import Layer
from scantling.quantization.formats import IntegerFormat, parse_format

ASYMMETRIC = "int2-g32,int3-g32,int4-g32,int8-row"
SYMMETRIC = "int2-g32-sym,int3-g32-sym,int4-g32-sym,int5-g32-sym,int6-g32-sym,int8-row-sym,float16"


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("wide") / "model", "llama-wide")


@pytest.fixture(scope="module")
def asymmetric(tmp_path_factory, wide, text_file) -> Path:
    return a_plan(tmp_path_factory.mktemp("asymmetric"), wide, text_file, ASYMMETRIC)


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory, wide, text_file) -> Path:
    return a_plan(tmp_path_factory.mktemp("symmetric"), wide, text_file, SYMMETRIC)


@pytest.fixture(scope="module")
def uniform(tmp_path_factory, wide, text_file) -> Path:
    return a_plan(tmp_path_factory.mktemp("uniform"), wide, text_file, "int4-g32-sym,float16", 4)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("backend", ["fake", "gptq", "compressed-tensors"])
def test_the_folder_is_as_large_as_was_predicted_and_its_tensors_are_as_laid_out(tmp_path, symmetric, backend):
    if backend == "compressed-tensors":
        pytest.importorskip("compressed_tensors", reason="install scantling[compressed-tensors]")
    folder = tmp_path / "checkpoint"
    assert run("apply", symmetric, "--backend", backend, "-o", folder, "--shard", "8kB").exit_code == 0
    manifest = read_manifest(folder)
    assert bytes_in(folder) == manifest.checkpoint_bytes
    assert wrong_sizes(folder, manifest) == []
    assert list(tmp_path.iterdir()) == [folder]
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) == manifest.tensor_bytes
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert index["metadata"]["total_size"] == manifest.tensor_bytes
    for name, file_name in index["weight_map"].items():
        with safe_open(folder / file_name, framework="pt") as opened:
            assert name in opened.keys()  # noqa: SIM118  it is no dictionary


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["gptq", "awq"])
def test_transformers_loads_what_it_can_and_gives_the_logits_of_memory(tmp_path, wide, text_file, rounding):
    pytest.importorskip("compressed_tensors", reason="install scantling[compressed-tensors]")
    plan = a_plan(tmp_path, wide, text_file, SYMMETRIC, 4, "--rounding", rounding)
    logits = []
    for backend in ("fake", "compressed-tensors"):
        run("apply", plan, "--backend", backend, "-o", tmp_path / backend)
        report = check_checkpoint(tmp_path / backend)
        assert report.passed
        assert report.arithmetic == "float32"
        assert report.same_first_choices == report.num_positions == 8
        model = AutoModelForCausalLM.from_pretrained(tmp_path / backend, dtype=torch.float32).eval()
        with torch.no_grad():
            logits.append(model(torch.arange(2, 34).unsqueeze(0)).logits)
    if rounding == "gptq":  # AWQ's norms are rounded to 16 bits in one of the two, before anything is rounded to them
        assert torch.allclose(logits[0], logits[1], atol=1e-5)


def test_check_sees_a_wrong_weight(tmp_path, symmetric):
    folder = tmp_path / "checkpoint"
    run("apply", symmetric, "--backend", "fake", "-o", folder)
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as opened:
        name = next(name for name in opened.keys() if "down_proj" in name)  # noqa: SIM118
    raw = bytearray(path.read_bytes())
    header = int.from_bytes(raw[:8], "little")
    start, stop = json.loads(raw[8 : 8 + header])[name]["data_offsets"]
    raw[8 + header + start : 8 + header + stop] = bytes(stop - start)
    path.write_bytes(raw)
    refused("computes something else", "check", folder)


@pytest.mark.parametrize("backend", ["gptq", "auto-gptq"])
@pytest.mark.parametrize("engine", ["gptqmodel", "auto-gptq"])
@pytest.mark.slow
def test_an_engine_of_its_own_gives_the_logits_of_memory(
    tmp_path, request, asymmetric, symmetric, uniform, backend, engine
):
    if (backend, engine) == ("gptq", "auto-gptq"):
        pytest.skip("auto-gptq is for its own backend")
    python = python_with(engine, request.config)
    plans = {"uniform": uniform} if backend == "auto-gptq" else {"2-8": asymmetric, "planes": symmetric, "4": uniform}
    for name, plan in plans.items():
        folder = tmp_path / name
        run("apply", plan, "--backend", backend, "-o", folder)
        report = check_checkpoint(folder, engine=engine, python=python)
        assert report.passed, (name, report)
        assert report.generated


def test_the_configuration_names_every_layer_that_differs(tmp_path, asymmetric):
    folder = tmp_path / "checkpoint"
    run("apply", asymmetric, "--backend", "gptq", "-o", folder)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert json.loads((folder / "quantize_config.json").read_text()) == config
    assert config["checkpoint_format"] == "gptq_v2"
    plan = json.loads((folder / "scantling_plan.json").read_text())
    for assignment in plan["assignments"]:
        if assignment["block"] is None:
            continue
        target = parse_format(assignment["format"])
        assert isinstance(target, IntegerFormat)
        rule = config["dynamic"].get(f"+:^{assignment['layer'].replace('.', chr(92) + '.')}$", config)
        assert (rule["bits"], rule["group_size"], rule["sym"]) == (target.bits, target.group_size or -1, False)
    assert "| int3-g32 |" in (folder / "README.md").read_text()
    assert (folder / "generation_config.json").is_file()
    assert (folder / "tokenizer.json").is_file()


def layers_with(**formats):
    return [FormattedLayer(Layer(f"m.0.{kind}", kind, 0, 64, 64), parse_format(name)) for kind, name in formats.items()]


def rules_of(layers) -> dict[str, object]:
    rules = GptqBackend().configuration(layers)["dynamic"]
    assert isinstance(rules, dict)
    return rules


def test_fused_layers_get_a_rule_where_their_members_agree():
    agreeing = layers_with(
        q_proj="int4-g32", k_proj="int4-g32", v_proj="int4-g32", gate_proj="int8-g32", up_proj="int8-g32"
    )
    rules = rules_of(agreeing)
    assert rules[r"+:^m\.0\.gate_up_proj$"] == {"bits": 8, "group_size": 32, "sym": False}
    assert r"+:^m\.0\.qkv_proj$" not in rules  # the common format
    assert split_fusions(agreeing) == []
    split = layers_with(q_proj="int4-g32", k_proj="int8-g32", v_proj="int4-g32", o_proj="float16")
    assert split_fusions(split) == ["m.0.qkv_proj"]
    assert rules_of(split) == {
        r"+:^m\.0\.k_proj$": {"bits": 8, "group_size": 32, "sym": False},
        r"-:^m\.0\.o_proj$": {},
    }


@pytest.mark.parametrize(
    ("backend", "plan", "match"),
    [
        ("mlx", "asymmetric", "Known: fake, gptq, compressed-tensors, auto-gptq, gguf"),
        ("compressed-tensors", "asymmetric", "with zero points.*Profile with symmetric formats.*--backend gptq"),
        ("auto-gptq", "asymmetric", "one bit width.*this plan mixes.*--backend gptq"),
        ("auto-gptq", "symmetric", "one bit width"),
    ],
)
def test_what_a_backend_cannot_express_is_refused_with_another(tmp_path, request, monkeypatch, backend, plan, match):
    plan_path = request.getfixturevalue(plan)
    monkeypatch.setattr("scantling.backends.write.load_model", no_model)
    refused(match, "apply", plan_path, "--backend", backend, "-o", tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_a_uniform_plan_that_auto_gptq_cannot_read_is_refused(tmp_path, wide, text_file):
    for formats, bits, match in (
        ("int4-g32,float16", 4, "stores every zero point minus one.*int4-g32-sym"),
        ("int6-g32-sym,float16", 6, "reads 2, 3, 4 and 8 bits, this plan has 6"),
        ("int4-g32-sym,float16", 16, "no integer layers"),
    ):
        plan = a_plan(tmp_path, wide, text_file, formats, bits)
        refused(match, "apply", plan, "--backend", "auto-gptq", "-o", tmp_path / "x")


def test_shapes_that_gptq_cannot_pack_are_refused(tmp_path, llama_folder, text_file):
    plan = a_plan(tmp_path, llama_folder, text_file, "int3-g32-sym,int4-g32-sym", 3)
    refused("is 16 × 32: with 3 bits, GPTQ packs", "apply", plan, "--backend", "gptq", "-o", tmp_path / "x")
    refused("multiples of 32", "apply", plan, "--backend", "auto-gptq", "-o", tmp_path / "x")


def test_integers_in_the_embedding_are_refused_before_the_model_is_loaded(
    tmp_path, monkeypatch, llama_folder, text_file
):
    plan = a_plan(tmp_path, llama_folder, text_file, "int4-g32-sym,int8-g32-sym", 8, "--include", "embedding")
    for backend in ("gptq", "compressed-tensors", "auto-gptq"):
        with monkeypatch.context() as patched:
            patched.setattr("scantling.backends.write.load_model", no_model)
            match = "keeps embedding .* in 16 bits.* --backend gguf, which stores it"
            refused(match, "apply", plan, "--backend", backend, "-o", tmp_path / "x")


def no_model(*_arguments, **_options):
    raise AssertionError("refused too late: the model is being loaded")


def test_transposed_layers_are_refused_by_compressed_tensors(tmp_path, text_file):
    plan = a_plan(tmp_path, save_model(tmp_path / "gpt2", "gpt2"), text_file, SYMMETRIC)
    pytest.importorskip("compressed_tensors", reason="install scantling[compressed-tensors]")
    refused("transposed layer", "apply", plan, "--backend", "compressed-tensors", "-o", tmp_path / "x")


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, symmetric):
    monkeypatch.setattr("scantling.backends.compressed_tensors.util.find_spec", lambda name: None)
    refused(
        r"scantling\[compressed-tensors\]", "apply", symmetric, "--backend", "compressed-tensors", "-o", tmp_path / "x"
    )


def test_a_missing_engine_says_how_to_install_it(tmp_path, asymmetric):
    run("apply", asymmetric, "--backend", "gptq", "-o", tmp_path / "x")
    refused(
        "gptqmodel is not installed for .*pip install gptqmodel", "check", tmp_path / "x", "--python", sys.executable
    )
    refused(
        "is for gptqmodel, vllm, transformers, not for 'auto-gptq'", "check", tmp_path / "x", "--engine", "auto-gptq"
    )
    refused("no Python interpreter", "check", tmp_path / "x", "--python", tmp_path / "none")


def test_checkpoint_and_interpreter_may_be_named_from_where_the_user_stands(tmp_path, symmetric, monkeypatch):
    run("apply", symmetric, "--backend", "fake", "-o", tmp_path / "x")
    python = tmp_path / "environment" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    monkeypatch.chdir(tmp_path)
    refused("no Python interpreter environment/python", "check", "x", "--python", "environment/python")
    python.chmod(0o755)
    result = run("check", "x", "--python", "environment/python")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has 2 bytes"),
        (lambda folder: (folder / "more").write_text("x"), "more was added"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("{}"), "is damaged"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), "not a finished scantling checkpoint"),
    ],
)
def test_a_changed_folder_is_refused(tmp_path, symmetric, damage, match):
    folder = tmp_path / "checkpoint"
    run("apply", symmetric, "--backend", "fake", "-o", folder)
    damage(folder)
    refused(match, "check", folder)


SPECS = {
    "a": TensorSpec(torch.float16, (3, 5)),
    "b": TensorSpec(torch.int64, (2,)),
    "c": TensorSpec(torch.int32, (7, 3)),
    "d": TensorSpec(torch.bfloat16, ()),
    "e.ü": TensorSpec(torch.float32, (0, 4)),
}


def values_of(specs):
    torch.manual_seed(0)
    return {name: (torch.randn(spec.shape) * 9).to(spec.dtype) for name, spec in specs.items()}


@pytest.mark.parametrize("largest", [1, 60, 1000])
def test_shards_filled_in_any_order_are_safetensors_files(tmp_path, largest):
    shards = lay_out(SPECS, largest)
    files, values = ShardFiles(tmp_path, shards), values_of(SPECS)
    files.allocate()
    for name in reversed(values):
        files.write({name: values[name]})
    found = {name: t for shard in shards for name, t in load_file(tmp_path / shard.file_name).items()}
    assert set(found) == set(SPECS)
    for name, value in values.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
        assert torch.equal(files.read([name])[name], value)
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {s.file_name: s.num_bytes for s in shards}
    assert bool(index_file(shards)) == (len(shards) > 1)
    with pytest.raises(ValueError, match="its place is for"):
        files.write({"a": values["c"]})


def test_an_unfinished_checkpoint_is_taken_up_and_no_other_request_touches_it(tmp_path):
    folder, shards, values = tmp_path / "out", lay_out(SPECS, 60), values_of(SPECS)
    with pytest.raises(RuntimeError), open_resumable_writer(folder, "request", shards) as writer:
        writer.write_piece(3, {"c": values["c"]})
        with (writer.work / "finished").open("a") as opened:
            opened.write("7")  # killed in the middle of a line
        raise RuntimeError
    assert not folder.exists()
    with pytest.raises(ScantlingError, match="of another plan"), open_resumable_writer(folder, "other", shards):
        pass
    with open_resumable_writer(folder, "request", shards) as writer:
        assert writer.finished_pieces() == {3}
        assert torch.equal(writer.files.read(["c"])["c"], values["c"])
        with pytest.raises(ScantlingError, match="another process"), open_resumable_writer(folder, "request", shards):
            pass
        writer.files.write({name: value for name, value in values.items() if name != "c"})
        writer.finish({"config.json": b"{}"})
    assert torch.equal(load_file(folder / shards[-1].file_name)["d"], values["d"])
    assert list(tmp_path.iterdir()) == [folder]


def test_a_disk_that_fills_up_is_said_in_words_and_the_work_is_kept(tmp_path, monkeypatch):
    folder, shards = tmp_path / "out", lay_out(SPECS, 60)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with (
            pytest.raises(ScantlingError, match=r"No space left.*No half-written"),
            open_resumable_writer(folder, "r", shards),
        ):
            pass
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(ScantlingError, match=r"No space left.*run the same command to go on"),
        open_resumable_writer(folder, "r", shards) as writer,
    ):
        writer.write_piece(1, {"c": values_of(SPECS)["c"]})
        monkeypatch.setattr(os, "fsync", full)
        writer.write_piece(2, {"a": values_of(SPECS)["a"]})
    assert list(tmp_path.iterdir()) == [work_folder(folder)]
    monkeypatch.undo()
    with open_resumable_writer(folder, "r", shards) as writer:
        assert writer.finished_pieces() == {1}


def test_a_checkpoint_that_cannot_fit_is_refused_before_the_work(tmp_path):
    huge = [Shard("model.safetensors", {"a": TensorSpec(torch.float32, (1 << 50,))})]
    with pytest.raises(ScantlingError, match="the disk has"), open_resumable_writer(tmp_path / "out", "r", huge):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_checkpoint_and_the_next_one_gives_the_same_bytes(tmp_path, asymmetric):
    words, whole = ["apply", asymmetric, "--backend", "gptq", "-o"], tmp_path / "whole"
    run(*words, whole)
    folder, killed_after = tmp_path / "killed", []
    finished = work_folder(folder) / "finished"
    for number in range(1, 8):  # killed once more after every further part
        started = multiprocessing.get_context("fork").Process(target=run, args=(*words, folder))
        started.start()
        while started.is_alive():
            if finished.is_file() and len(finished.read_text().splitlines()) >= number:
                os.kill(started.pid or 0, signal.SIGKILL)
                killed_after.append(number)
                break
            time.sleep(0.0005)
        started.join()
        if started.exitcode == 0:
            break
        assert not folder.exists()
        assert not (work_folder(folder) / "checkpoint" / "config.json").exists()
    assert len(killed_after) >= 2
    if not folder.exists():
        run(*words, folder)
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for name in names:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_an_output_that_exists_is_refused_before_the_model_is_loaded(tmp_path, symmetric):
    (tmp_path / "out").mkdir()
    refused("exists already", "apply", symmetric, "--backend", "fake", "-o", tmp_path / "out")
    refused("does not exist", "apply", symmetric, "--backend", "fake", "-o", tmp_path / "no" / "out")


def test_the_tolerance_is_four_times_the_noise_of_the_arithmetic():
    noise = {"float16": 0.002, "bfloat16": 0.015}
    assert tolerance("float16", noise) == pytest.approx(0.008)
    assert tolerance("bfloat16", noise) == pytest.approx(0.06)
    assert tolerance("float32", noise) == pytest.approx(0.008 / 512)


def test_an_engine_s_complaint_is_its_first_and_its_last_error():
    printed = (
        "INFO loading\n(Worker) ValueError: no kernel for 3 bits\nTraceback\nRuntimeError: engine failed\n  at exit\n"
    )
    assert complaint(printed) == "(Worker) ValueError: no kernel for 3 bits … RuntimeError: engine failed"
    assert complaint("a\nb\nc\n") == "b … c"
    assert complaint("") == "it ended without a word"
