"""The estimators side by side: the plans that they lead to, how well they predict, and what they cost.

Takes the model, sequences and rounding of a profile. One walk through the model rounds every layer in every format and
prices it by all estimators that work on layer gradients; those that do not (traces, the linear model) come from
profiles of their own, made on the same sequences:

    scantling profile MODEL -o reference.safetensors --text wikipedia --formats … --sequences 16 --pricing-sequences 24
    scantling profile MODEL -o trace.safetensors … --estimator hessian-trace
    python benchmarks/estimators.py reference.safetensors FOLDER --profile hessian-trace=trace.safetensors

Every estimator's plans at 2.5, 3.0, 3.5 and 4.0 average bits are measured on the same evaluation text; measurements are
kept in FOLDER, so that a second call goes on. Writes results/estimators.md, or what --results names.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from whole_path import AVERAGE_BITS, RESULTS

from scantling import Program
from scantling.common.progress import silent
from scantling.evaluation.compare import EvaluationSettings, evaluation_sequences
from scantling.evaluation.quality import measure_candidates
from scantling.models.layers import ModelStructure, find_layers
from scantling.models.loading import LoadedModel, load_model
from scantling.planning.solve import choose_formats
from scantling.quantization.formats import parse_format
from scantling.quantization.grid import Rounded
from scantling.quantization.methods import rounding_method
from scantling.sensitivity.calibration.backward_pass import LayerGradients, blocks_backward
from scantling.sensitivity.calibration.capture import LabelDraws, capture
from scantling.sensitivity.estimators.fisher import first_order_changes, sequence_form, token_form, window_form
from scantling.sensitivity.estimators.gradient_baselines import element_wise, fisher_diagonal, output_error
from scantling.sensitivity.joint import joint_samples
from scantling.sensitivity.profile import Profile, decided_layers, read_profile, uniform_formats
from scantling.sensitivity.round_model import RoundingTask, round_group
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

UNIFORMS = (2, 3, 4, 5, 6, 8)
GradientPrice = Callable[[Tensor, LayerGradients, Tensor], Tensor]


@dataclass
class Clock:
    """CPU seconds by what they were spent on: other work on the machine changes them less than the clock."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add what is done meanwhile to a stage.

        Args:
            stage: its name.

        Yields:
            Nothing.
        """
        start = time.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - start


def _form(
    form: Callable[[Tensor, Sequence[int], int], Tensor],
    _matrix: Tensor,
    layer_gradients: LayerGradients,
    delta: Tensor,
) -> Tensor:
    return form(
        first_order_changes(layer_gradients.inputs, layer_gradients.gradients, delta),
        layer_gradients.rows_per_sequence,
        layer_gradients.sequence_length,
    )


PRICES: dict[str, GradientPrice] = {
    "fisher": partial(_form, window_form),
    "fisher-token": partial(_form, token_form),
    "fisher-sequence": partial(_form, sequence_form),
    "fisher-diagonal": fisher_diagonal,
    "element-wise": element_wise,
    "output-error": output_error,
}


def task_of(profile: Profile, loaded: LoadedModel) -> RoundingTask:
    """Make the profile's own rounding task.

    Args:
        profile: has sequences, formats and the method.
        loaded: the model.

    Returns:
        The task.
    """
    record = profile.record
    offered = {layer.name: [parse_format(record.formats[index]) for index in layer.formats] for layer in record.layers}
    structure = find_layers(loaded.model)
    ids = torch.from_numpy(profile.rounding_token_ids)
    return RoundingTask(loaded, structure, ids, offered, rounding_method(record.rounding))


def price_all(profile: Profile, task: RoundingTask, draws: LabelDraws, clock: Clock) -> dict[str, Profile]:
    """Price every layer and format by every estimator, in one walk.

    Args:
        profile: whose prices are replaced.
        task: rounds.
        draws: of labels.
        clock: keeps the seconds.

    Returns:
        A profile for every estimator.
    """
    model, structure = task.loaded.model, task.structure
    pricing_ids = torch.from_numpy(profile.pricing_token_ids)
    with clock.of("forward pass over the rounding text"):
        rounding = capture(model, structure, task.token_ids, None, silent, "")
    with clock.of("forward pass over the pricing text, labels"):
        pricing = capture(model, structure, pricing_ids, draws, silent, "")
    samples = {name: np.zeros((*profile.measured_samples.shape[:2], len(pricing_ids))) for name in PRICES}
    for visit in blocks_backward(model, structure, rounding, pricing, silent):
        print(f"block {visit.index}", file=sys.stderr, flush=True)
        records: dict[str, dict[str, Rounded]] = {}
        for group in visit.groups:
            with clock.of("rounding in all formats"):
                of_group = round_group(task, group)
            records |= {name: {t.name: record for t, record in of.items()} for name, of in of_group.items()}
            for formats in (("int3-g64",), ("int4-g64",)):
                one = replace(task, formats={layer.name: [parse_format(formats[0])] for layer in group.layers})
                with clock.of(f"rounding in {formats[0]} alone"):
                    round_group(one, group)
        first, gradients_by_layer = 0, visit.gradient_batches()
        while True:
            with clock.of("blocks forward and backward"):
                of_gradients = next(gradients_by_layer, None)
            if of_gradients is None:
                break
            for layer, layer_gradients in of_gradients.items():
                row, matrix = profile.layer_index[layer.name], task.matrix(layer)
                for target, record in records[layer.name].items():
                    delta, column = record.dequantize() - matrix, profile.format_index[target]
                    for name, price in PRICES.items():
                        with clock.of(f"pricing by {name}"):
                            values = price(matrix, layer_gradients, delta).numpy()
                        samples[name][row, column, first : first + len(values)] = values
            first += len(next(iter(of_gradients.values())).rows_per_sequence)
    return {name: profile.with_samples(values) for name, values in samples.items()}


def plain_pass(model: PreTrainedModel, weights: Sequence[Tensor], token_ids: Tensor) -> None:
    """Run the model forward and backward, for comparison.

    Args:
        model: parameters without gradients.
        weights: whose gradients are wanted.
        token_ids: int64 [sequences, tokens].
    """
    for weight in weights:
        weight.requires_grad_()
    for sequence in token_ids:
        model(sequence[None], labels=sequence[None], use_cache=False).loss.backward()
        for weight in weights:
            weight.grad = None
    for weight in weights:
        weight.requires_grad_(False)


def weights_of_blocks(model: PreTrainedModel, structure: ModelStructure) -> list[Tensor]:
    """Give the weights of the layers inside the blocks."""
    return [model.get_parameter(f"{layer.name}.weight") for layer in structure.layers if layer.block is not None]


def rounded(profile: Profile, task: RoundingTask, formats: Sequence[Mapping[str, str]]) -> list[dict[str, Rounded]]:
    """Round the model for several assignments.

    Args:
        profile: not changed.
        task: rounds.
        formats: of every layer.

    Returns:
        The decided layers' records.
    """
    names = [layer.name for layer in decided_layers(profile)]
    wanted = {name: [parse_format(f) for f in dict.fromkeys(of[name] for of in formats)] for name in names}
    model, structure = task.loaded.model, task.structure
    captured = capture(model, structure, task.token_ids, None, silent, "")
    found: dict[str, dict[str, Rounded]] = {}
    for visit in blocks_backward(model, structure, captured, None, silent):
        for group in visit.groups:
            of_group = round_group(replace(task, formats=wanted), group)
            found |= {name: {t.name: record for t, record in of.items()} for name, of in of_group.items()}
    return [{name: found[name][of[name]] for name in names} for of in formats]


def measured_once(
    profile: Profile, task: RoundingTask, entries: Mapping[str, dict[str, str]], folder: Path, num_sequences: int
) -> dict[str, tuple[list[float], float]]:
    """Measure assignments that have not been measured yet.

    Args:
        profile: says what was calibrated on.
        task: rounds.
        entries: the format of every layer.
        folder: keeps measurements, by the formats' hash.
        num_sequences: of 512 tokens.

    Returns:
        KL by sequence, and perplexity.
    """
    settings = EvaluationSettings(num_sequences=num_sequences)
    _, token_ids = evaluation_sequences(task.loaded, profile, settings)
    files = {}
    for name, formats in entries.items():
        key = f"{profile.record.model_sha256} {num_sequences} {json.dumps(formats)}"
        files[name] = folder / f"measured-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    missing = list({files[name]: name for name in entries if not files[name].exists()}.values())
    print(f"{len(missing)} of {len(entries)} to be measured", file=sys.stderr, flush=True)
    records = rounded(profile, task, [entries[name] for name in missing]) if missing else []
    for name, of in zip(missing, records, strict=True):
        quality = measure_candidates(task.loaded.model, {name: of}, token_ids, silent, len(token_ids))[name]
        files[name].write_text(json.dumps([quality.kl_nats, quality.perplexity]), encoding="utf-8")
    return {name: tuple(json.loads(file.read_text(encoding="utf-8"))) for name, file in files.items()}  # type: ignore[misc]


def _difference(values: Sequence[float], reference: Sequence[float]) -> str:
    """Write how much larger a mean is than another on the same sequences, with the error of the difference."""
    paired = [value - other for value, other in zip(values, reference, strict=True)]
    scale = fmean(reference)
    return f"{100 * fmean(paired) / scale:+.1f} ± {100 * stdev(paired) / len(paired) ** 0.5 / scale:.1f} %"


def main() -> None:
    """Price, solve, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="the reference profile")
    parser.add_argument("folder", type=Path, help="keeps prices and measurements")
    parser.add_argument(
        "--profile", action="append", default=[], help="NAME=FILE, of an estimator without layer gradients"
    )
    parser.add_argument("--plan", action="append", default=[], help="NAME@BITS=FILE, a plan to be measured beside")
    parser.add_argument("--sequences", type=int, default=8, help="of 512 tokens to evaluate on")
    parser.add_argument("--results", default="estimators.md")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    profile = read_profile(arguments.reference)
    task = task_of(profile, load_model(profile.record.model_source))
    kept, clock = arguments.folder / "prices.npz", Clock()
    if not kept.exists():
        draws = LabelDraws(profile.record.seed, profile.record.num_label_draws)
        priced = price_all(profile, task, draws, clock)
        model, pricing_ids = task.loaded.model, torch.from_numpy(profile.pricing_token_ids)
        with clock.of("plain forward and backward pass"):
            plain_pass(model, weights_of_blocks(model, task.structure), pricing_ids)
        (arguments.folder / "seconds.json").write_text(json.dumps(clock.seconds), encoding="utf-8")
        samples: dict[str, Any] = {name: of.measured_samples for name, of in priced.items()}
        np.savez(kept, **samples)
    with np.load(kept) as stored:
        profiles = {name: profile.with_samples(stored[name]) for name in PRICES}
    profiles |= {
        name: read_profile(Path(file)) for name, _, file in (word.partition("=") for word in arguments.profile)
    }
    entries = {f"uniform@{width}": uniform_formats(profile, str(width)) for width in UNIFORMS}
    for name, of in profiles.items():
        for bits in AVERAGE_BITS:
            instance = Program(of).limit("average_bits", at_most=bits).instance()
            entries[f"{name}@{bits}"] = choose_formats(instance, CpSatSolver(), SolverSettings())
    for word in arguments.plan:
        name, _, file = word.partition("=")
        plan = json.loads(Path(file).read_text(encoding="utf-8"))
        entries[name] = {of["layer"]: of["format"] for of in plan["assignments"]}
    measured = measured_once(profile, task, entries, arguments.folder, arguments.sequences)
    together = joint_prices(profile, task.loaded, entries, arguments.folder / "joint.json")
    lines = [*plans_table(entries, measured), "", *predictions_table(profiles, entries, measured)]
    lines += [joint_row(together, measured), ""]
    lines += seconds_table(json.loads((arguments.folder / "seconds.json").read_text(encoding="utf-8")))
    (RESULTS / arguments.results).write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))


