"""The resume cache: a profile that is killed at any moment resumes and ends the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.command_line import run
from helpers.tiny_models import save_model
from scantling.common.errors import ScantlingError
from scantling.sensitivity import measure as measuring
from scantling.sensitivity.calibration.resume_cache import (
    ResumeCache,
    discard_resume_cache,
    open_resume_cache,
    resume_cache_folder,
)
from scantling.sensitivity.profile import read_profile

SMALL = ["--sequences", "2", "--pricing-sequences", "3", "--length", "32", "--formats", "int2-g32,int4-g32,int8-row"]


def test_a_piece_is_computed_once(tmp_path):
    cache = open_resume_cache(tmp_path / "p", {"seed": 1})
    made = []

    def compute():
        made.append(1)
        return {"a": torch.arange(3.0)}

    for _ in range(2):
        assert torch.equal(cache.remember("x", compute)["a"], torch.arange(3.0))
    assert made == [1]
    assert torch.equal(cache.load_one("x", "a"), torch.arange(3.0))
    cache.remove("x")
    cache.remove("x")
    assert not cache.has("x")


def test_a_cache_serves_no_other_settings(tmp_path):
    folder = tmp_path / "p"
    open_resume_cache(folder, {"seed": 1, "estimator": "fisher"})
    assert open_resume_cache(folder, {"seed": 1, "estimator": "fisher"}) == ResumeCache(folder)
    with pytest.raises(ScantlingError, match="begun with other settings: seed was 1 and is 2 now"):
        open_resume_cache(folder, {"seed": 2, "estimator": "fisher"})
    (folder / "purpose.json").write_text("{")
    with pytest.raises(ScantlingError, match="does not say"):
        open_resume_cache(folder, {"seed": 1, "estimator": "fisher"})


def test_a_damaged_piece_is_named(tmp_path):
    cache = open_resume_cache(tmp_path / "p", {})
    cache.save("x", {"a": torch.ones(100)})
    file = tmp_path / "p" / "x.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ScantlingError, match=r"x\.safetensors is damaged .* begin again"):
        cache.load("x")


class KilledError(BaseException):
    """Stands for a signal that cannot be caught."""


@pytest.mark.parametrize("estimator", ["fisher", "direct", "hessian-diagonal"])
@pytest.mark.parametrize("include", [[], ["--include", "embedding"]])
def test_an_interrupted_profile_resumes_and_ends_byte_identical(
    tmp_path, monkeypatch, llama_folder, text_file, estimator, include
):
    words = ["profile", llama_folder, "--text", text_file, *SMALL]
    if include and estimator != "fisher":
        words = [*words, "--estimator", estimator]
    else:
        words = [*words, "--estimator", estimator, *include]
    whole = tmp_path / "whole.safetensors"
    run(*words, "-o", whole)
    broken = tmp_path / "broken.safetensors"
    finished = []
    keep = measuring._keep

    def keep_and_die(cache, index, priced, pricing):
        keep(cache, index, priced, pricing)
        finished.append(index)
        if len(finished) in {1, 2}:
            raise KilledError

    monkeypatch.setattr(measuring, "_keep", keep_and_die)
    for _ in range(2):
        with pytest.raises(KilledError):
            run(*words, "-o", broken)
        assert not broken.exists()
        assert resume_cache_folder(broken).is_dir()
    run(*words, "-o", broken)
    assert finished == [2, 1, 0]  # no block twice
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.safetensors", "whole.safetensors"]


def test_other_settings_do_not_resume(tmp_path, monkeypatch, llama_folder, text_file):
    words = ["profile", llama_folder, "--text", text_file, *SMALL, "-o", tmp_path / "p"]

    def die(*_arguments):
        raise KilledError

    monkeypatch.setattr(measuring, "_keep", die)
    with pytest.raises(KilledError):
        run(*words)
    with pytest.raises(ScantlingError, match="seed was 0 and is 1 now"):
        run(*words, "--seed", "1")
    discard_resume_cache(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_process_leaves_a_usable_cache(tmp_path, text_file):
    model = save_model(tmp_path / "model", "llama-tied")
    words = [sys.executable, "-m", "scantling", "profile", str(model), "--text", str(text_file), *SMALL]
    subprocess.run([*words, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    kills = 0
    for delay in (4.0, 4.4, 4.8, 5.2, 5.6, 6.0, 6.4):
        child = subprocess.Popen([*words, "-o", str(tmp_path / "broken")], stdout=subprocess.DEVNULL)
        time.sleep(delay)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
        if Path(tmp_path / "broken").exists():
            break
    assert kills > 0
    subprocess.run([*words, "-o", str(tmp_path / "broken")], check=True, capture_output=True)
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "whole").read_bytes()
    assert read_profile(tmp_path / "broken").record.estimator == "fisher"
