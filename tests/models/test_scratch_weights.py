"""Weights in a scratch file: the same model and checkpoint, no weight in memory, no file left behind."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.command_line import refused, run
from helpers.plans import a_plan
from helpers.tiny_models import make_model, make_tokenizer, save_model
from scantling.backends.write import apply_plan
from scantling.backends.writer import ApplySettings
from scantling.common.errors import StorageError
from scantling.common.progress import silent
from scantling.models import scratch_weights
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.sensitivity.profile import read_profile

ROWS = "int2-row-sym,int4-row-sym,int8-row-sym,float16"
TOKENS = torch.arange(2, 34).unsqueeze(0)


def saved(folder, family, dtype):
    make_model(family).to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def logits(loaded):
    with torch.no_grad():
        return loaded.model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral", "gpt-oss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_is_the_same_in_memory_and_in_a_scratch_file(tmp_path, family, dtype):
    folder = saved(tmp_path / "model", family, dtype)
    in_file, in_memory = load_model(str(folder), scratch=tmp_path), load_model(str(folder))
    assert in_file.sha256 == in_memory.sha256
    assert in_file.sixteen_bit_format == in_memory.sixteen_bit_format
    assert in_file.stored_names == in_memory.stored_names
    assert torch.equal(logits(in_file), logits(in_memory))
    assert list(tmp_path.iterdir()) == [folder]
    assert len(in_memory_only(in_memory)) > 0 == len(in_memory_only(in_file))


def in_memory_only(loaded):
    """Name the parameters that no deleted file backs."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("this system does not list mapped memory")
    lines = maps.read_text(encoding="utf-8").splitlines()
    shared = [line.split()[:2] for line in lines if "(deleted)" in line]
    spans = [[int(end, 16) for end in span.split("-")] for span, permissions in shared if permissions.endswith("s")]
    return [
        name
        for name, parameter in loaded.model.named_parameters()
        if not any(start <= parameter.data_ptr() < stop for start, stop in spans)
    ]


def test_mixed_stored_types_are_not_narrowed(tmp_path):
    folder = saved(tmp_path / "model", "llama-tied", torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    norm = next(name for name in tensors if "norm" in name)
    tensors[norm] = tensors[norm].float() + 1e-5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(folder), scratch=tmp_path).sha256 == load_model(str(folder)).sha256


@pytest.mark.parametrize("family", ["llama-wide", "mixtral"])
@pytest.mark.parametrize("rounding", ["gptq", "awq"])
def test_the_checkpoint_is_the_same_and_no_weight_stays_in_memory(tmp_path, text_file, family, rounding):
    model = save_model(tmp_path / "model", family)
    plan_path = a_plan(tmp_path, model, text_file, ROWS, 4, "--rounding", rounding)
    plan, profile = read_plan(plan_path), read_profile(tmp_path / "profile.safetensors")
    values = []
    for where, scratch in (("file", tmp_path), ("memory", None)):
        loaded = load_model(str(model), scratch=scratch)
        apply_plan(loaded, profile, plan, ApplySettings("fake"), tmp_path / where, silent)
        assert bool(in_memory_only(loaded)) == (scratch is None)
        values.append({name: tensor.clone() for name, tensor in loaded.model.state_dict().items()})
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[1])
    for path in (tmp_path / "memory").rglob("*.safetensors"):
        assert (tmp_path / "file" / path.relative_to(tmp_path / "memory")).read_bytes() == path.read_bytes()


def test_a_full_disk_is_reported_with_the_way_out(tmp_path, monkeypatch, text_file):
    model = save_model(tmp_path / "model", "llama-wide")
    plan = a_plan(tmp_path, model, text_file, ROWS)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scratch_weights.os, "posix_fallocate", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match=r"No space left on device. It takes .* KiB .*--in-memory"):
        load_model(str(model), scratch=tmp_path)
    refused("--in-memory", "apply", plan, "--backend", "fake", "-o", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.undo()
    assert run("apply", plan, "--backend", "fake", "-o", tmp_path / "out", "--in-memory").exit_code == 0
