"""Packed bits: against an unpacker written from the documented layouts, and against GPTQModel's own packing."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import python_with
from scantling.backends.bit_packing import num_words, pack_rows, unpack_rows
from scantling.backends.bit_planes import pack_planes, unpack_planes
from scantling.backends.compressed_tensors import PackQuantizedBackend
from scantling.backends.folder_format import FormattedLayer
from scantling.backends.gptq_layout import GptqLayout
from scantling.models.layers import Layer
from scantling.quantization.formats import INTEGER_BITS, IntegerFormat
from scantling.quantization.grid import RoundedMatrix
from scantling.quantization.round_to_nearest import round_to_nearest

PLANES = {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 8: [8]}


def read_stream(words, bits, num_codes):
    """One Python integer of all words, the first lowest; code i is its bits i·b … (i+1)·b − 1."""
    whole = sum((int(word) & 0xFFFFFFFF) << (32 * k) for k, word in enumerate(words))
    return [(whole >> (i * bits)) & (2**bits - 1) for i in range(num_codes)]


def read_planes(words, bits, num_codes):
    codes = []
    for run in range(num_codes // 32):
        words_of_run = words[run * bits : (run + 1) * bits]
        values, offset, first = [0] * 32, 0, 0
        for width in PLANES[bits]:
            plane = read_stream(words_of_run[first : first + width], width, 32)
            values = [value | (high << offset) for value, high in zip(values, plane, strict=True)]
            offset, first = offset + width, first + width
        codes += values
    return codes


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from(INTEGER_BITS), rows=st.integers(1, 4), num_codes=st.integers(1, 131), seed=st.integers(0, 99)
)
def test_the_stream_is_that_of_the_documented_layout(bits, rows, num_codes, seed):
    codes = torch.randint(0, 2**bits, (rows, num_codes), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    packed = pack_rows(codes, bits)
    assert packed.shape == (rows, num_words(num_codes, bits))
    assert [read_stream(row, bits, num_codes) for row in packed.tolist()] == codes.tolist()
    used = num_codes * bits
    assert all(
        sum((int(w) & 0xFFFFFFFF) << (32 * k) for k, w in enumerate(row)) >> used == 0 for row in packed.tolist()
    )
    assert torch.equal(unpack_rows(packed, bits, num_codes), codes)


@pytest.mark.parametrize("bits", INTEGER_BITS)
def test_the_planes_are_those_of_the_documented_layout(bits):
    codes = torch.randint(0, 2**bits, (3, 96), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    packed = pack_planes(codes, bits)
    assert [read_planes(row, bits, 96) for row in packed.tolist()] == codes.tolist()
    assert torch.equal(unpack_planes(packed, bits, 96), codes)
    if bits in {2, 4, 8}:
        assert torch.equal(packed, pack_rows(codes, bits))


def a_matrix(out_features, in_features, seed=0):
    """Random weights of all sizes, with rows and groups that are all zero, all positive or all negative."""
    torch.manual_seed(seed)
    weight = torch.randn(out_features, in_features) * torch.logspace(-4, 1, out_features).unsqueeze(1)
    weight[0] = 0
    weight[1, :32] = 0
    weight[2] = weight[2].abs()
    weight[3] = -weight[3].abs()
    return weight


LAYOUTS = {
    "gptq": GptqLayout(zero_offset=1),
    "gptq_v2": GptqLayout(),
    "gptq_p": GptqLayout(planar=True),
}


SHAPES = [
    (group, shape)
    for group in (32, 64, None)
    for shape in ((32, 128), (7, 192), (33, 45))
    if shape[1] % (group or 1) == 0
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", INTEGER_BITS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("group", "shape"), SHAPES)
def test_a_gptq_layer_gives_back_what_was_rounded(layout, bits, symmetric, group, shape):
    if layout == "gptq_p" and (shape[0] % 32 or shape[1] % 32):
        shape = (32, 192)  # planes are for whole runs of 32
    target, variant = IntegerFormat(bits, group, symmetric), LAYOUTS[layout]
    record = round_to_nearest(a_matrix(*shape), target)
    tensors = variant.pack(record)
    specs = variant.specs(target, *shape)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} == {
        name: (spec.dtype, spec.shape) for name, spec in specs.items()
    }
    back = variant.unpack(tensors, target, *shape)
    assert torch.equal(back.codes, record.codes)
    assert torch.equal(back.zeros, record.zeros)
    assert torch.equal(back.dequantize(), record.dequantize())

    read = read_planes if layout == "gptq_p" else read_stream  # from the documented layout, with no code of ours
    codes = torch.tensor([read(column, bits, shape[1]) for column in tensors["qweight"].t().tolist()])
    zeros = torch.tensor([read(row, bits, shape[0]) for row in tensors["qzeros"].tolist()]).t()
    zeros = (zeros + variant.zero_offset) % 2**bits
    groups = tensors["g_idx"].long()
    weight = tensors["scales"].t().float()[:, groups] * (codes - zeros[:, groups])
    assert torch.equal(weight, record.dequantize())


@pytest.mark.parametrize("bits", INTEGER_BITS)
@pytest.mark.parametrize(("group", "shape"), [*SHAPES, (128, (7, 384))])
def test_a_compressed_tensors_layer_gives_back_what_was_rounded(bits, group, shape):
    pytest.importorskip("compressed_tensors", reason="install scantling[compressed-tensors]")
    target, backend = IntegerFormat(bits, group, symmetric=True), PackQuantizedBackend()
    record = round_to_nearest(a_matrix(*shape), target)
    formatted = FormattedLayer(Layer("layer", "layer", 0, *shape), target)
    tensors = backend.pack(formatted, record, [])
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} == {
        name: (spec.dtype, spec.shape) for name, spec in backend.specs(formatted, []).items()
    }
    back = backend.unpack(formatted, tensors, [])
    assert isinstance(back, RoundedMatrix)
    assert torch.equal(back.codes, record.codes)
    assert torch.equal(back.dequantize(), record.dequantize())
    codes = torch.tensor([read_stream(row, bits, shape[1]) for row in tensors["weight_packed"].tolist()])
    assert torch.equal(codes, record.codes.long())  # the library stores q − 2^(b−1) with that offset added again


CASES = [
    (bits, group, symmetric, shape, planar)
    for bits in INTEGER_BITS
    for group in (32, 64, 128, -1)
    for symmetric in (False, True)
    for shape in ((32, 128), (64, 384), (40, 160), (33, 52))
    for planar in (False, True)
    if (group == -1 or shape[1] % group == 0)
    and (planar or bits not in {5, 6})
    and not (shape[0] % 32 and (planar or bits == 3))
    and not (shape[1] % 32 and (planar or bits == 3))
]


def test_the_packed_bits_are_those_of_gptqmodel(tmp_path, request):
    python = python_with("gptqmodel", request.config)
    arrays, records = {"num_cases": np.array(len(CASES))}, []
    for i, (bits, group, symmetric, shape, planar) in enumerate(CASES):
        target = IntegerFormat(bits, None if group == -1 else group, symmetric)
        record = round_to_nearest(a_matrix(*shape, seed=i), target)
        records.append((record, GptqLayout(planar).pack(record)))
        arrays |= {f"{name}_{i}": tensor.numpy() for name, tensor in records[-1][1].items()}
        arrays |= {f"codes_{i}": record.codes.numpy(), f"zeros_{i}": record.zeros.numpy()}
        arrays |= {f"bits_{i}": np.array(bits), f"group_{i}": np.array(group), f"planar_{i}": np.array(int(planar))}
        arrays[f"row_scales_{i}"] = record.scales.numpy()
    np.savez(tmp_path / "ours.npz", **arrays)  # pyright: ignore[reportArgumentType]
    script = Path(__file__).parents[1] / "helpers" / ("pack_with_gptqmodel.py")
    done = subprocess.run(
        [python, script, tmp_path / "ours.npz", tmp_path / "theirs.npz"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "TORCHDYNAMO_DISABLE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = np.load(tmp_path / "theirs.npz")
    for i, ((record, tensors), case) in enumerate(zip(records, CASES, strict=True)):
        for name in ("qweight", "qzeros", "scales", "g_idx"):
            assert np.array_equal(theirs[f"{name}_{i}"], tensors[name].numpy()), (name, case)
        by_kernel = torch.from_numpy(theirs[f"weight_{i}"]).t()
        assert torch.allclose(by_kernel, record.dequantize(), rtol=2**-10, atol=1e-7), case
