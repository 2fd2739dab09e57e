"""Codes in the blocks of GGUF types, found from the library, and GPTQ on them against a float64 reference."""

import pytest
import torch

from helpers.command_line import refusal, run
from helpers.inputs import correlated_inputs
from helpers.tiny_gguf import SMALL, needs_library, save_gguf
from scantling.common.progress import silent
from scantling.models.layers import matrix_of
from scantling.models.loading import load_model
from scantling.planning.plan import read_plan
from scantling.quantization.ggml import quantize_matrix
from scantling.quantization.gguf_codes import codes_of
from scantling.quantization.gguf_gptq import gptq_blocks
from scantling.quantization.gguf_types import GGUF_FORMATS
from scantling.quantization.gptq import GptqSettings
from scantling.sensitivity.profile import read_profile
from scantling.sensitivity.sequential_rounding import round_as_shipped

WIDTHS = {
    "Q4_0": 4,
    "Q4_1": 4,
    "Q5_0": 5,
    "Q5_1": 5,
    "Q8_0": 8,
    "Q1_0": 1,
    "TQ2_0": 2,
    "NVFP4": 4,
    "MXFP4": 4,
    "Q2_K": 2,
    "Q3_K": 3,
    "Q4_K": 4,
    "Q5_K": 5,
    "Q6_K": 6,
    "IQ4_NL": 4,
    "IQ4_XS": 4,
}
SHARED_CODES = (
    "TQ1_0",
    "IQ3_S",
    "IQ3_XXS",
)  # those of IQ1 and IQ2 as well, whose tables take the library a minute each
EQUALLY_SPACED = set(WIDTHS) - {"IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"}

pytestmark = needs_library


def values_of_codes(codes, record):
    level = torch.zeros(256)
    level[codes.words.long()] = codes.levels
    lowest, highest = codes.ends(record)
    return lowest, highest, level


