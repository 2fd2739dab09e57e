"""Every backend in every engine that runs on a CPU: does the engine compute what the plan in memory does, and how fast.

For each plan and backend: writes the checkpoint of the demo model, compares the size on disk with the predicted one,
and for each engine loads it in a process of its own, compares log-probabilities, and measures perplexity on 8 × 512
tokens in the engine beside the plan in memory. Results are kept in FOLDER, so that a stopped run goes on.

The plans: ``mixed`` (2–8 bits, zero points), ``mixed-sym`` (2–8 bits, symmetric), ``uniform-4`` (4 bits, symmetric) and
``engine-legal`` (4 bits symmetric or 16 bits, with q/k/v and gate/up made equal as vLLM asks; its certificate is that
of the program before that). The symmetric plans are solved with the prices of the formats with zero points, so their
predictions are not theirs; nothing here rests on them. The profile:

    scantling profile MODEL -o PROFILE --text wikipedia --formats int2-g64,int3-g64,int4-g64,int5-g64,int6-g64,int8-g64
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scantling.backends.check import check_checkpoint
from scantling.backends.folder_manifest import read_manifest
from scantling.backends.gptq import FUSED
from scantling.backends.write import apply_plan
from scantling.backends.writer import ApplySettings
from scantling.common.files import file_sha256
from scantling.common.progress import silent
from scantling.evaluation.compare import EvaluationSettings, evaluation_sequences
from scantling.evaluation.quality import measure_candidates
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.planning.plan import Plan
from scantling.planning.program import Program
from scantling.planning.solve import solve
from scantling.quantization.formats import parse_format
from scantling.sensitivity.profile import Profile, ProfileOrigin, read_profile, write_profile
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """A plan, a backend and the engines to load it in."""

    plan: str
    backend: str
    engines: tuple[str, ...]


CASES = (
    Case("mixed", "gptq", ("gptqmodel",)),
    Case("mixed-sym", "compressed-tensors", ("transformers",)),
    Case("uniform-4", "auto-gptq", ("auto-gptq", "gptqmodel")),
    Case("uniform-4", "gptq", ("gptqmodel",)),
    Case("engine-legal", "compressed-tensors", ("transformers", "vllm")),
)
FORMATS = {
    "mixed": ("asymmetric", ("int2-g64", "int3-g64", "int4-g64", "int8-g64"), 3.0),
    "mixed-sym": ("symmetric", tuple(f"int{bits}-g64-sym" for bits in (2, 3, 4, 5, 6, 8)), 3.0),
    "uniform-4": ("symmetric", ("int4-g64-sym", "float16"), 4.0),
    "engine-legal": ("symmetric", ("int4-g64-sym", "float16"), 6.0),
}


def symmetric(profile: Profile) -> Profile:
    """Rename the formats to the symmetric ones and offer 16 bits everywhere, at no price.

    Args:
        profile: of formats with zero points.

    Returns:
        A profile of symmetric formats with the same prices.
    """
    record = profile.record
    names = [name if name == "float16" else f"{name}-sym" for name in record.formats]
    sixteen = names.index("float16")
    samples, layers = profile.measured_samples.copy(), []
    for index, layer in enumerate(record.layers):
        formats = layer.formats if sixteen in layer.formats else (*layer.formats, sixteen)
        samples[index, sixteen] = 0.0
        sizes = tuple(parse_format(names[f]).stored_bytes(layer.out_features, layer.in_features) for f in formats)
        layers.append(layer.model_copy(update={"formats": formats, "stored_bytes": sizes}))
    changed = record.model_copy(update={"formats": tuple(names), "layers": tuple(layers)})
    return Profile(changed, samples, profile.rounding_token_ids, profile.pricing_token_ids)


def restricted(profile: Profile, names: Sequence[str]) -> Profile:
    """Leave out all formats but some, and the 16-bit one where a layer has no other.

    Args:
        profile: with more formats.
        names: those to keep.

    Returns:
        A profile that offers those.
    """
    record = profile.record
    only = {record.formats[layer.formats[0]] for layer in record.layers if not layer.is_decided}
    kept = [name for name in record.formats if name in {*names, *only}]
    layers = []
    for layer in record.layers:
        pairs = list(zip(layer.formats, layer.stored_bytes, strict=True))
        pairs = [(f, b) for f, b in pairs if record.formats[f] in names or len(pairs) == 1]
        formats = tuple(kept.index(record.formats[f]) for f, _ in pairs)
        layers.append(layer.model_copy(update={"formats": formats, "stored_bytes": tuple(b for _, b in pairs)}))
    samples = np.ascontiguousarray(profile.measured_samples[:, [record.formats.index(name) for name in kept]])
    changed = record.model_copy(update={"formats": tuple(kept), "layers": tuple(layers)})
    return Profile(changed, samples, profile.rounding_token_ids, profile.pricing_token_ids)


def plan_named(name: str, profiles: Mapping[str, Profile], folder: Path) -> tuple[Plan, Profile]:
    """Solve one of the plans.

    Args:
        name: of the plan.
        profiles: by their names.
        folder: for the restricted profile.

    Returns:
        The plan and the profile that it belongs to.
    """
    source, names, bits = FORMATS[name]
    profile = restricted(profiles[source], names)
    path = folder / f"{name}.safetensors"
    write_profile(profile, path)
    origin = ProfileOrigin(path, file_sha256(path))
    program = Program(profile).limit("average_bits", at_most=bits)
    if name == "engine-legal":
        for members in FUSED.values():
            program = program.tie([f"*{member}" for member in members], per="block")
    return solve(profile, origin, program.instance(), CpSatSolver(), SolverSettings()), profile


def run_case(case: Case, profiles: Mapping[str, Profile], pythons: Mapping[str, str], where: tuple[Path, str]) -> None:
    """Write a checkpoint and check it in its engines; keeps one JSON file a pair.

    Args:
        case: what.
        profiles: by their names.
        pythons: interpreters by engine.
        where: the folder for checkpoints and results, and what layers are rounded against.
    """
    folder, inputs = where
    plan, profile = plan_named(case.plan, profiles, folder)
    checkpoint, memory = folder / f"{case.plan}-{case.backend}", folder / f"{case.plan}-{case.backend}.json"
    loaded = load_model(str(demo_model_path()))
    _, token_ids = evaluation_sequences(loaded, profile, EvaluationSettings())
    if not memory.is_file():
        apply_plan(loaded, profile, plan, ApplySettings(case.backend, inputs), checkpoint, silent)
        quality = measure_candidates(loaded.model, {}, token_ids, silent)["original"]
        memory.write_text(json.dumps({"perplexity": quality.perplexity}))
    for engine in case.engines:
        answer = folder / f"{case.plan}-{case.backend}-{engine}.json"
        if answer.is_file():
            continue
        print(f"{case.plan}, {case.backend}, {engine} …", file=sys.stderr, flush=True)
        report = check_checkpoint(checkpoint, engine=engine, python=pythons.get(engine), sequences=token_ids.tolist())
        answer.write_text(report.model_dump_json())


def table(folder: Path) -> list[str]:
    """Lay out what has been measured.

    Args:
        folder: with the results.

    Returns:
        Lines of Markdown.
    """
    lines = [
        "| plan | backend | engine | arithmetic | difference / spread (tolerance) | same first choice "
        "| perplexity in memory | in the engine | bytes predicted | on disk | tokens/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        checkpoint = folder / f"{case.plan}-{case.backend}"
        for engine in case.engines:
            path = folder / f"{case.plan}-{case.backend}-{engine}.json"
            if not path.is_file():
                lines.append(f"| {case.plan} | {case.backend} | {engine} | not run | | | | | | | |")
                continue
            report = json.loads(path.read_text())
            memory = json.loads((folder / f"{case.plan}-{case.backend}.json").read_text())["perplexity"]
            losses = report["negative_log_likelihoods_nats"]
            on_disk = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
            versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
            lines.append(
                f"| {case.plan} | {case.backend} | {versions} | {report['arithmetic']} "
                f"| {report['relative_difference']:.2g} ({report['tolerance']:.2g}) "
                f"| {report['same_first_choices']} of {report['num_positions']} "
                f"| {memory:.3f} | {math.exp(math.fsum(losses) / len(losses)):.3f} "
                f"| {read_manifest(checkpoint).checkpoint_bytes:,} | {on_disk:,} | {report['tokens_per_second']:.1f} |"
            )
    return lines


def main() -> None:
    """Run the cases that were not run yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("folder", type=Path, help="for checkpoints and results")
    parser.add_argument("--inputs", default="quantized", help="what layers are rounded against; original is faster")
    parser.add_argument("--engine-python", action="append", default=[], metavar="ENGINE=PATH")
    parser.add_argument("--only", type=int, action="append", help="the number of a case; repeatable")
    arguments = parser.parse_args()
    torch.set_grad_enabled(mode=False)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    measured = read_profile(arguments.profile)
    profiles = {"asymmetric": measured, "symmetric": symmetric(measured)}
    pythons = dict(given.split("=", 1) for given in arguments.engine_python)
    for number, case in enumerate(CASES):
        if arguments.only is None or number in arguments.only:
            run_case(case, profiles, pythons, (arguments.folder, arguments.inputs))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "engines.md").write_text("\n".join([*table(arguments.folder), ""]), encoding="utf-8")
    print("\n".join(table(arguments.folder)))


if __name__ == "__main__":
    main()
