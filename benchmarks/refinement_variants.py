"""How `solve --refine` could step otherwise: steps of many kinds from the same plans, on text that none of them saw.

    python benchmarks/refinement_variants.py PROFILE FOLDER [--bits 3.0 …] [--results refinement_variants.md]

A plan is solved, the loss is expanded around it once (on two thirds of the pricing sequences, as --refine does), and
one step of every kind is taken from there. All are measured on 24 × 512 evaluation tokens; differences from the solved
plan are paired by sequence. Each target's measurements stay in FOLDER, so that a stopped run goes on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from scantling.common.progress import silent
from scantling.evaluation.compare import EvaluationSettings, evaluation_sequences
from scantling.evaluation.linearisation import Records
from scantling.evaluation.quality import measure_candidates, standard_error
from scantling.evaluation.refinement import (
    Expansion,
    around,
    expand,
    round_everything,
    signal_share,
    unseen_sequences,
    within,
)
from scantling.models.loading import LoadedModel, load_model
from scantling.planning.program import Program
from scantling.planning.solve import choose_formats
from scantling.sensitivity.calibration.capture import LabelDraws
from scantling.sensitivity.profile import Profile, read_profile
from scantling.solver.instance import DomainCosts, Instance
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

RESULTS = Path(__file__).parent / "results"
AVERAGE_BITS = (2.5, 3.0, 3.5)
SHARES = (0.025, 0.05, 0.1, 0.2, 0.4)  # of the layers that may change
SHIPPED = 0.1
Floats = NDArray[np.float64]
Table = dict[str, dict[str, float]]  # nats per token by layer and format
Formats = dict[str, str]


def together(expansion: Expansion) -> Table:
    """Shrink all differences by one share of signal, as --refine does."""
    share = signal_share(expansion.separable, expansion.expanded)
    return expansion.shrunk(lambda _mean, _error: share)


def not_at_all(expansion: Expansion) -> Table:
    """Shrink nothing."""
    return expansion.shrunk(lambda _mean, _error: 1.0)


def each(expansion: Expansion) -> Table:
    """Shrink every difference by its own standard error, the positive part of 1 − se² / R²."""
    return expansion.shrunk(lambda mean, error: max(0.0, 1 - (error / mean) ** 2) if mean else 0.0)


def largest(expansion: Expansion) -> Table:
    """Take only differences beyond two standard errors."""
    return expansion.shrunk(lambda mean, error: float(abs(mean) > 2 * error))


def half(expansion: Expansion) -> Expansion:
    """Keep every second sequence."""

    def kept(values: Mapping[str, Mapping[str, Floats]]) -> dict[str, dict[str, Floats]]:
        return {layer: {name: one[::2] for name, one in of.items()} for layer, of in values.items()}

    return Expansion(kept(expansion.separable), kept(expansion.expanded))


@dataclass(frozen=True)
class Case:
    """A model, its profile, and a target.

    Attributes:
        loaded: the model.
        profile: of it.
        records: its layers in every format.
        bits: average width.
    """

    loaded: LoadedModel
    profile: Profile
    records: Records
    bits: float

    @cached_property
    def program(self) -> Instance:
        """The program whose plan is to be improved."""
        return Program(self.profile).limit("average_bits", at_most=self.bits).instance()

    def choose(self, instance: Instance) -> Formats:
        """Solve."""
        return choose_formats(instance, CpSatSolver(), SolverSettings())

    def expanded(self, formats: Formats) -> Expansion:
        """Expand the loss around a plan."""
        on = (~unseen_sequences(self.profile), LabelDraws(self.profile.record.seed))
        return expand(self.loaded, self.profile, self.records, formats, on, silent)

    def stepped(self, formats: Formats, costs: Table, share: float) -> Formats:
        """Take a step from a plan, of a share of the layers at most."""
        radius = max(1, round(share * len(self.records)))
        return self.choose(within(around(self.program, formats, costs), radius))

    def measured(self, plans: Mapping[str, Formats], token_ids: torch.Tensor) -> dict[str, list[float]]:
        """Measure plans in which every layer that is not named keeps its own values; KL of every sequence."""
        weights = {
            name: {layer: self.records[layer][target] for layer, target in plan.items() if layer in self.records}
            for name, plan in plans.items()
        }
        quality = measure_candidates(self.loaded.model, weights, token_ids, silent)
        return {name: list(quality[name].kl_nats) for name in plans}

    def corrected(self, formats: Formats, group_of: Mapping[str, str]) -> Formats:
        """Scale the prices of groups by what each adds to the plan's measured loss, and solve anew."""
        token_ids = torch.from_numpy(self.profile.pricing_token_ids[~unseen_sequences(self.profile)])
        groups = sorted({group_of[layer] for layer in self.records})
        without = {
            group: {layer: target for layer, target in formats.items() if group_of[layer] != group} for group in groups
        }
        measured = {name: fmean(kl) for name, kl in self.measured({"all": formats, **without}, token_ids).items()}
        prices, units = self.program.domains[0].loss_increase_nats, self.program.units
        of_plan = dict.fromkeys(groups, 0.0)
        for unit, row in zip(units, prices, strict=True):
            if unit.name in self.records:
                of_plan[group_of[unit.name]] += row[unit.formats.index(formats[unit.name])]
        scale = {group: max(0.0, measured["all"] - measured[group]) / of_plan[group] for group in groups}
        table = tuple(
            tuple(scale[group_of[unit.name]] * price for price in row) if unit.name in self.records else row
            for unit, row in zip(units, prices, strict=True)
        )
        return self.choose(replace(self.program, domains=(DomainCosts("corrected", table),)))