@pytest.mark.parametrize("name", WIDTHS)
def test_codes_and_scales_give_the_values(name):
    target = GGUF_FORMATS[name]
    codes = codes_of(target)
    assert codes is not None
    assert codes.bits.shape == (target.block_weights, WIDTHS[name])
    assert len(codes.bits.unique()) == codes.bits.numel()
    torch.manual_seed(0)
    record = quantize_matrix(torch.randn(5, 768), target, torch.rand(768) + 0.1)
    words = codes.read(record)
    lowest, highest, level = values_of_codes(codes, record)
    expected = record.dequantize()
    found = lowest + (highest - lowest) * level[words.long()]
    assert torch.allclose(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", WIDTHS)
def test_codes_that_are_written_read_back_and_scales_stay(name):
    target = GGUF_FORMATS[name]
    codes = codes_of(target)
    assert codes is not None
    torch.manual_seed(1)
    record = quantize_matrix(torch.randn(70, 512), target, torch.ones(512))
    assert torch.equal(codes.write(record, codes.read(record)).blocks, record.blocks)
    words = codes.words[torch.randint(len(codes.words), (70, 512))]
    other = codes.write(record, words)
    assert torch.equal(codes.read(other), words)
    for before, after in zip(codes.ends(record), codes.ends(other), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", sorted(EQUALLY_SPACED))
def test_levels_of_plain_types_are_equally_spaced(name):
    codes = codes_of(GGUF_FORMATS[name])
    assert codes is not None
    assert torch.allclose(codes.levels, torch.linspace(0, 1, len(codes.levels)), atol=1e-6)


def test_a_code_that_the_library_never_writes_is_not_used():
    codes = codes_of(GGUF_FORMATS["Q8_0"])
    assert codes is not None
    assert len(codes.words) == 255
    assert 128 not in codes.words.tolist()  # −128


@pytest.mark.parametrize("name", SHARED_CODES)
def test_types_with_codes_for_several_weights_are_rounded_by_the_library(name):
    target = GGUF_FORMATS[name]
    assert codes_of(target) is None
    inputs = correlated_inputs(600, 256)
    hessian = inputs.t() @ inputs / 600
    weight = torch.randn(6, 256)
    [[ours]] = gptq_blocks([weight], hessian, [target], GptqSettings())
    assert torch.equal(ours.blocks, quantize_matrix(weight, target, hessian.diagonal().contiguous()).blocks)


def reference(weight, hessian, target, settings):
    """GPTQ column by column, recomputing the inverse of the rest and trying every code of a weight, in float64."""
    codes = codes_of(target)
    assert codes is not None
    plain = quantize_matrix(weight, target, hessian.diagonal().float().contiguous())
    every = torch.stack([codes.write(plain, word.expand(weight.shape)).dequantize() for word in codes.words]).double()
    damped = hessian.double() + settings.damping * hessian.double().diagonal().mean() * torch.eye(len(hessian))
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist()
    work, rounded = weight.double().clone(), torch.zeros_like(weight)
    for position, j in enumerate(order):
        nearest = (every[:, :, j] - work[:, j]).abs().argmin(0)
        value = every[nearest, torch.arange(len(weight)), j]
        rounded[:, j] = value.float()
        rest = order[position:]
        inverse = torch.linalg.inv(damped[rest][:, rest])
        work[:, rest] -= ((work[:, j] - value) / inverse[0, 0]).unsqueeze(1) * inverse[0].unsqueeze(0)
    return rounded


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q6_K", "IQ4_XS"])
def test_values_match_the_definition(name):
    target, settings = GGUF_FORMATS[name], GptqSettings(0.01)
    inputs = correlated_inputs(900, 256)
    hessian = inputs.t() @ inputs / 900
    torch.manual_seed(2)
    matrices = [torch.randn(12, 256), torch.randn(7, 256)]
    for weight, [ours] in zip(matrices, gptq_blocks(matrices, hessian, [target], settings), strict=True):
        same = (ours.dequantize() == reference(weight, hessian, target, settings)).float().mean()
        assert same > 0.98  # a tie may fall the other way in float32, and moves what follows in its row


@pytest.mark.parametrize("name", WIDTHS)
def test_the_output_error_is_below_that_of_the_library_s_rounding(name):
    target = GGUF_FORMATS[name]
    inputs = correlated_inputs(2000, 256)
    hessian = inputs.t() @ inputs / 2000
    torch.manual_seed(3)
    weight = torch.randn(32, 256)
    [[ours]] = gptq_blocks([weight], hessian, [target], GptqSettings())
    plain = quantize_matrix(weight, target, hessian.diagonal().contiguous())

    def error(rounded):
        return ((rounded.dequantize() - weight) @ inputs.t()).square().mean()

    assert error(ours) < 0.8 * error(plain)
    assert ours.blocks.shape == plain.blocks.shape


def test_zero_blocks_and_dead_inputs_are_rounded():
    inputs = correlated_inputs(500, 256)
    inputs[:, [3, 17]] = 0
    weight = torch.randn(8, 256)
    weight[2] = 0
    for name in ("Q4_0", "Q4_K", "Q8_0"):
        [[ours]] = gptq_blocks([weight], inputs.t() @ inputs / 500, [GGUF_FORMATS[name]], GptqSettings())
        assert torch.isfinite(ours.dequantize()).all()
        assert torch.equal(ours.dequantize()[2], torch.zeros(256))


def test_a_ggml_gptq_plan_is_written_and_checked_but_has_no_llama_quantize_command(tmp_path, text_file):
    source, profile = tmp_path / "tiny.gguf", tmp_path / "p.safetensors"
    save_gguf(source)
    words = ["profile", source, "-o", profile, "--text", text_file, "--formats", "Q2_K,IQ3_S,q5_0,Q8_0,float16"]
    result = run(*words, "--include", "embedding", *SMALL)
    assert result.exit_code == 0, result.output
    assert "IQ3_S: rounded as by ggml" in result.output
    assert "Q2_K: rounded as by ggml" not in result.output
    assert read_profile(profile).record.rounding["method"] == "ggml+gptq"
    plan, out = tmp_path / "plan.json", tmp_path / "q.gguf"
    assert run("solve", profile, "--average-bits", 5, "-o", plan).exit_code == 0
    words = ["apply", plan, "--backend", "gguf", "-o", out]
    assert "which llama-quantize does not know" in refusal(
        *words, "--write-imatrix", tmp_path / "i.gguf", "--emit", "llama-quantize"
    )
    assert not out.exists()
    assert run(*words).exit_code == 0
    loaded, formats = load_model(str(source)), read_plan(plan).formats()
    rounded = round_as_shipped(loaded, read_profile(profile), {"plan": formats}, "original", silent)["plan"]
    read_back = load_model(str(out)).model
    for layer, record in rounded.items():
        assert torch.equal(matrix_of(read_back.get_submodule(layer)), record.dequantize()), layer
    assert run("check", out).exit_code == 0


def test_ggml_gptq_takes_no_importance_matrix(tmp_path, text_file):
    source = tmp_path / "tiny.gguf"
    save_gguf(source)
    words = ["profile", source, "-o", tmp_path / "p.safetensors", "--text", text_file, "--formats", "Q4_0,Q8_0"]
    message = refusal(*words, "--rounding", "ggml+gptq", "--imatrix", source)
    assert "--imatrix is for the rounding ggml" in message
