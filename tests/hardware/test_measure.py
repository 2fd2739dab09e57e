"""Measuring on stand-ins whose speed is known, counters in a folder that is made, and a tiny model in every format."""

import json

import pytest
import torch

from helpers.command_line import run
from helpers.tiny_models import make_model
from scantling.common.errors import FileFormatError, InputError, MissingDependencyError
from scantling.common.progress import silent
from scantling.hardware import measure as measure_hardware
from scantling.hardware.energy_meters import EnergyMeter, find_meters
from scantling.hardware.llama_cpp_runtime import LlamaCppRuntime, gguf_contents, llama_cpp_is_here
from scantling.hardware.measure import StreamBandwidth, measure_runs, stream_bandwidth, write_points
from scantling.hardware.measured_hardware import measured_hardware
from scantling.hardware.points import read_points
from scantling.hardware.runtimes import DecodeRun, TorchRuntime, read_bytes_of
from scantling.models.loading import load_model


class Clock:
    """Time that passes only while a token is computed; an engine of the runs it is given."""

    name = "clockwork"
    counted = "blocks"

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.given = []
        monkeypatch.setattr(measure_hardware, "time", self)

    def perf_counter(self):
        return self.now

    def runs(self):
        return iter(self.given)

    def run(self, name, num_blocks, whole, read):
        """A run of 1 ms and 1 ms for each 100 kB, the whole model a tenth more; two tokens of five are held up."""
        count = iter(range(10**6))

        def step():
            self.now += (1e-3 + read * 1e-8) * (1.1 if whole else 1) * (3 if next(count) % 5 < 2 else 1)

        return DecodeRun(name, num_blocks, whole, read, lambda: step)


