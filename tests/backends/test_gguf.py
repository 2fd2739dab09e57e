"""Types of GGUF: bit-exact against llama.cpp's own library, and every way in which a plan for it can go wrong."""

import ctypes
import json
import math
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaForCausalLM, Qwen3ForCausalLM

from helpers.command_line import refusal, run
from helpers.tiny_gguf import SMALL, TEMPLATE, make, needs_library, save_gguf
from helpers.tiny_models import make_model, save_model
from scantling.backends.gguf.llama_quantize import rules
from scantling.backends.gguf.sidecar import sidecar_path
from scantling.backends.gguf.source import open_gguf, row_order, values_of
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.hardware.ggml_kernels import MatrixShape, Products
from scantling.hardware.kernel_runtime import KernelRuntime, kernel_formats
from scantling.hardware.measure import measure_runs
from scantling.hardware.specification import load_hardware
from scantling.models.demo_model import demo_model_path
from scantling.models.install import installed
from scantling.models.layers import Layer, matrix_of
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.quantization import ggml
from scantling.quantization.formats import parse_format
from scantling.quantization.ggml import PackedMatrix, quantize_matrix
from scantling.quantization.gguf_inputs import input_block, rounded_inputs
from scantling.quantization.gguf_types import GGUF_FORMATS, GgufFormat, legal_types
from scantling.quantization.imatrix import read_imatrix, write_imatrix
from scantling.quantization.methods import rounding_method, rounding_named
from scantling.sensitivity.estimators.activation_rounding import ActivationRounding
from scantling.sensitivity.profile import read_profile
from scantling.sensitivity.sequential_rounding import round_as_shipped

FAST = [name for name in GGUF_FORMATS if not name.startswith(("IQ1", "IQ2"))]
FORMATS = "Q2_K,Q4_0,q5_0,iq4_nl,Q4_K,Q6_K,Q8_0,float16"
IN_OUT = [(64, 32), (1, 256), (65, 768)]


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def importance(columns: int) -> torch.Tensor:
    return torch.rand(columns, generator=torch.Generator().manual_seed(1)) + 0.05


@needs_library
@pytest.mark.parametrize("name", GGUF_FORMATS)
def test_the_library_makes_as_many_bytes_as_the_format_says(name):
    target = GGUF_FORMATS[name]
    for blocks, rows in ((1, 1), (3, 5)):
        width = blocks * target.block_weights
        packed = quantize_matrix(matrix(rows, width), target, importance(width))
        assert packed.blocks.numel() == target.stored_bytes(rows, width)
        assert packed.dequantize().shape == (rows, width)


@needs_library
@pytest.mark.parametrize("name", FAST)
def test_blocks_are_read_as_the_package_gguf_reads_them(name):
    target = GGUF_FORMATS[name]
    weight = torch.cat([matrix(7, 512), torch.zeros(1, 512), 1e4 * matrix(1, 512), 1e-6 * matrix(1, 512)])
    packed = quantize_matrix(weight, target, importance(512))
    try:
        expected = gguf.dequantize(packed.blocks.numpy(), gguf.GGMLQuantizationType(target.type_id))
    except NotImplementedError:
        pytest.skip("the package gguf cannot read it")
    assert np.array_equal(packed.dequantize().numpy(), expected)
    assert float(packed.dequantize()[7].abs().max()) == 0.0


@needs_library
@pytest.mark.parametrize("name", FAST)
def test_rows_are_rounded_alone_so_their_order_and_the_threads_change_nothing(name):
    target, weight, means = GGUF_FORMATS[name], matrix(130, 256), importance(256)
    order = torch.randperm(130, generator=torch.Generator().manual_seed(2))
    threads = torch.get_num_threads()
    whole = quantize_matrix(weight, target, means).blocks
    torch.set_num_threads(threads + 2)
    try:
        assert torch.equal(quantize_matrix(weight[order], target, means).blocks, whole[order])
    finally:
        torch.set_num_threads(threads)


