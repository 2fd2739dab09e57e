"""Writing and checking checkpoints from Python: the same files as the command line, and the same refusals."""

import shutil
from pathlib import Path

import pytest

from helpers.command_line import run
from helpers.plans import a_plan
from helpers.tiny_gguf import SMALL, needs_library, save_gguf
from helpers.tiny_models import save_model
from scantling.backends.check import check_checkpoint
from scantling.backends.folder_manifest import read_manifest
from scantling.backends.gguf.writer import OpenGguf
from scantling.backends.registry import WRITERS
from scantling.backends.write import export_plan
from scantling.common.errors import (
    EngineError,
    FileFormatError,
    InputError,
    MissingDependencyError,
    ScantlingError,
    StorageError,
)
from scantling.planning.plan import read_plan, remembering
from scantling.planning.plan_profile import profile_for
from scantling.sensitivity.profile import read_profile

FORMATS = "int4-g32-sym,int8-row-sym,float16"


@pytest.fixture(scope="module")
def plan_path(tmp_path_factory, text_file) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    return a_plan(folder, save_model(folder / "model", "llama-wide"), text_file, FORMATS, 6)


@pytest.fixture(scope="module")
def gguf_plan_path(tmp_path_factory, text_file) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    save_gguf(folder / "tiny.gguf")
    words = ["profile", folder / "tiny.gguf", "-o", folder / "profile.safetensors", "--text", text_file, *SMALL]
    assert run(*words, "--formats", "Q4_0,Q8_0", "--rounding", "ggml").exit_code == 0
    assert run("solve", folder / "profile.safetensors", "--average-bits", 6, "-o", folder / "plan.json").exit_code == 0
    return folder / "plan.json"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_python_writes_what_the_command_line_writes(tmp_path, plan_path):
    words = ["apply", plan_path, "--backend", "gptq", "--inputs", "corrected", "--shard", "8kB", "-o", tmp_path / "a"]
    assert run(*words).exit_code == 0
    manifest = export_plan(read_plan(plan_path), tmp_path / "b", backend="gptq", inputs="corrected", shard=8000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert manifest == read_manifest(tmp_path / "b")
    assert manifest.checkpoint_bytes == sum(map(len, contents(tmp_path / "b").values()))
    assert manifest.num_files == len(contents(tmp_path / "b"))


@pytest.mark.parametrize("backend", ["fake", "compressed-tensors"])
def test_transformers_computes_what_the_plan_in_memory_did(tmp_path, plan_path, backend):
    if backend == "compressed-tensors":
        pytest.importorskip("compressed_tensors", reason="install scantling[compressed-tensors]")
    folder = tmp_path / "folder.gguf"  # a folder, whatever it is called
    export_plan(read_plan(plan_path), folder, backend=backend)
    report = check_checkpoint(folder, sequences=[range(2, 34)])
    assert report.passed
    assert report.checkpoint_bytes == read_manifest(folder).checkpoint_bytes
    assert report.perplexity > 1
    assert len(report.negative_log_likelihoods_nats) == 1


def test_a_profile_may_be_given_or_found(tmp_path, plan_path):
    plan = read_plan(plan_path)
    path = Path(plan.profile_path)
    profile = read_profile(path)
    assert profile_for(plan, profile) is profile
    for found in (profile_for(plan, None), profile_for(plan, path), profile_for(plan, str(path))):
        assert found.record == profile.record
    moved = shutil.copy(path, tmp_path / path.name)
    elsewhere = read_plan(plan_path).model_copy(update={"profile_path": "/nowhere/" + path.name})
    assert profile_for(remembering(elsewhere, folder=tmp_path), None).record == profile.record
    with pytest.raises(InputError, match=r"profile /nowhere/.* is not there"):
        profile_for(elsewhere, None)
    with pytest.raises(InputError, match="another profile than"):
        profile_for(plan.model_copy(update={"profile_sha256": "0" * 64}), moved)
    with pytest.raises(InputError, match="layers or bytes differ"):
        profile_for(plan.model_copy(update={"assignments": plan.assignments[1:]}), profile)


@pytest.mark.parametrize("backend", [name for name, writer in WRITERS.items() if not writer.options])
def test_options_of_one_backend_are_refused_by_the_others(tmp_path, plan_path, backend):
    plan, output = read_plan(plan_path), tmp_path / "out"
    with pytest.raises(InputError, match=f"--write-imatrix is for --backend gguf, not for {backend}"):
        export_plan(plan, output, backend=backend, write_imatrix="imatrix.gguf")
    with pytest.raises(InputError, match=f"--emit is for --backend gguf, not for {backend}"):
        export_plan(plan, output, backend=backend, emit="llama-quantize")
    assert list(tmp_path.iterdir()) == []


def test_errors_say_by_their_class_what_went_wrong(tmp_path, plan_path):
    plan, folder = read_plan(plan_path), tmp_path / "out"
    with pytest.raises(InputError, match="not a backend"):
        export_plan(plan, folder, backend="mlx")
    with pytest.raises(ScantlingError, match="not a kind of inputs"):
        export_plan(plan, folder, backend="fake", inputs="wrong")
    export_plan(plan, folder, backend="fake")
    with pytest.raises(ScantlingError, match="exists already"):
        export_plan(plan, folder, backend="fake")
    with pytest.raises(EngineError, match="did not finish within 0 seconds"):
        check_checkpoint(folder, time_limit=0.001)
    with pytest.raises(InputError, match="is for transformers, not for 'vllm'"):
        check_checkpoint(folder, engine="vllm")
    (folder / "config.json").unlink()
    with pytest.raises(FileFormatError, match="missing"):
        check_checkpoint(folder)
    with pytest.raises(FileFormatError, match="not a finished scantling checkpoint"):
        check_checkpoint(tmp_path)


@needs_library
def test_a_gguf_file_is_written_and_checked_like_any_other(tmp_path, gguf_plan_path):
    plan, file, imatrix = read_plan(gguf_plan_path), tmp_path / "q.gguf", tmp_path / "i.gguf"
    manifest = export_plan(plan, file, backend="gguf", write_imatrix=imatrix, emit="llama-quantize")
    assert manifest.files == {"q.gguf": file.stat().st_size} == {"q.gguf": manifest.checkpoint_bytes}
    assert manifest.tensor_bytes == plan.stored_bytes
    assert (manifest.emitted or "").startswith(f"llama-quantize --imatrix {imatrix}")
    report = check_checkpoint(file)
    assert report.passed
    assert (report.backend, report.engine) == ("gguf", "llama.cpp")
    assert "in memory" in report.describe()
    with pytest.raises(InputError, match=r"is for llama\.cpp, not for 'vllm'"):
        check_checkpoint(file, engine="vllm")
    with pytest.raises(StorageError, match="exists already"):
        export_plan(plan, file, backend="gguf")


@needs_library
def test_a_gguf_file_that_is_not_finished_leaves_nothing(tmp_path, monkeypatch, gguf_plan_path):
    def fail(_checkpoint):
        raise MissingDependencyError("no more")

    monkeypatch.setattr(OpenGguf, "finish", fail)
    with pytest.raises(MissingDependencyError, match="no more"):
        export_plan(read_plan(gguf_plan_path), tmp_path / "q.gguf", backend="gguf")
    assert list(tmp_path.iterdir()) == []
