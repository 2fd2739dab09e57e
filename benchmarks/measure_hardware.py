"""Decode speed of the demo model on this machine, predicted and measured, by llama.cpp and by torch.

    python benchmarks/measure_hardware.py FOLDER [SECONDS]

The demo's GGUF file is turned into several types by llama.cpp itself, and each is cut to a third and two thirds of its
blocks; the law fitted to the cut files predicts the whole ones. FOLDER takes the files, about 1.5 GB, and those that
stand there are used again; a run takes SECONDS, 8 when nothing is said. llama.cpp is used where llama-cpp-python is
installed, torch always. Results go to results/measure_hardware.md.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from our_command import command

from scantling.hardware.llama_cpp_runtime import gguf_contents, llama_cpp_is_here
from scantling.models.demo_model import demo_model_path

RESULTS = Path(__file__).parent / "results" / "measure_hardware.md"
TYPES = ("F16", "Q8_0", "Q5_1", "Q4_0")
SHARES = (1 / 3, 2 / 3)


def quantized(source: Path, folder: Path, type_name: str) -> Path:
    """Turn a GGUF file into another type by llama.cpp's own function."""
    import llama_cpp  # noqa: PLC0415 - an engine that many do not have

    path = folder / f"demo-{type_name}.gguf"
    if path.exists():
        return path
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type_name}")
    params.allow_requantize = True
    params.nthread = 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.pointer(params)):
        sys.exit(f"llama.cpp could not write {path}")
    return path


def cut(source: Path, num_blocks: int) -> Path:
    """Copy a GGUF file with its first blocks alone."""
    path = source.with_name(f"{source.stem}-{num_blocks}.gguf")
    if path.exists():
        return path
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = num_blocks if name == f"{architecture}.block_count" else field.contents()
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], inner)
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if parts[0] != "blk" or int(parts[1]) < num_blocks:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def measured(folder: Path, name: str, seconds: str, words: list[str]) -> dict[str, Any]:
    """Run the command in a process of its own."""
    printed = command("hardware", "measure", "-o", str(folder / f"{name}.csv"), "--json", "--seconds", seconds, *words)
    measured_run: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return measured_run


def table(told: dict[str, Any]) -> list[str]:
    """Write one runtime's runs as Markdown."""
    lines = ["", f"## {told['engine']}", ""]
    lines += [f"Memory read at {told['read_bytes_per_second'] / 1e9:.1f} GB/s at best (measured)."]
    lines += ["", "| format | blocks | MB read a token | measured tok/s | in the median | predicted tok/s | error |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for run in told["runs"]:
        ours = run["predicted_tokens_per_second"]
        end = "| | |" if ours is None else f"| {ours:.1f} | {ours / run['measured_tokens_per_second'] - 1:+.1%} |"
        lines.append(
            f"| {run['format']} | {run['num_blocks']} | {run['read_bytes'] / 1e6:.1f} | "
            f"{run['measured_tokens_per_second']:.1f} | {run['median_tokens_per_second']:.1f} {end}"
        )
    return [*lines, "", *told["not_read"], told["law_not_tested"]]


def main(folder: Path, seconds: str = "8") -> None:
    """Measure and write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Decode on the machine at hand",
        "",
        "`python benchmarks/measure_hardware.py FOLDER`; SmolLM2-135M, one thread,",
    ]
    lines += [
        f"at least {seconds} s a run. Predicted: η of each format and one t0, fitted to the files cut to",
        "a third and two thirds of the blocks, applied to the whole ones, which the fit did not see. Measured is the",
        "speed of the least disturbed tenth of the tokens; the machine is shared, and where the median is much lower",
        "it was busy with other work.",
    ]
    if llama_cpp_is_here():
        files = []
        for type_name in TYPES:
            whole = quantized(demo_model_path(), folder, type_name)
            blocks = gguf_contents(whole).num_blocks
            files += [*(cut(whole, round(share * blocks)) for share in SHARES), whole]
        words = [word for path in files for word in ("--gguf", str(path))]
        lines += table(measured(folder, "llama-cpp", seconds, [*words, "--threads", "1"]))
    lines += table(measured(folder, "torch", seconds, ["--threads", "1"]))
    RESULTS.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
