"""Rounding methods: the name and the settings that follow from a scaling and a coder, and what they make."""

import pytest
import torch

from helpers.inputs import correlated_inputs
from scantling.common.errors import InputError
from scantling.quantization.awq import AwqSettings
from scantling.quantization.formats import IntegerFormat, parse_format
from scantling.quantization.gguf_rounding import Ggml, GgmlGptq
from scantling.quantization.gptq import GptqSettings, gptq
from scantling.quantization.methods import (
    Gptq,
    RoundingMethod,
    RoundToNearest,
    round_matrices,
    rounding_method,
    validate_families,
)
from scantling.quantization.round_to_nearest import round_to_nearest

METHODS = {
    "rtn": RoundingMethod(RoundToNearest()),
    "gptq": RoundingMethod(Gptq(0.1, activation_order=False)),
    "awq": RoundingMethod(RoundToNearest(), AwqSettings(5, 3)),
    "awq+gptq": RoundingMethod(Gptq(0.2), AwqSettings(6, 8)),
    "ggml": RoundingMethod(Ggml("/here/imatrix.gguf", "0" * 64)),
    "ggml+gptq": RoundingMethod(GgmlGptq(0.3)),
}
TARGET = IntegerFormat(3, 32)
FORMATS = [TARGET, *map(parse_format, ("bfloat16", "int4-row-sym"))]


def some_layer():
    torch.manual_seed(0)
    inputs = correlated_inputs(500, 64)
    return [torch.randn(6, 64), torch.randn(9, 64)], inputs.t() @ inputs / 500


def same(one, other):
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("codes", "scales", "zeros"))


@pytest.mark.parametrize("name", METHODS)
def test_a_description_gives_its_method_back(name):
    method = METHODS[name]
    assert method.name == method.describe()["method"] == name
    assert rounding_method(method.describe()) == method
    assert rounding_method({"method": name}).name == name


def test_whole_settings_that_json_made_decimal_are_whole_again():
    method = rounding_method({"method": "awq+gptq", "num_steps": 6.0, "widest_bits": 8.0, "damping": 1})
    assert repr(method.input_scaling) == "AwqSettings(num_steps=6, widest_bits=8)"
    assert method.coder == Gptq(1.0)


@pytest.mark.parametrize(("name", "setting"), [("rtn", "damping"), ("gptq", "num_steps"), ("awq", "activation_order")])
def test_a_setting_of_another_method_is_refused(name, setting):
    with pytest.raises(InputError, match=rf"'{name}' has no setting '{setting}'. It has: "):
        rounding_method({"method": name, setting: 1})


@pytest.mark.parametrize("name", ["awq+ggml", "GPTQ", "", None])
def test_an_unknown_method_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match=r"Known: awq, awq\+gptq, ggml, ggml\+gptq, gptq, rtn"):
        rounding_method({"method": name})


@pytest.mark.parametrize("coder", [Ggml(), GgmlGptq()])
def test_awq_scales_inputs_for_integers_only(coder):
    with pytest.raises(InputError, match="integer formats only"):
        RoundingMethod(coder, AwqSettings())


@pytest.mark.parametrize("name", METHODS)
def test_formats_of_the_other_kind_are_refused(name):
    other = parse_format("int4-g64" if "ggml" in name else "Q4_K")
    with pytest.raises(InputError, match=f"cannot make {other.name}"):
        validate_families(METHODS[name], [parse_format("float16"), other])


def test_every_matrix_has_a_record_of_every_format():
    matrices, hessian = some_layer()
    for name in ("rtn", "gptq", "awq", "awq+gptq"):
        for matrix, records in zip(matrices, round_matrices(METHODS[name], matrices, hessian, FORMATS), strict=True):
            assert set(records) == set(FORMATS)
            assert all(record.dequantize().shape == matrix.shape for record in records.values())
            assert torch.equal(records[FORMATS[1]].dequantize(), matrix.bfloat16().float())


def test_only_after_a_scaling_does_round_to_nearest_weight_the_inputs():
    matrices, hessian = some_layer()
    for name, importance in (("rtn", None), ("awq", hessian.diagonal().float())):
        for matrix, records in zip(matrices, round_matrices(METHODS[name], matrices, hessian, [TARGET]), strict=True):
            expected = round_to_nearest(matrix, TARGET, importance)
            assert same(records[TARGET], expected)


def test_gptq_s_settings_reach_it_with_and_without_a_scaling():
    matrices, hessian = some_layer()
    for name, settings in (("gptq", GptqSettings(0.1, activation_order=False)), ("awq+gptq", GptqSettings(0.2))):
        found = round_matrices(METHODS[name], matrices, hessian, [TARGET])
        for records, [expected] in zip(found, gptq(matrices, hessian, [TARGET], settings), strict=True):
            assert same(records[TARGET], expected)


def test_inputs_that_are_not_numbers_matter_only_to_methods_that_look_at_them():
    matrices, hessian = some_layer()
    hessian[0, 0] = torch.nan
    assert len(round_matrices(METHODS["rtn"], matrices, hessian, FORMATS)) == 2
    assert not METHODS["rtn"].needs_hessian
    assert all(METHODS[name].needs_hessian for name in METHODS if name != "rtn")