@needs_library
@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q2_K", "IQ4_NL", "Q5_1"])
def test_importance_lessens_the_error_that_it_weighs(name):
    target, weight = GGUF_FORMATS[name], matrix(64, 256)
    means = torch.where(torch.arange(256) % 8 == 0, 50.0, 0.1)

    def error(given: torch.Tensor) -> float:
        return float(((quantize_matrix(weight, target, given).dequantize() - weight).square() * means).sum())

    assert error(means) < 0.9 * error(torch.ones(256))


@settings(deadline=None)
@given(width=st.integers(1, 20).map(lambda n: 16 * n))
def test_a_type_fits_where_its_blocks_fill_the_row(width):
    for name, target in GGUF_FORMATS.items():
        fits = width % target.block_weights == 0
        assert target.fits(width) == fits == (name in legal_types(width))
        if fits:
            assert target.stored_bytes(3, width) * 8 == 3 * width * target.bits
        else:
            with pytest.raises(ScantlingError, match=f"blocks of {target.block_weights}"):
                target.stored_bytes(3, width)


def test_names_are_read_in_any_case():
    assert parse_format("q4_k") is parse_format("Q4_K") is GGUF_FORMATS["Q4_K"]
    for name in ("Q8_K", "q8_1", "F32", "Q4_9"):
        with pytest.raises(ScantlingError, match=r"not a format.*Q4_K"):
            parse_format(name)


@needs_library
def test_a_type_that_the_library_does_not_know_is_refused(monkeypatch):
    with pytest.raises(ScantlingError, match="does not know the type Q9_Z"):
        quantize_matrix(matrix(1, 32), GgufFormat("Q9_Z", 2, 32, 18), None)
    with pytest.raises(ScantlingError, match="18 bytes for 32 weights"):
        ggml.validate_type(GgufFormat("Q4_0", 2, 32, 20))
    with pytest.raises(ScantlingError, match="only with an importance matrix"):
        quantize_matrix(matrix(1, 256), GGUF_FORMATS["IQ2_XS"], None)
    with pytest.raises(ScantlingError, match="NaN"):
        quantize_matrix(torch.full((1, 32), math.nan), GGUF_FORMATS["Q4_0"], None)


def test_without_the_library_the_user_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(ggml.util, "find_spec", lambda name: None)
    with pytest.raises(ScantlingError, match="make gguf"):
        ggml.library_path("ggml-base")


@needs_library
def test_kernels_are_run_in_every_size_and_can_be_fitted(tmp_path):
    engine = KernelRuntime(kernel_formats("Q4_0, float16"), 3 << 20, MatrixShape(512, 1024))
    found = measure_runs(engine, 0.05, [], silent)
    assert [(run.format, run.whole) for run in found] == [
        (name, whole) for name in ("Q4_0", "float16") for whole in (False, False, True)
    ]
    for measured in found:
        assert measured.seconds_per_token > 0
        assert measured.read_bytes == measured.num_blocks * parse_format(measured.format).stored_bytes(512, 1024)
    assert found[2].read_bytes >= 3 << 20
    csv, fitted = tmp_path / "k.csv", tmp_path / "k.yaml"
    words = ("--kernels", "Q4_0,Q8_0", "--seconds", "0", "--array", "4MiB", "--threads", "1")
    assert "products alone" in run("hardware", "measure", "-o", csv, *words).output
    run("hardware", "fit", csv, "--bandwidth", "10 GB/s", "-o", fitted)
    assert {entry.formats for entry in load_hardware(str(fitted)).efficiency} == {"Q4_0", "Q8_0"}


@needs_library
@pytest.mark.parametrize("names", ["int4-g64", "Q4_0,int8-row", "", "Q9_9"])
def test_formats_without_a_kernel_are_refused(names):
    with pytest.raises(ScantlingError, match=r"no kernel|not a format"):
        kernel_formats(names)


