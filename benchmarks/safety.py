"""Factors of safety of the demo model: plans at 2.5, 3, 3.5, 4 bits and uniform 3 and 4, and how stable they are.

python benchmarks/safety.py measure PROFILE FOLDER    # about a quarter of an hour on two cores; goes on after a stop
python benchmarks/safety.py report PROFILE FOLDER     # seconds: benchmarks/results/safety.md, docs/safety-demo.*
"""

import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot
from scipy import stats

from scantling.common.files import file_sha256
from scantling.common.progress import silent
from scantling.evaluation.cache import QualityOf
from scantling.evaluation.quality import Quality
from scantling.evaluation.safety.budget_sweep import sweep
from scantling.evaluation.safety.degradation_curve import DegradationCurve
from scantling.evaluation.safety.factor import safety_of_measured, safety_of_predicted
from scantling.evaluation.safety.measured_sweep import MeasuredSweep, Thresholds, measured_sweep
from scantling.evaluation.safety.record import PlanSafety, SafetyFile, write_safety
from scantling.evaluation.safety.run import SafetyRun, SafetySettings, safety_run
from scantling.evaluation.text import EvaluationDomain
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import load_model
from scantling.planning.program import Program
from scantling.planning.solve import choose_formats
from scantling.sensitivity.profile import Profile, ProfileOrigin, read_profile, uniform_formats
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

SETTINGS = SafetySettings(num_sequences=24, sequence_length=384, num_points=9)
HALVES = ("one half", "other half")
BITS = (2.5, 3.0, 3.5, 4.0)
UNIFORMS = ("int3-g64", "int4-g64")
OFFSETS = (0.02, 0.05, 0.1, 0.2)
HERE = Path(__file__).parent
Plans = dict[str, dict[str, str]]


def entries(profile: Profile) -> Plans:
    """Give the plans whose factors are asked for."""
    plans = {
        f"plan at {bits:g} bits": choose_formats(
            Program(profile).limit("average_bits", at_most=bits).instance(), CpSatSolver(), SolverSettings()
        )
        for bits in BITS
    }
    return plans | {f"uniform {name}": uniform_formats(profile, name) for name in UNIFORMS}


def prepared(path: Path, kept: Path) -> SafetyRun:
    """Make what measures, or finds what was measured: the two halves of the text as two domains."""
    origin = ProfileOrigin(path, file_sha256(path))
    run = safety_run(load_model(str(demo_model_path())), read_profile(path), origin, SETTINGS, kept, silent)
    (case,) = run.cache.domains
    return replace(run, cache=replace(run.cache, domains=halves(case)))


def measure(run: SafetyRun) -> None:
    """Measure everything."""
    profile = run.cache.profile
    run.cache.measure({**sweep(profile, SETTINGS.num_points, silent), **entries(profile)})


def halves(case: EvaluationDomain) -> tuple[EvaluationDomain, EvaluationDomain]:
    """Deal out the documents in turn: no document is in both halves."""
    rank = {document: k for k, document in enumerate(sorted(set(case.document_of_sequence)))}
    sides: tuple[list[int], list[int]] = ([], [])
    for sequence, document in enumerate(case.document_of_sequence):
        sides[rank[document] % 2].append(sequence)
    first, second = (
        replace(
            case,
            name=name,
            token_ids=case.token_ids[chosen],
            document_of_sequence=tuple(case.document_of_sequence[i] for i in chosen),
        )
        for name, chosen in zip(HALVES, sides, strict=True)
    )
    return first, second


def whole(cases: Sequence[EvaluationDomain], measured: QualityOf) -> tuple[EvaluationDomain, QualityOf]:
    """Put the halves together."""
    case = replace(
        cases[0],
        name="text",
        token_ids=torch.cat([one.token_ids for one in cases]),
        document_of_sequence=tuple(document for one in cases for document in one.document_of_sequence),
    )
    return case, {
        name: {"text": Quality(*map(operator.add, *(astuple(by_case[one.name]) for one in cases)))}
        for name, by_case in measured.items()
    }


def by_accuracy(test: MeasuredSweep, offset: float) -> float:
    """Find the yield where next-token accuracy, in place of perplexity, has fallen by a share of itself."""
    (one,) = test.domains
    accuracy = np.array(one.original.next_token_accuracy)
    sweep_points = [np.array(test.measured[name][one.domain.name].next_token_accuracy) for name in test.sweep]
    lost = np.array([1 - sweep_point.mean() / accuracy.mean() for sweep_point in sweep_points])
    everything = np.array([one.curve.kl_nats, lost])[:, None, :]
    return DegradationCurve(one.curve.names, one.curve.kl_nats, lost, *everything).crossing(offset).kl_nats