def plans_table(entries: Mapping[str, object], measured: Mapping[str, tuple[list[float], float]]) -> list[str]:
    """Lay out the measured loss of every estimator's plans.

    Args:
        entries: by NAME@BITS.
        measured: likewise.

    Returns:
        Lines of Markdown.
    """
    lines = [
        "### Plans by estimator: measured KL in nats per token (perplexity), and the paired difference to `fisher`",
        "",
        "| prices by | " + " | ".join(f"{bits} bits" for bits in AVERAGE_BITS) + " |",
        "|---|" + "---|" * len(AVERAGE_BITS),
    ]
    for name in dict.fromkeys(word.partition("@")[0] for word in entries):
        cells = []
        for bits in AVERAGE_BITS:
            key = f"{name}@{bits}" if f"{name}@{bits}" in measured else f"{name}@{bits:g}"
            if key not in measured:
                cells.append("–")
                continue
            kl, perplexity = measured[key]
            cells.append(f"{fmean(kl):.3g} ({perplexity:.2f})")
            if name != "fisher":
                cells[-1] += f", {_difference(kl, measured[f'fisher@{bits}'][0])}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def predictions_table(
    profiles: Mapping[str, Profile],
    entries: Mapping[str, dict[str, str]],
    measured: Mapping[str, tuple[list[float], float]],
) -> list[str]:
    """Lay out predicted over measured loss, for uniform plans and each estimator's own.

    Args:
        profiles: of every estimator.
        entries: by NAME@BITS.
        measured: likewise.

    Returns:
        Lines of Markdown.
    """
    solved = [f"own plan, {bits}" for bits in AVERAGE_BITS]
    columns = [*(f"uniform {width}" for width in UNIFORMS), *solved]
    lines = [
        "### Predicted over measured KL",
        "",
        f"| prices by | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    for name, of in profiles.items():
        keys = [*(f"uniform@{width}" for width in UNIFORMS), *(f"{name}@{bits}" for bits in AVERAGE_BITS)]
        ratios = [of.predict(entries[key])[0] / fmean(measured[key][0]) for key in keys]
        lines.append(f"| {name} | {' | '.join(f'{ratio:.3g}' for ratio in ratios)} |")
    return lines


def joint_prices(
    profile: Profile, loaded: LoadedModel, entries: Mapping[str, dict[str, str]], kept: Path
) -> dict[str, tuple[float, float | None]]:
    """Price the uniforms and the plans of ``fisher`` as wholes.

    Args:
        profile: the reference profile.
        loaded: the model.
        entries: by NAME@BITS.
        kept: keeps the prices.

    Returns:
        Prices and standard errors, by NAME@BITS.
    """
    if not kept.exists():
        wanted = {name: of for name, of in entries.items() if name.partition("@")[0] in {"uniform", "fisher"}}
        found = joint_samples(loaded, profile, wanted, silent)
        prices = {name: (of.price(), of.standard_error()) for name, of in found.items()}
        kept.write_text(json.dumps(prices), encoding="utf-8")
    return {name: tuple(values) for name, values in json.loads(kept.read_text(encoding="utf-8")).items()}  # type: ignore[misc]


def joint_row(
    together: Mapping[str, tuple[float, float | None]], measured: Mapping[str, tuple[list[float], float]]
) -> str:
    """Write the line of the joint prices.

    Args:
        together: by NAME@BITS.
        measured: likewise.

    Returns:
        A line of Markdown.
    """
    keys = [*(f"uniform@{width}" for width in UNIFORMS), *(f"fisher@{bits}" for bits in AVERAGE_BITS)]
    cells = [f"{together[key][0] / fmean(measured[key][0]):.3g}" for key in keys]
    return f"| fisher, `solve --joint` | {' | '.join(cells)} |"


def seconds_table(seconds: Mapping[str, float]) -> list[str]:
    """Lay out what the passes take.

    Args:
        seconds: by stage.

    Returns:
        Lines of Markdown.
    """
    plain = seconds["plain forward and backward pass"]
    lines = ["### CPU seconds, and as multiples of a plain forward and backward pass over the pricing text", ""]
    lines += ["| stage | seconds | of the plain pass |", "|---|---|---|"]
    lines += [f"| {stage} | {value:.1f} | {value / plain:.2f} |" for stage, value in seconds.items()]
    shared = seconds["forward pass over the pricing text, labels"] + seconds["blocks forward and backward"]
    lines += [
        f"| all of {name} | {shared + seconds[f'pricing by {name}']:.1f} | "
        f"{(shared + seconds[f'pricing by {name}']) / plain:.2f} |"
        for name in PRICES
    ]
    return lines


if __name__ == "__main__":
    main()