@needs_library
def test_the_product_of_a_kernel_reads_every_matrix_again_and_again():
    with Products(GGUF_FORMATS["Q4_K"], 1 << 18, MatrixShape(128, 512), 1) as products:
        for _ in range(500):  # each takes working memory: none may be left over
            products.compute()


# ------------------------------------------------------------------------------------------------ inputs of products


def rounded_by_the_library(name: str, inputs: torch.Tensor) -> torch.Tensor:
    base = ctypes.CDLL(str(ggml.library_path("ggml-base")))
    codes, values = torch.zeros(inputs.numel() * 2, dtype=torch.uint8), torch.empty_like(inputs)
    pointers = (ctypes.c_void_p(inputs.data_ptr()), ctypes.c_void_p(codes.data_ptr()))
    getattr(base, f"quantize_row_{name}_ref")(*pointers, ctypes.c_int64(inputs.numel()))
    pointers = (ctypes.c_void_p(codes.data_ptr()), ctypes.c_void_p(values.data_ptr()))
    getattr(base, f"dequantize_row_{name}")(*pointers, ctypes.c_int64(inputs.numel()))
    return values


@needs_library
@pytest.mark.parametrize(("name", "block"), [("q8_0", 32), ("q8_K", 256)])
def test_inputs_are_rounded_as_the_library_does(name, block):
    inputs = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 4096)
    inputs[:256] = 0
    theirs, ours = rounded_by_the_library(name, inputs), rounded_inputs(inputs.reshape(2, -1), block).flatten()
    assert torch.equal(ours[:256], torch.zeros(256))
    step = inputs.reshape(-1, block).abs().amax(1).repeat_interleave(block) / 127
    assert bool(((ours - theirs).abs() <= 1.01 * step).all())  # a number in the middle may go either way
    assert ((ours - theirs).abs() > 1e-3 * step).double().mean() < 0.01


@needs_library
@pytest.mark.parametrize("name", GGUF_FORMATS)
def test_inputs_have_the_blocks_that_the_kernels_ask_for(name):
    class Traits(ctypes.Structure):
        _fields_ = (("from_float", ctypes.c_void_p), ("vec_dot", ctypes.c_void_p), ("vec_dot_type", ctypes.c_int))

    ctypes.CDLL(str(ggml.library_path("ggml-base")), mode=ctypes.RTLD_GLOBAL)
    traits_of = ctypes.CDLL(str(ggml.library_path("ggml-cpu"))).ggml_get_type_traits_cpu
    traits_of.restype = ctypes.POINTER(Traits)
    asked = GGMLQuantizationType(traits_of(GGUF_FORMATS[name].type_id).contents.vec_dot_type).name
    assert input_block(GGUF_FORMATS[name]) == {"Q8_0": 32, "Q8_1": 32, "Q8_K": 256}[asked]


@needs_library
def test_changes_are_those_of_rounded_matrix_and_rounded_inputs():
    generator = torch.Generator().manual_seed(0)
    inputs, matrix = torch.randn(9, 256, generator=generator), torch.randn(5, 256, generator=generator)
    gradients = torch.randn(2, 9, 5, generator=generator)
    entering = ActivationRounding(inputs, gradients, lambda: matrix)
    for name, block in (("Q8_0", 32), ("Q4_K", 256), ("Q4_0", 32), ("float16", None)):
        target = parse_format(name)
        rounded = (
            quantize_matrix(matrix, target, None).dequantize()
            if isinstance(target, GgufFormat)
            else matrix.half().float()
        )
        given = inputs if block is None else rounded_inputs(inputs, block)
        outputs = given.double() @ rounded.double().t() - inputs.double() @ matrix.double().t()
        expected = (gradients.double() * outputs).sum(2)
        assert torch.allclose(entering.changes(target, rounded - matrix), expected, atol=1e-4)


