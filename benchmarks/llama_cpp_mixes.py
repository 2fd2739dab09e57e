"""Plans beside llama.cpp's own mixes at the mixes' exact sizes, both measured in llama.cpp: KL, bytes, tokens/s.

Importance from 16 × 512 tokens of the Wikipedia excerpt, the same for plans and mixes; prices on 16 × 512 others;
measured on 8 × 512 of the part kept for evaluation. The reference of every KL is the source in 16 bits. The plans are
rounded by ``ggml``, as the mixes are, and by ``ggml+gptq``.

    python benchmarks/llama_cpp_mixes.py FOLDER                          # the demo model → results/gguf.md
    python benchmarks/second_model.py OTHER/model --gguf OTHER/source.gguf
    python benchmarks/llama_cpp_mixes.py OTHER --results gguf_second.md  # widths of 256 → results/gguf_second.md

Where FOLDER has a source.gguf, that is the model. Every piece is kept in FOLDER, so a stopped run goes on.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from gguf import GGMLQuantizationType

from scantling.backends.check import check_checkpoint
from scantling.backends.engine_worker import LlamaCppEngine
from scantling.backends.gguf.layout import fill_header, fill_tensor, lay_out_gguf
from scantling.backends.gguf.source import open_gguf, values_of
from scantling.backends.write import apply_plan
from scantling.backends.writer import ApplySettings
from scantling.common.files import file_sha256
from scantling.common.progress import silent
from scantling.evaluation.compare import EvaluationSettings, evaluation_sequences
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.planning.plan import write_plan
from scantling.planning.program import Program
from scantling.planning.solve import solve
from scantling.sensitivity.profile import ProfileOrigin, read_profile, uniform_formats
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

RESULTS = Path(__file__).parent / "results"
WORKER = Path(__file__).parents[1] / "tests" / "llama_quantize_worker.py"
MIXES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M")
FORMATS = "MXFP4,IQ4_NL,Q4_1,Q5_0,Q5_1,Q8_0,Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,IQ4_XS,IQ3_S,IQ2_S,float16"
STEP_OFFSETS = {
    "Q4_1": (0, 20, 32),
    "Q8_0": (0, 34, 32),
}  # where a block keeps its float16 step, its bytes, its weights
NEW_TOKENS = 48
PROFILES = {"plan": "profile", "plan-gptq": "profile-gptq"}  # what plans of a kind are solved from
ROUNDINGS = {"plan": "ggml", "plan-gptq": "ggml+gptq"}
NAMES = {"plan": "plan", "plan-gptq": "plan, ggml+gptq"}
OFF_GRID = """\
The demo model's weights lie on the grid of Q4_1, where Q5_1 is exact and Q4_K almost: types could be compared on it by
accident only. So its grid is taken away first: to every weight is added noise, uniform over the step of its block, as
the first rounding had done once."""


def make_source(folder: Path) -> None:
    """Take the demo model off its grid.

    Args:
        folder: for the file.
    """
    original = open_gguf(demo_model_path())
    float16 = {name: GGMLQuantizationType.F16 for name, tensor in original.tensors.items() if len(tensor.shape) > 1}
    layout = lay_out_gguf(original, float16, frozenset(), {})
    generator = torch.Generator().manual_seed(0)
    partial = folder / "source.partial"
    with partial.open("wb") as opened:
        fill_header(layout, opened)
        for name, tensor in original.tensors.items():
            values = values_of(tensor)
            if name in float16:
                offset, block_bytes, block_weights = STEP_OFFSETS[tensor.tensor_type.name]
                blocks = np.array(tensor.data).reshape(-1, block_bytes)
                steps = blocks[:, offset : offset + 2].copy().view(np.float16).astype(np.float32)
                step = torch.from_numpy(np.abs(steps)).repeat_interleave(block_weights, 1).reshape(values.shape)
                values = (values + (torch.rand(values.shape, generator=generator) - 0.5) * step).half()
            fill_tensor(layout, opened, name, values.numpy())
    (folder / "source.md").write_text(OFF_GRID)
    partial.rename(folder / "source.gguf")


def profile(folder: Path, kind: str) -> None:
    """Profile it by the command line.

    Args:
        folder: has the model.
        kind: of plans.
    """
    words = [
        sys.executable,
        "-m",
        "scantling",
        "profile",
        str(folder / "source.gguf"),
        "-o",
        str(folder / f"{PROFILES[kind]}.safetensors"),
    ]
    words += ["--text", "wikipedia", "--formats", FORMATS, "--include", "embedding", "--estimator", "fisher-token"]
    words += ["--rounding", ROUNDINGS[kind]]
    subprocess.run([*words, "--pricing-sequences", "16", "--label-draws", "1"], check=True)


def tensor_bytes(path: Path) -> int:
    """Add up a file's tensors.

    Args:
        path: of a GGUF file.

    Returns:
        Bytes without padding and metadata.
    """
    return sum(int(tensor.n_bytes) for tensor in open_gguf(path).tensors.values())


def make_plan(folder: Path, kind: str, name: str, budget_bytes: int | None) -> None:
    """Solve and write a plan of at most so many bytes.

    Args:
        folder: has the model and its profile.
        kind: of plans.
        name: of the files.
        budget_bytes: of all tensors; None for those of uniform Q8_0.
    """
    path = folder / f"{PROFILES[kind]}.safetensors"
    read = read_profile(path)
    wanted = read.stored_bytes(uniform_formats(read, "Q8_0")) if budget_bytes is None else budget_bytes
    program = Program(read).limit("memory", at_most=f"{wanted}B")
    if budget_bytes is None:
        program = program.allow("*", ["Q8_0"])
    instance = program.instance()
    plan = solve(read, ProfileOrigin(path, file_sha256(path)), instance, CpSatSolver(), SolverSettings())
    write_plan(plan, folder / f"{name}.plan.json")
    loaded = load_model(str(folder / "source.gguf"))
    settings = ApplySettings("gguf", write_imatrix=folder / "imatrix.gguf" if kind == "plan" else None)
    apply_plan(loaded, read, plan, settings, folder / f"{name}.gguf", silent)


def quantize(folder: Path, mix: str, out: Path) -> None:
    """Let llama.cpp make a mix.

    Args:
        folder: has the model and its importance matrix.
        mix: its name.
        out: the file.
    """
    partial = out.with_suffix(".partial")
    words = [sys.executable, str(WORKER), "llama-quantize", "--imatrix", str(folder / "imatrix.gguf")]
    subprocess.run([*words, str(folder / "source.gguf"), str(partial), mix], check=True, capture_output=True)
    partial.rename(out)


def mixes(folder: Path) -> None:
    """Make the mixes, and plans of each one's size.

    Args:
        folder: has the profile.
    """
    if not (folder / "imatrix.gguf").exists():
        make_plan(folder, "plan", "first", None)  # any plan that quantizes everything has the whole importance matrix
    for mix in MIXES:
        out = folder / f"mix-{mix}.gguf"
        if not out.exists():
            quantize(folder, mix, out)
        for kind in PROFILES:
            if not (folder / f"{kind}-{mix}.gguf").exists():
                make_plan(folder, kind, f"{kind}-{mix}", tensor_bytes(out))


def log_probabilities(engine: LlamaCppEngine, sequences: np.ndarray) -> Iterator[np.ndarray]:
    """Give log p of every next token, sequence by sequence."""
    return (engine.log_probabilities(sequence.tolist()) for sequence in sequences)


def measure_one(folder: Path, name: str, sequences: np.ndarray) -> dict[str, Any]:
    """Measure a file against the reference.

    Args:
        folder: has it.
        name: of it.
        sequences: token ids.

    Returns:
        KL and negative log-likelihood by sequence, tokens/s.
    """
    engine = LlamaCppEngine(str(folder / f"{name}.gguf"), "", sequences.shape[1] + NEW_TOKENS)
    reference = folder / "reference.npy"
    if name == "source":
        shape = (*sequences.shape, engine.llm.n_vocab())
        kept = np.lib.format.open_memmap(reference.with_suffix(".partial"), "w+", np.float32, shape)
        for index, found in enumerate(log_probabilities(engine, sequences)):
            kept[index] = found
        del kept
        reference.with_suffix(".partial").rename(reference)
    original = np.load(reference, mmap_mode="r")
    divergences, losses = [], []
    for index, found in enumerate(log_probabilities(engine, sequences)):
        true = np.asarray(original[index], dtype=np.float64)
        divergences.append(float((np.exp(true) * (true - found)).sum(1).mean()))
        losses.append(float(-found[np.arange(len(found) - 1), sequences[index, 1:]].mean(dtype=np.float64)))
    return {"kl_nats": divergences, "loss_nats": losses}


def speed(folder: Path, name: str) -> float:
    """Decode one thread's tokens.

    Args:
        folder: has the file.
        name: of it.

    Returns:
        Tokens per second, the best of three.
    """
    llm = llama_cpp.Llama(str(folder / f"{name}.gguf"), n_ctx=256, n_threads=1, verbose=False)
    best = 0.0
    for _ in range(3):
        llm.reset()
        llm.eval([1])
        start = time.perf_counter()
        for token in range(NEW_TOKENS):
            llm.eval([100 + token])
        best = max(best, NEW_TOKENS / (time.perf_counter() - start))
    return best


def measure(folder: Path) -> None:
    """Measure every file that was not measured yet.

    Args:
        folder: has them.
    """
    read = read_profile(folder / "profile.safetensors")
    kept = folder / "sequences.npy"
    if not kept.exists():
        loaded = load_model(str(folder / "source.gguf"))
        settings = EvaluationSettings(sequence_length=read.record.sequence_length)
        np.save(kept, evaluation_sequences(loaded, read, settings)[1].numpy())
    sequences = np.load(kept)
    for name in ("source", *(f"{kind}-{mix}" for mix in MIXES for kind in ("mix", *PROFILES))):
        out = folder / f"{name}.json"
        if out.exists() or not (folder / f"{name}.gguf").exists():
            continue
        found = measure_one(folder, name, sequences) | {"tokens_per_second": speed(folder, name)}
        if name.startswith("plan"):
            found["check"] = check_checkpoint(folder / f"{name}.gguf").model_dump()
        out.write_text(json.dumps(found))
        print(name, np.mean(found["kl_nats"]), flush=True)


def row(folder: Path, mix: str, kind: str) -> tuple[dict[str, Any], str]:
    """Write a line of the table.

    Args:
        folder: has what was measured.
        mix: the mix.
        kind: ``mix``, or of plans.

    Returns:
        What was measured, and the line.
    """
    name = f"{kind}-{mix}"
    found = json.loads((folder / f"{name}.json").read_text())
    kl = np.array(found["kl_nats"])
    predicted = "–"
    if kind in PROFILES:
        plan = json.loads((folder / f"{name}.plan.json").read_text())
        predicted = f"{plan['loss_increase_nats']:.3g}"
    path = folder / f"{name}.gguf"
    return found, (
        f"| {NAMES.get(kind, mix)} | {tensor_bytes(path):,} | {path.stat().st_size:,} | {predicted} "
        f"| {kl.mean():.3g} ± {kl.std(ddof=1) / math.sqrt(len(kl)):.2g} | {math.exp(np.mean(found['loss_nats'])):.2f} "
        f"| {found['tokens_per_second']:.1f} |"
    )


def report(folder: Path, out: Path) -> None:
    """Write the table.

    Args:
        folder: has what was measured.
        out: the page.
    """
    source = json.loads((folder / "source.json").read_text())
    lines = [
        "| | bytes of tensors | bytes of file | predicted KL | KL in llama.cpp | perplexity | tokens/s, one thread |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios: dict[str, list[str]] = {kind: [] for kind in PROFILES}
    distances: dict[str, list[str]] = {kind: [] for kind in PROFILES}
    for mix in MIXES:
        theirs, line = row(folder, mix, "mix")
        lines.append(line)
        for kind in PROFILES:
            ours, our_line = row(folder, mix, kind)
            ratio = np.mean(ours["kl_nats"]) / np.mean(theirs["kl_nats"])
            paired = np.array(ours["kl_nats"]) / np.array(theirs["kl_nats"])
            ratios[kind].append(f"{mix} {ratio:.2f} (by sequence {paired.min():.2f} to {paired.max():.2f})")
            check = ours["check"]
            distances[kind].append(
                f"{mix} {check['relative_difference']:.3f} of the spread, perplexity {check['perplexity']:.3f} against "
                f"{check['perplexity_in_memory']:.3f}"
            )
            lines.append(our_line)
    heading, setup, *_ = (__doc__ or "").split("\n\n")
    parameters = sum(int(np.prod(tensor.shape)) for tensor in open_gguf(folder / "source.gguf").tensors.values())
    note = folder / "source.md"
    about = note.read_text() if note.exists() else "The model was trained by `second_model.py`."
    text = f"{heading}\n\n{setup}\n\n{about} It has {parameters / 1e6:.1f} million weights."
    out.write_text(
        f"# GGUF\n\n{text}\n\nPerplexity of the reference: {math.exp(np.mean(source['loss_nats'])):.2f}, "
        f"{source['tokens_per_second']:.1f} tokens/s.\n\n"
        + "\n".join(lines)
        + "\n\nKL over that of the mix:\n\n"
        + "\n".join(f"- {NAMES[kind]}: {'; '.join(ratios[kind])}." for kind in PROFILES)
        + "\n\nllama.cpp beside the plan in memory, on 256 tokens:\n\n"
        + "\n".join(f"- {NAMES[kind]}: {'; '.join(distances[kind])}." for kind in PROFILES)
        + "\n\n"
        f"{os.cpu_count()} processors, llama-cpp-python {llama_cpp.__version__}.\n"
    )


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", default="gguf.md")
    arguments = parser.parse_args()
    folder = arguments.folder
    torch.set_num_threads(os.cpu_count() or 1)
    if not (folder / "source.gguf").exists():
        make_source(folder)
    for kind, name in PROFILES.items():
        if not (folder / f"{name}.safetensors").exists():
            profile(folder, kind)
    mixes(folder)
    measure(folder)
    report(folder, RESULTS / arguments.results)


if __name__ == "__main__":
    main()