def factors(test: MeasuredSweep, plans: Plans, measured: QualityOf, basis: str = "measured") -> dict[str, PlanSafety]:
    """Give the factors of plans."""
    if basis == "predicted":
        return {name: safety_of_predicted(test, name, formats, 1.0) for name, formats in plans.items()}
    return {name: safety_of_measured(test, name, formats, measured[name], 1.0) for name, formats in plans.items()}


def moved(first: float, second: float) -> float:
    """Say by how much two factors differ, as a share of their mean."""
    return 2 * abs(first - second) / (first + second)


def stability(run: SafetyRun, sweep_points: Plans, plans: Plans, measured: QualityOf) -> list[str]:
    """Tabulate how far factors move between two halves of the text, by what is called yield."""
    profile, sides = run.cache.profile, run.cache.domains
    lines = ["| yield | D_yield, one half | other half | factors move by | at most |", "|---|---|---|---|---|"]
    for offset in OFFSETS:
        tests = [measured_sweep(profile, sweep_points, measured, [side], Thresholds(offset=offset)) for side in sides]
        yields = [test.domains[0].at_yield for test in tests]
        both = [factors(test, plans, measured) for test in tests]
        shares = {name: moved(*(found[name].factor for found in both)) for name in plans}
        words = [f"{one.kl_nats:.4f}" if one.reached else f"> {one.kl_nats:.4f}" for one in yields]
        each = ", ".join(f"{share:.0%}" for share in shares.values())
        lines.append(f"| perplexity {offset:.0%} up | {' | '.join(words)} | {each} | {max(shares.values()):.0%} |")
    for offset in OFFSETS:
        tests = [measured_sweep(profile, sweep_points, measured, [side], Thresholds()) for side in sides]
        kl = [by_accuracy(test, offset) for test in tests]
        shares = {
            name: moved(*(kl[k] / measured[name][sides[k].name].mean_kl_nats for k in range(2))) for name in plans
        }
        each = ", ".join(f"{share:.0%}" for share in shares.values())
        lines.append(
            f"| next-token accuracy {offset:.0%} down | {kl[0]:.4f} | {kl[1]:.4f} | {each} | "
            f"{max(shares.values()):.0%} |"
        )
    return lines


def _kendall(first: Sequence[float], second: Sequence[float]) -> float:
    found: Any = stats.kendalltau(first, second)
    return float(found.statistic)


def ranking(found: Mapping[str, PlanSafety]) -> str:
    """Say how factors rank plans, against what was measured of them."""
    by_factor = [plan.factor for plan in found.values()]
    domains = [plan.plan.domains[0] for plan in found.values()]
    by_perplexity = _kendall(by_factor, [-domain.perplexity.estimate for domain in domains])
    by_share = _kendall(by_factor, [domain.next_token_accuracy.estimate for domain in domains])
    return (
        f"Kendall's τ between the factors of the {len(found)} plans and how little their perplexity is: "
        f"{by_perplexity:.2f}; and their next-token accuracy: {by_share:.2f}."
    )