@needs_library
@pytest.mark.parametrize("tied", [True, False])
def test_a_candidate_in_memory_rounds_inputs_and_lets_gradients_pass(tied):
    model = make(256, 256, 1, tied, 0)
    head = "model.embed_tokens" if tied else "lm_head"
    packed = quantize_matrix(model.lm_head.weight, GGUF_FORMATS["Q4_K"], None)
    tokens = torch.arange(12).unsqueeze(0)
    before = model(tokens).logits
    seen = []
    with installed(model, {head: packed}), model.model.norm.register_forward_hook(lambda _m, _a, out: seen.append(out)):
        found = model(inputs_embeds=model.get_input_embeddings()(tokens).requires_grad_()).logits
        assert torch.allclose(found, rounded_inputs(seen[0], 256) @ packed.dequantize().t(), atol=1e-5)
        (gradient,) = torch.autograd.grad(found.sum(), seen[0])
        assert torch.allclose(gradient, packed.dequantize().sum(0).expand_as(gradient), atol=1e-4)
    assert torch.equal(model(tokens).logits, before)


# ---------------------------------------------------------------------------------------------- importance matrices


@settings(deadline=None, max_examples=25)
@given(num_tokens=st.integers(1, 1 << 20), seed=st.integers(0, 100))
def test_an_importance_matrix_is_read_back_bit_by_bit(tmp_path_factory, num_tokens, seed):
    path = tmp_path_factory.mktemp("imatrix") / "i.gguf"
    generator = torch.Generator().manual_seed(seed)
    means = {f"blk.{i}.ffn_up.weight": torch.rand(32, generator=generator) * 10.0 ** (i - 5) for i in range(8)}
    write_imatrix(path, means, num_tokens, 512, "text")
    found = read_imatrix(path)
    assert found.datasets == ("text",)
    assert found.means.keys() == means.keys()
    assert all(torch.equal(found.means[name], means[name]) for name in means)


def old_format(entries, calls=3) -> bytes:
    raw = struct.pack("<i", len(entries))
    for name, values in entries.items():
        raw += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        raw += (np.array(values, dtype="<f4") * calls).tobytes()
    return raw + struct.pack("<ii", 7, 4) + b"wiki"


def test_the_older_format_is_read_too(tmp_path):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(old_format({"blk.0.attn_q.weight": [1.0, 2.0], "blk.1.attn_q.weight": [0.5]}))
    found = read_imatrix(path)
    assert found.datasets == ("wiki",)
    assert {name: values.tolist() for name, values in found.means.items()} == {
        "blk.0.attn_q.weight": [1.0, 2.0],
        "blk.1.attn_q.weight": [0.5],
    }
    with pytest.raises(ScantlingError, match="another model"):
        found.of("blk.0.attn_q.weight", 576)
    assert found.of("blk.9.attn_q.weight", 576) is None


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\0\0\0\0", b"\1\0\0\0\xff\xff\xff\x7f", b"hello, world"])
def test_what_is_no_importance_matrix_is_refused(tmp_path, content):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(content)
    with pytest.raises(ScantlingError, match="is not an importance matrix"):
        read_imatrix(path)


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf])
def test_values_that_no_mean_square_has_are_refused(tmp_path, value):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(old_format({"blk.0.attn_q.weight": [1.0, value]}))
    with pytest.raises(ScantlingError, match="is damaged"):
        read_imatrix(path)
    with pytest.raises(ScantlingError, match="there is no importance matrix"):
        read_imatrix(tmp_path / "missing")


# ------------------------------------------------------------------------------------------------------ whole path


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    save_gguf(path)
    return path


@pytest.fixture(scope="module")
def plan(tmp_path_factory, source, text_file) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    words = ["profile", source, "-o", folder / "p.safetensors", "--text", text_file, "--formats", FORMATS]
    assert run(*words, "--rounding", "ggml", "--include", "embedding", *SMALL).exit_code == 0
    assert run("solve", folder / "p.safetensors", "--average-bits", 5, "-o", folder / "plan.json").exit_code == 0
    return folder / "plan.json"