def test_a_known_speed_is_measured_and_the_whole_is_predicted_from_the_parts(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    meter = EnergyMeter("a counter", lambda: 40 * clock.now)
    sizes = ((1, False, 200_000), (2, False, 500_000), (3, True, 800_000))
    clock.given = [clock.run("int4", *size) for size in sizes]
    found = measure_runs(clock, 0.5, [meter], silent)
    for measured, (_, whole_one, read) in zip(found, sizes, strict=True):
        seconds = (1e-3 + read * 1e-8) * (1.1 if whole_one else 1)
        assert measured.seconds_per_token == pytest.approx(seconds)  # what holds tokens up is not counted
        assert measured.watts == pytest.approx(40)
        assert measured.window_seconds >= 0.5
        assert measured.delivered_tokens_per_second < 1 / measured.seconds_per_token
        assert measured.seconds_median == pytest.approx(seconds)
    stream = StreamBandwidth(1e9, 1e9, 1 << 20, 1)
    record = measured_hardware(found, stream, clock, (("a counter",), ()))
    cut, other, whole = record.runs
    assert cut.predicted_tokens_per_second is other.predicted_tokens_per_second is None
    assert whole.predicted_tokens_per_second == pytest.approx(1.1 * whole.measured_tokens_per_second)
    write_points(found, ["clockwork"], tmp_path / "m.csv")
    points = read_points(tmp_path / "m.csv").points
    assert [point.format for point in points] == ["int4"] * 3
    for point, measured in zip(points, found, strict=True):
        assert point.watts == pytest.approx(40, rel=1e-4)
        assert point.rate == pytest.approx(measured.delivered_tokens_per_second, rel=1e-4)
        assert point.read_bytes == measured.read_bytes


def test_what_cannot_be_predicted_is_said(monkeypatch):
    clock = Clock(monkeypatch)
    clock.given = [clock.run("int4", 1, True, 1000), clock.run("int8", 1, True, 2000)]
    found = measure_runs(clock, 0.0, [], silent)
    assert [measured.num_tokens for measured in found] == [16, 16]
    record = measured_hardware(found, StreamBandwidth(1e9, 1e9, 1 << 20, 1), clock, ((), ("no counter",)))
    assert "whole models were not predicted" in record.law_not_tested
    assert record.not_read == ("no counter",)
    assert all(row.measured_watts is None for row in record.runs)


def test_bandwidth_is_bytes_over_time():
    found = stream_bandwidth(1 << 22)
    assert found.array_bytes == 1 << 22
    assert found.read_bytes_per_second >= found.median_bytes_per_second > 1e6


def zone(folder, name, energy, wraps_at="1000000"):
    (folder / name).mkdir(parents=True)
    for key, value in (("name", "package-0"), ("energy_uj", energy), ("max_energy_range_uj", wraps_at)):
        (folder / name / key).write_text(f"{value}\n")


def test_rapl_counters_are_read_and_wrap(tmp_path):
    zone(tmp_path, "intel-rapl:0", "900000")
    zone(tmp_path, "intel-rapl:0:0", "5")  # a part of the package: counted in it already
    meters = find_meters(tmp_path)
    (found,) = meters.found
    assert found.name == "RAPL package-0"
    assert found.read() == pytest.approx(0.9)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100000\n")
    assert found.between(0.9, found.read()) == pytest.approx(0.2)
    assert found.between(0.1, 0.4) == pytest.approx(0.3)


def test_counters_that_cannot_be_read_are_named(tmp_path):
    assert any(f"{tmp_path} has no zone" in words for words in find_meters(tmp_path).missing)
    (tmp_path / "intel-rapl:0").mkdir()
    assert any("only root may read" in words for words in find_meters(tmp_path).missing)


@pytest.mark.parametrize("family", ["llama-tied", "llama-untied", "qwen3"])
def test_bytes_read_are_those_of_the_tensors(family):
    model = make_model(family)
    names = {id(p): p for p in model.parameters()}
    total = sum(p.numel() * 4 for p in names.values())
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    untied = family != "llama-tied"
    expected = total - (embedding.numel() - embedding.shape[1]) * 4 * untied
    assert read_bytes_of(model, model) == expected
    half = torch.nn.Module.to(make_model(family), torch.bfloat16)
    assert read_bytes_of(half, model) == expected // 2


def test_torch_runs_every_size_and_format_and_puts_the_model_back(llama_folder):
    loaded = load_model(str(llama_folder))
    before = loaded.model(torch.tensor([[1, 2, 3]])).logits
    seen = []
    for decode in TorchRuntime(loaded, (1 / 3, 1.0)).runs():
        step = decode.begin()
        step()
        step()
        seen.append((decode.format, decode.num_blocks, decode.whole, decode.read_bytes))
    assert [entry[:3] for entry in seen] == [
        (name, blocks, blocks == 3) for blocks in (1, 3) for name in ("float32", "bfloat16", "int8")
    ]
    sizes = {entry[:2]: entry[3] for entry in seen}
    assert sizes["float32", 3] == 2 * sizes["bfloat16", 3]
    assert sizes["float32", 1] < sizes["float32", 3] / 1.5
    assert sizes["int8", 3] < sizes["bfloat16", 3]
    assert torch.equal(loaded.model(torch.tensor([[1, 2, 3]])).logits, before)
    assert loaded.model.config.num_hidden_layers == 3


def test_the_command_measures_a_model_and_its_points_can_be_fitted(tmp_path, llama_folder):
    csv = tmp_path / "m.csv"
    words = ("hardware", "measure", "-o", csv, "--model", llama_folder, "--seconds", "0", "--array", "4MiB")
    measured = json.loads(run(*words, "--json").output)
    assert len(measured["runs"]) == 9
    assert measured["not_read"] or measured["energy_counters"]
    assert len(read_points(csv).points) == 9
    shown = " ".join(run(*words).output.split())
    assert "Memory was read at" in shown
    assert f"hardware fit {csv}" in shown.replace("- ", "-")
    with pytest.raises(InputError, match="Give one of them"):
        run(*words, "--gguf", csv)


def test_a_gguf_file_says_what_a_token_reads(tmp_path):
    gguf = pytest.importorskip("gguf")
    np = pytest.importorskip("numpy")
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    tensors = {
        "token_embd.weight": (10, 32),
        "output.weight": (10, 32),
        "blk.0.a.weight": (32, 32),
        "blk.1.a.weight": (32, 32),
    }
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_contents(path)
    assert (found.format, found.num_blocks) == ("F16", 2)
    assert found.read_bytes == 2 * (32 + 320 + 2 * 1024)
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match="is not a GGUF file"):
        gguf_contents(tmp_path / "no.gguf")
    if not llama_cpp_is_here():
        with pytest.raises(MissingDependencyError, match="pip install llama-cpp-python"):
            _ = LlamaCppRuntime([path]).name