def plan_lines(found: Mapping[str, PlanSafety], predicted: Mapping[str, PlanSafety]) -> list[str]:
    """Tabulate factors."""
    lines = [
        "| plan | bytes | bits | KL | perplexity | accuracy | same top token | factor at yield | at ultimate | "
        "predicted only: prediction margin, factor, lower end |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, plan in found.items():
        case, only = plan.plan.domains[0], predicted[name]
        at_yield, at_ultimate = plan.domains[0].at_yield, plan.domains[0].at_ultimate
        at_least = "≥ " if plan.domains[0].at_least_at_ultimate else ""
        lines.append(
            f"| {name} | {plan.plan.stored_bytes:,} | {plan.plan.average_bits:.2f} | {case.kl_nats.estimate:.4f} "
            f"({case.kl_nats.lower:.4f}–{case.kl_nats.upper:.4f}) | {case.perplexity.estimate:.2f} | "
            f"{case.next_token_accuracy.estimate:.1%} | {case.top1_agreement.estimate:.1%} | {at_yield.estimate:.2f} "
            f"({at_yield.lower:.2f}–{at_yield.upper:.2f}) | {at_least}{at_ultimate.estimate:.2f} "
            f"({at_ultimate.lower:.2f}–{at_ultimate.upper:.2f}) | {only.prediction_margin.value:.2f}, "
            f"{only.factor:.2f}, {only.factor_lower:.2f} |"
        )
    return lines


def sweep_lines(safety: SafetyFile) -> list[str]:
    """Tabulate the budget sweep."""
    (curve,) = safety.curves
    lines = [
        "| sweep point | predicted KL | measured KL | perplexity | accuracy | same top token | flips |",
        "|---|---|---|---|---|---|---|",
        f"| original | | | {curve.original_perplexity:.2f} | {curve.original_accuracy.estimate:.1%} | | |",
    ]
    for sweep_point in safety.sweep:
        (case,) = sweep_point.domains
        lines.append(
            f"| {sweep_point.name} | {sweep_point.predicted_kl_nats:.4f} | "
            f"{case.kl_nats.estimate:.4f} ({case.kl_nats.lower:.4f}–{case.kl_nats.upper:.4f}) | "
            f"{case.perplexity.estimate:.2f} | {case.next_token_accuracy.estimate:.1%} | "
            f"{case.top1_agreement.estimate:.1%} | {case.flips.estimate:.1%} |"
        )
    return lines


def draw(safety: SafetyFile, path: Path) -> None:
    """Draw the load–deflection curve."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "scantling"
    (curve,) = safety.curves
    cases = [sweep_point.domains[0] for sweep_point in safety.sweep]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    measured = [case.kl_nats.estimate for case in cases]
    predicted = [sweep_point.predicted_kl_nats for sweep_point in safety.sweep]
    left.loglog(predicted, measured, "o-", color="#0072B2", label="sweep")
    left.loglog(
        [min(predicted), max(predicted)], [min(predicted), max(predicted)], "--", color="#666666", label="equal"
    )
    left.set(xlabel="predicted KL, nats per token", ylabel="measured KL, nats per token")
    losses = [100 * (case.perplexity.estimate / curve.original_perplexity - 1) for case in cases]
    right.loglog(measured, [max(loss, 1e-3) for loss in losses], "o-", color="#0072B2", label="sweep")
    for point, words, colour in (
        (curve.yield_point, f"yield, {safety.offset:.0%}", "#E69F00"),
        (curve.ultimate_point, f"ultimate, {safety.ultimate:.0%}", "#D55E00"),
    ):
        right.axvspan(point.kl_nats.lower, point.kl_nats.upper, color=colour, alpha=0.2)
        right.axvline(point.kl_nats.estimate, color=colour, label=words)
    for mark, plan in zip("sD^v<>", safety.plans, strict=False):
        case = plan.plan.domains[0]
        rise = 100 * (case.perplexity.estimate / curve.original_perplexity - 1)
        right.loglog([case.kl_nats.estimate], [rise], mark, color="#009E73", label=plan.plan.name)
    right.set(xlabel="measured KL, nats per token", ylabel="rise of perplexity, %")
    for axes in (left, right):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def report(run: SafetyRun) -> None:
    """Write the figures."""
    profile = run.cache.profile
    sweep_points, plans = sweep(profile, SETTINGS.num_points, silent), entries(profile)
    in_halves = run.cache.measure({**sweep_points, **plans})
    case, measured = whole(run.cache.domains, in_halves)
    test = measured_sweep(profile, sweep_points, measured, [case], SETTINGS.thresholds)
    found = factors(test, plans, measured)
    predicted = factors(test, plans, measured, "predicted")
    safety = run.record((test, found)).model_copy(
        update={"profile_path": "model.safetensors", "model_source": demo_model_path().name}
    )
    (curve,) = safety.curves
    at_yield, at_ultimate = curve.yield_point.kl_nats, curve.ultimate_point.kl_nats
    lines = [
        "# Factors of safety of the demo model",
        "",
        f"SmolLM2-135M-Instruct, {curve.num_sequences} × {curve.sequence_length} tokens of {curve.num_documents} "
        f"documents of {curve.text_source} that were not calibrated on; rounding {profile.record.rounding['method']}; "
        "95 % intervals by drawing documents anew. Reproduce with `python benchmarks/safety.py`.",
        "",
        f"Yield, perplexity {safety.offset:.0%} up: D = {at_yield.estimate:.4f} nats ({at_yield.lower:.4f}–"
        f"{at_yield.upper:.4f}). Ultimate, perplexity {safety.ultimate:.0%} up: D = {at_ultimate.estimate:.4f} "
        f"({at_ultimate.lower:.4f}–{at_ultimate.upper:.4f}){'' if curve.ultimate_point.reached else ', not reached'}. "
        f"Onset of a loss beyond doubt on this text: {curve.onset_point}. Predictions hold (within a quarter) up to a "
        f"measured {curve.elastic_limit_nats or 0:.4f} nats.",
        "",
        *plan_lines(found, predicted),
        "",
        ranking(found),
        "",
        "## The budget sweep",
        "",
        *sweep_lines(safety),
        "",
        "## Between two halves of the text",
        "",
        "No document is in both. How far the factor of each plan moves (in the order of the table above), as a share "
        "of the mean of the two:",
        "",
        *stability(run, sweep_points, plans, in_halves),
        "",
    ]
    (HERE / "results" / "safety.md").write_text("\n".join(lines), encoding="utf-8")
    write_safety(safety, HERE.parent / "docs" / "safety-demo.json")
    draw(safety, HERE.parent / "docs" / "safety-demo.svg")


if __name__ == "__main__":
    {"measure": measure, "report": report}[sys.argv[1]](prepared(Path(sys.argv[2]), Path(sys.argv[3])))