@pytest.fixture(scope="module")
def applied(tmp_path_factory, plan):
    folder = tmp_path_factory.mktemp("applied")
    words = ["apply", plan, "--backend", "gguf", "-o", folder / "q.gguf", "--write-imatrix", folder / "i.gguf"]
    result = run(*words, "--emit", "llama-quantize")
    assert result.exit_code == 0, result.output
    return folder / "q.gguf", result.output


@needs_library
def test_sizes_and_types_are_those_of_the_plan(plan, applied):
    file, _ = applied
    written, of_plan = open_gguf(file), read_plan(plan)
    assert sum(int(tensor.n_bytes) for tensor in written.tensors.values()) == of_plan.stored_bytes
    assert written.tensors["blk.1.ffn_up.weight"].tensor_type.name == of_plan.formats()["model.layers.1.mlp.up_proj"]
    assert written.tensors["token_embd.weight"].tensor_type.name == of_plan.formats()["model.embed_tokens"]
    assert {t.tensor_type.name for n, t in written.tensors.items() if "norm" in n} == {"F32"}
    assert len(set(of_plan.formats().values())) > 2  # the plan mixes


@needs_library
def test_the_file_holds_the_values_of_the_plan_in_memory(plan, applied, source):
    loaded = load_model(str(source))
    profile = read_profile(plan.with_name("p.safetensors"))
    rounded = round_as_shipped(loaded, profile, {"plan": read_plan(plan).formats()}, "original", silent)["plan"]
    read_back = load_model(str(applied[0])).model
    for layer, record in rounded.items():
        assert torch.equal(matrix_of(read_back.get_submodule(layer)), record.dequantize()), layer


@needs_library
def test_everything_that_the_source_says_of_the_model_is_kept(applied, source):
    before, after = open_gguf(source), open_gguf(applied[0])
    for key in before.reader.fields:
        if not key.startswith("GGUF."):
            assert after.field(key) == before.field(key), key
            assert after.reader.fields[key].types == before.reader.fields[key].types, key
    assert after.field("tokenizer.chat_template") == TEMPLATE
    assert after.field("scantling.plan_sha256")


def by_llama_quantize(command: str, folder: Path) -> Path:
    words = shlex.split(command)
    words[-2] = str(folder / "theirs.gguf")
    worker = Path(__file__).parents[1] / "helpers" / ("llama_quantize_worker.py")
    subprocess.run([sys.executable, str(worker), *words], check=True, capture_output=True, cwd=folder)
    return folder / "theirs.gguf"


@needs_library
def test_llama_quantize_makes_the_same_tensors_bit_by_bit(applied, source, tmp_path):
    file, printed = applied
    theirs = open_gguf(by_llama_quantize(printed.strip().splitlines()[-1], tmp_path)).tensors
    ours = open_gguf(file).tensors
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        assert tensor.tensor_type == theirs[name].tensor_type, name
        assert np.array_equal(tensor.data, theirs[name].data), name