def variants(case: Case) -> Iterator[tuple[str, Formats]]:
    """Give the solved plan, then one plan of every kind of step.

    Args:
        case: the case.

    Yields:
        A description and the formats of every layer.
    """
    solved = case.choose(case.program)
    yield "solved", solved
    first = case.expanded(solved)
    costs = together(first)
    for share in SHARES:
        shipped = ", as shipped" if share == SHIPPED else ""
        yield f"{share:.1%} of the layers, shrunk together{shipped}", case.stepped(solved, costs, share)
    yield "all layers, not shrunk (the first trial)", case.stepped(solved, not_at_all(first), 1.0)
    yield "all layers, shrunk together", case.stepped(solved, costs, 1.0)
    yield "10 %, not shrunk", case.stepped(solved, not_at_all(first), SHIPPED)
    yield "10 %, each shrunk by its own error", case.stepped(solved, each(first), SHIPPED)
    yield "10 %, only differences beyond two errors", case.stepped(solved, largest(first), SHIPPED)
    yield "10 %, shrunk together, half the sequences", case.stepped(solved, together(half(first)), SHIPPED)
    once = case.stepped(solved, costs, SHIPPED)
    second = together(case.expanded(once))
    yield "10 %, then another 10 % around the result", case.stepped(once, second, SHIPPED)
    yield "10 %, costs averaged over both points", case.stepped(solved, averaged(costs, second, solved), SHIPPED)
    layers = case.profile.record.layers
    yield "measured correction by kind of layer", case.corrected(solved, {one.name: one.kind for one in layers})
    yield "measured correction by block", case.corrected(solved, {one.name: str(one.block) for one in layers})


def averaged(first: Table, second: Table, formats: Formats) -> Table:
    """Average the costs of two expansions, each taken from the format of the first plan.

    Args:
        first: around the first plan.
        second: around another.
        formats: of the first plan.

    Returns:
        The mean where both have a format, else the first.
    """

    def mean(layer: str, name: str) -> float:
        there, own = second.get(layer, {}), formats[layer]
        if name in there and own in there:
            return (first[layer][name] + there[name] - there[own]) / 2
        return first[layer][name]

    return {layer: {name: mean(layer, name) for name in of} for layer, of in first.items()}


def table(found: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Lay out one target.

    Args:
        found: KL of every sequence and layers moved, by variant.

    Returns:
        Lines of Markdown.
    """
    lines = ["| step | layers moved | KL | difference | in % |", "|---|---|---|---|---|"]
    before = _kl(found["solved"])
    for name, one in found.items():
        after = _kl(one)
        changes = [second - first for first, second in zip(before, after, strict=True)]
        error = standard_error(changes) or 0.0
        ratio = fmean(changes) / fmean(before)
        told = f"{fmean(changes):+.2g} ± {error:.1g} | {ratio:+.1%} ± {error / fmean(before):.1%}"
        lines.append(f"| {name} | {one['moved']} | {fmean(after):.4g} | {told if name != 'solved' else '| '} |")
    return lines


def _kl(one: Mapping[str, object]) -> list[float]:
    values = one["kl_nats"]
    assert isinstance(values, list)
    return values


def measure(profile: Profile, average_bits: Sequence[float], folder: Path) -> None:
    """Take every kind of step at every target, and write what was measured."""
    loaded = load_model(profile.record.model_source)
    records = round_everything(loaded, profile, silent)
    _, token_ids = evaluation_sequences(loaded, profile, EvaluationSettings(num_sequences=24))
    for bits in average_bits:
        case = Case(loaded, profile, records, bits)
        plans = dict(variants(case))
        print(f"{bits} bits: {len(plans)} plans", file=sys.stderr, flush=True)
        measured = case.measured(plans, token_ids)
        found = {
            name: {
                "moved": sum(target != plans["solved"][layer] for layer, target in plan.items()),
                "kl_nats": measured[name],
            }
            for name, plan in plans.items()
        }
        _kept(folder, bits).write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    """Measure every target that is not there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=float, nargs="+", default=AVERAGE_BITS)
    parser.add_argument("--results", default="refinement_variants.md")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    profile = read_profile(arguments.profile)
    source = profile.record.model_source
    missing = [bits for bits in arguments.bits if not _kept(arguments.folder, bits).is_file()]
    if missing:
        measure(profile, missing, arguments.folder)
    lines = ["# Kinds of refinement", "", f"`python benchmarks/refinement_variants.py`; {Path(source).name}", ""]
    for bits in arguments.bits:
        found = json.loads(_kept(arguments.folder, bits).read_text(encoding="utf-8"))
        lines += [f"## {bits} bits", "", *table(found), ""]
    (RESULTS / arguments.results).write_text("\n".join(lines), encoding="utf-8")


def _kept(folder: Path, bits: float) -> Path:
    return folder / f"{bits}.json"


if __name__ == "__main__":
    main()