@needs_library
def test_llama_cpp_computes_what_the_plan_does(applied):
    result = run("check", applied[0], "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["checkpoint_bytes"] == applied[0].stat().st_size
    assert report["relative_difference"] < report["tolerance"]
    assert math.isclose(report["perplexity"], report["perplexity_in_memory"], rel_tol=0.05)


@needs_library
def test_a_file_that_computes_something_else_is_noticed(applied, tmp_path, source):
    file = tmp_path / "q.gguf"
    file.write_bytes(applied[0].read_bytes())
    with safe_open(sidecar_path(applied[0]), framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in ("token_ids", "logits")}
    save_file(tensors | {"logits": tensors["logits"].flip(1).contiguous()}, sidecar_path(file), metadata=metadata)
    assert "something else" in refusal("check", file)


@needs_library
def test_a_file_that_was_changed_or_cut_off_is_refused(applied, tmp_path):
    file = tmp_path / "q.gguf"
    whole = applied[0].read_bytes()
    file.write_bytes(whole)
    assert "beside it" in refusal("check", file)
    sidecar_path(file).write_bytes(sidecar_path(applied[0]).read_bytes())
    file.write_bytes(whole[:-40] + b"\7" + whole[-39:])
    assert "was changed" in refusal("check", file)
    file.write_bytes(whole[: len(whole) // 2])
    assert "cut off" in refusal("check", file)
    assert "cannot load" in refusal("profile", file, "-o", tmp_path / "p.safetensors")


@needs_library
def test_a_gguf_file_is_a_model_like_any_other(applied, text_file, tmp_path):
    words = ["profile", applied[0], "-o", tmp_path / "p.safetensors", "--text", text_file]
    assert run(*words, "--formats", "int4-g32,int8-row", *SMALL, "--rounding", "rtn").exit_code == 0


@needs_library
def test_types_that_do_not_fit_never_become_a_choice(tmp_path, text_file):
    path = tmp_path / "narrow.gguf"
    save_gguf(path, hidden=64, inner=256)
    words = ["profile", path, "-o", tmp_path / "p.safetensors", "--text", text_file, *SMALL]
    result = run(*words, "--formats", "Q4_K,Q4_0,Q8_0")
    assert result.exit_code == 0, result.output
    assert "Q4_K: 2 of 14 layers" in result.output
    record = read_profile(tmp_path / "p.safetensors").record
    for layer in record.layers:
        names = {record.formats[index] for index in layer.formats}
        assert ("Q4_K" in names) == (layer.kind == "mlp.down_proj")
    plan = tmp_path / "plan.json"
    assert run("solve", tmp_path / "p.safetensors", "--average-bits", 5, "-o", plan).exit_code == 0
    assert "does not fit model.layers.0.self_attn.q_proj" in refusal("compare", plan, "--uniform", "q4_k")
    save_gguf(path, hidden=64, inner=64)
    assert "Q4_K fits no layer" in refusal(*words, "--formats", "Q4_K,Q4_0,Q8_0")


@needs_library
def test_constraints_that_cannot_be_met_are_refused(tmp_path, source, text_file, plan, applied):
    words = ["profile", source, "-o", tmp_path / "p.safetensors", "--text", text_file, *SMALL]
    assert "one of the two kinds" in refusal(*words, "--formats", "Q4_0,int4-g32")
    assert "one of the two kinds" in refusal(*words, "--formats", "Q4_0,Q8_0", "--rounding", "gptq")
    assert "one of the two kinds" in refusal(*words, "--formats", "int4-g32,int8-g32", "--rounding", "ggml")
    assert "is for the rounding ggml" in refusal(*words, "--formats", "int4-g32,int8-g32", "--imatrix", applied[0])
    out = tmp_path / "q.gguf"
    assert "original inputs" in refusal("apply", plan, "--backend", "gguf", "-o", out, "--inputs", "quantized")
    assert "exists already" in refusal("apply", plan, "--backend", "gguf", "-o", applied[0])
    assert "--backend gguf" in refusal("apply", plan, "--backend", "gptq", "-o", tmp_path / "folder")
    assert "same importance matrix" in refusal(
        "apply", plan, "--backend", "gguf", "-o", out, "--emit", "llama-quantize"
    )
    assert "cannot be emitted" in refusal("apply", plan, "--backend", "gguf", "-o", out, "--emit", "ollama")
    assert "for --backend gguf" in refusal("apply", plan, "--backend", "fake", "-o", out, "--write-imatrix", out)
    assert not out.exists()


@needs_library
def test_integers_have_no_type_in_gguf(tmp_path, source, text_file):
    words = ["profile", source, "-o", tmp_path / "p.safetensors", "--text", text_file, *SMALL, "--rounding", "rtn"]
    assert run(*words, "--formats", "int4-g32,int8-g32").exit_code == 0
    assert run("solve", tmp_path / "p.safetensors", "--average-bits", 5, "-o", tmp_path / "plan.json").exit_code == 0
    assert "GGUF has no type for" in refusal(
        "apply", tmp_path / "plan.json", "--backend", "gguf", "-o", tmp_path / "q.gguf"
    )


@needs_library
def test_the_fake_backend_writes_types_of_gguf_too(plan, tmp_path):
    assert run("apply", plan, "--backend", "fake", "-o", tmp_path / "fake", "--inputs", "original").exit_code == 0


@needs_library
def test_a_tensor_that_is_not_a_number_is_refused(tmp_path, text_file):
    def spoil(name, values):
        spoilt = values.copy()
        spoilt[0, 5] = np.nan
        return spoilt

    path = tmp_path / "nan.gguf"
    save_gguf(path, change=lambda name, values: spoil(name, values) if "ffn_up" in name else values)
    assert "NaN" in refusal("profile", path, "-o", tmp_path / "p.safetensors", "--text", text_file)


# ------------------------------------------------------------------------------- importance matrices of the user's own


@needs_library
def test_a_users_importance_matrix_takes_the_place_of_the_calibrations_own(applied, source, text_file, tmp_path, plan):
    given = read_imatrix(applied[0].with_name("i.gguf"))
    other = {name: torch.rand(len(values)) + 0.1 for name, values in given.means.items()}
    other.pop("token_embd.weight")  # as llama.cpp's own tool leaves it out
    write_imatrix(tmp_path / "other.gguf", other, 64, 32, "other")
    words = ["profile", source, "-o", tmp_path / "p.safetensors", "--text", text_file, "--formats", FORMATS, *SMALL]
    assert run(*words, "--include", "embedding", "--imatrix", tmp_path / "other.gguf").exit_code == 0
    assert run("solve", tmp_path / "p.safetensors", "--average-bits", 5, "-o", tmp_path / "plan.json").exit_code == 0
    apply = ["apply", tmp_path / "plan.json", "--backend", "gguf", "--write-imatrix", tmp_path / "used.gguf", "-o"]
    assert run(*apply, tmp_path / "q.gguf").exit_code == 0
    used = read_imatrix(tmp_path / "used.gguf").means
    for name, values in used.items():
        assert torch.equal(values, other[name] if name in other else torch.ones(len(values))), name
    written = open_gguf(tmp_path / "q.gguf")
    kind = GGUF_FORMATS[written.tensors["blk.0.ffn_down.weight"].tensor_type.name]
    ours = quantize_matrix(open_gguf(source).matrix("blk.0.ffn_down.weight"), kind, other["blk.0.ffn_down.weight"])
    assert np.array_equal(written.tensors["blk.0.ffn_down.weight"].data, ours.blocks.numpy())
    write_imatrix(tmp_path / "other.gguf", other, 128, 32, "changed")
    assert "not the one that the profile was made with" in refusal(*apply, tmp_path / "again.gguf")


@needs_library
def test_an_importance_matrix_of_another_model_is_refused(tmp_path, source, text_file):
    words = ["profile", source, "-o", tmp_path / "p.safetensors", "--text", text_file, "--formats", "Q4_0,Q8_0", *SMALL]
    for name, width in (("blk.0.attn_q.weight", 256), ("blk.0.attn_q.weight", 576)):
        write_imatrix(tmp_path / "i.gguf", {name: torch.ones(width)}, 64, 32, "other")
        assert "another model" in refusal(*words, "--imatrix", tmp_path / "i.gguf")
    with pytest.raises(ScantlingError, match="there is no importance matrix"):
        rounding_named(None, ["Q4_0"], tmp_path / "missing")
    assert rounding_method({"method": "ggml"}).describe() == {"method": "ggml", "inputs": "original"}


# ------------------------------------------------------------------------------------------------------- conversion


@needs_library
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_tensors_are_read_in_any_width(tmp_path, kind):
    weight = matrix(4, 64)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    stored = weight.to(dtype)
    raw = stored.view(torch.int16).numpy() if kind == "BF16" else stored.numpy()
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("w", raw.view(np.uint8) if kind == "BF16" else raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert torch.equal(values_of(open_gguf(tmp_path / "one.gguf").tensors["w"]), stored.float())


def test_the_order_of_rows_is_found_or_refused():
    layer = Layer("q", "q", 0, 32, 8)
    weight = matrix(32, 8)
    assert row_order(layer, weight, weight.clone(), [4]) is None
    there = weight.reshape(4, 2, 4, 8).transpose(1, 2).reshape(32, 8)
    order = row_order(layer, weight, there, [2, 4])
    assert order is not None
    assert torch.equal(weight[order], there)
    for changed in (there + 1, weight.flip(0), weight[:16]):
        with pytest.raises(ScantlingError, match="not the model's own"):
            row_order(layer, weight, changed, [2, 4])


def converted_folder(folder: Path, family: str) -> Path:
    path = demo_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    config: Any = make_model(family).config
    config.vocab_size, config.hidden_size = len(tokenizer), 64
    torch.manual_seed(0)
    (LlamaForCausalLM if "llama" in family else Qwen3ForCausalLM)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama-wide", "llama-untied", "qwen3"])
def test_a_model_folder_is_converted(tmp_path, text_file, family):
    folder = converted_folder(tmp_path / "model", family)
    words = ["profile", folder, "-o", tmp_path / "p.safetensors", "--text", text_file, "--formats", "Q4_0,Q5_0,Q8_0"]
    assert run(*words, *SMALL).exit_code == 0
    assert run("solve", tmp_path / "p.safetensors", "--average-bits", 5, "-o", tmp_path / "plan.json").exit_code == 0
    result = run("apply", tmp_path / "plan.json", "--backend", "gguf", "-o", tmp_path / "q.gguf")
    assert result.exit_code == 0, result.output
    assert open_gguf(tmp_path / "q.gguf").field("tokenizer.chat_template")
    assert run("check", tmp_path / "q.gguf").exit_code == 0


@needs_library
@pytest.mark.slow
def test_an_architecture_that_the_converter_does_not_know_is_refused_with_those_that_it_does(tmp_path, text_file):
    folder = save_model(tmp_path / "model", "llama-wide")
    config = json.loads((folder / "config.json").read_text())
    words = ["profile", folder, "-o", tmp_path / "p.safetensors", "--text", text_file, "--formats", "Q4_0,Q8_0"]
    assert run(*words, *SMALL).exit_code == 0
    assert run("solve", tmp_path / "p.safetensors", "--average-bits", 5, "-o", tmp_path / "plan.json").exit_code == 0
    apply = ["apply", tmp_path / "plan.json", "--backend", "gguf", "-o", tmp_path / "q.gguf"]
    assert "pre-tokenizer" in refusal(*apply)  # the tests' tokenizer of words
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MarvinForCausalLM"]}))
    said = refusal(*apply)
    assert "MarvinForCausalLM" in said
    assert "LlamaForCausalLM" in said
    assert not (tmp_path / "q.gguf").exists()


def test_rules_gather_blocks():
    types = {f"blk.{i}.attn_q.weight": "q4_k" if i % 2 else "q8_0" for i in range(4)} | {"token_embd.weight": "q8_0"}
    assert rules(types) == [r"^blk\.(0|2)\.attn_q\.weight$=q8_0", r"^blk\.(1|3)\.attn_q\.weight$=q4_k"]


@needs_library
def test_values_of_blocks_are_those_of_the_record():
    packed = quantize_matrix(matrix(3, 64), GGUF_FORMATS["Q5_0"], None)
    again = PackedMatrix(packed.format, packed.blocks.clone())
    assert torch.equal(packed.dequantize(), again.dequantize())
