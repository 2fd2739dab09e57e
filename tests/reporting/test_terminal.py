"""What the terminal shows fits its width, with long names and large numbers too, and a plan fits one screen."""

import math
import re
from io import StringIO

import pytest
from rich.console import Console

from helpers.command_line import run
from helpers.reported import comparison_of, safety_of
from helpers.tiny_profiles import FORMATS, layer, make_profile, profile_of
from scantling.evaluation.bootstrap import BootstrapSettings, Interval
from scantling.evaluation.comparison import FormatChange
from scantling.evaluation.prediction import Parameter, PointRecord, PredictedEntry, Prediction, QueryRecord
from scantling.evaluation.prediction_validity import PredictionValidity, SweepPoint
from scantling.evaluation.tasks.accuracies import Accuracy, AccuracyFile, PlanAccuracy
from scantling.evaluation.tasks.efficiency import Efficiency, Power
from scantling.hardware.fit import FittedNumber, LawFit, Residual
from scantling.hardware.measured_hardware import MeasuredHardware, RunRecord
from scantling.hardware.points import MeasuredPoint
from scantling.hardware.specification import hardware_names, load_hardware
from scantling.hardware.workload import Workload
from scantling.planning.diagnosis import Diagnosis, NaiveCounterpart
from scantling.planning.engine_cost import EngineCost, Saved
from scantling.planning.pareto import Frontier, FrontierAxis, FrontierPoint
from scantling.planning.plan import LimitUse, SafetyClaim, read_plan
from scantling.planning.plan_diff import Difference, LayerChange
from scantling.reporting.terminal.comparison_tables import print_comparison
from scantling.reporting.terminal.diagnostics import print_prediction_validity
from scantling.reporting.terminal.efficiency_table import print_accuracies, print_efficiency
from scantling.reporting.terminal.hardware_table import print_fits, print_hardware, print_measured
from scantling.reporting.terminal.lines import shorten_left
from scantling.reporting.terminal.plan_tables import print_difference, print_frontier
from scantling.reporting.terminal.plan_view import render_plan
from scantling.reporting.terminal.prediction_table import print_prediction
from scantling.reporting.terminal.profile_table import print_profile
from scantling.reporting.terminal.safety_table import print_safety
from scantling.sensitivity.cross_fit import CrossFit
from scantling.sensitivity.profile import write_profile

WIDTH, SCREEN = 80, 24
LONG = "an/unusually/long/folder/of/plans/with_a_name_that_says_everything_there_is_to_say_about_it-110MiB.json"
SMOLLM = {f"self_attn.{name}_proj": (64, 64) for name in "qkvo"} | {
    f"mlp.{name}_proj": (64, 64) for name in ("gate", "up", "down")
}


def printed(show, *arguments, width=WIDTH, **options):
    written = StringIO()
    show(*arguments, Console(file=written, width=width, markup=False), **options)
    lines = written.getvalue().splitlines()
    assert lines
    assert max(map(len, lines)) <= width
    return lines


def words_of(lines):
    return " ".join(" ".join(lines).split())


def diagnosis(**changes):
    nothing = Diagnosis(
        naive=None, cross_fit=None, cross_fit_left_out=None, engine_cost=None, rare_experts={}, num_experts=0,
        warnings=(),
    )  # fmt: skip
    return nothing.model_copy(update=changes)


EVERYTHING = diagnosis(
    naive=NaiveCounterpart(
        name="even int3-g64/int4-g64", stored_bytes=10**12, loss_increase_nats=0.5, saved_nats=0.1,
        saved_standard_error_nats=0.01,
    ),
    cross_fit=CrossFit(0.2, 0.25, 0.01, 4),
    engine_cost=EngineCost("vllm-compressed-tensors", Saved(0.02, 0.004, True), Saved(0.05, math.nan, False)),
    rare_experts={f"model.layers.{index}.block_sparse_moe.experts.{index}": index for index in range(60)},
    num_experts=512,
    warnings=("the model's perplexity on the calibration text is 80.00, and 20.00 with its BOS token in front.",),
)  # fmt: skip


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A plan as large as the demo's, and what the command printed."""
    folder = tmp_path_factory.mktemp("solved")
    profile = make_profile(num_blocks=30, kinds=SMOLLM, num_samples=8)
    write_profile(profile, folder / "profile.safetensors")
    words = ["solve", folder / "profile.safetensors", "--average-bits", "3.5", "--memory", "1 GiB"]
    shown = run(*words, "-o", folder / "plan.json", columns=WIDTH).output.splitlines()
    detailed = run(*words, "-o", folder / "plan.json", "--details", columns=WIDTH).output.splitlines()
    return profile, read_plan(folder / "plan.json"), shown, detailed


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A plan of a mixture of experts with 90 blocks."""
    folder = tmp_path_factory.mktemp("mixture")
    kinds = [f"block_sparse_moe.experts.{expert}.a_rather_long_projection" for expert in range(4)]
    layers = [
        layer(f"model.layers.{block}.{kind}", kind, block, (64, 64), FORMATS[:3])
        for block in range(90)
        for kind in [*kinds, "self_attn.q_proj"]
    ]
    profile = profile_of(layers)
    write_profile(profile, folder / "profile.safetensors")
    words = ["solve", folder / "profile.safetensors", "--average-bits", "3.5", "--no-cross-fit"]
    run(*words, "-o", folder / "plan.json")
    return profile, read_plan(folder / "plan.json")


def test_a_solved_plan_fits_one_screen(solved):
    _, plan, shown, _ = solved
    assert len(shown) <= SCREEN
    assert max(map(len, shown)) <= WIDTH
    words = words_of(shown)
    for said in ("Optimal:", "Without a program the same bytes buy", "proof optimal:", "held back by average_bits"):
        assert said in words
    assert "share of weights" not in words
    heat_map = {line.split()[0]: line.split()[1] for line in shown if "_proj" in line}
    for kind in SMOLLM:
        widths = [one.bits for one in plan.assignments if one.kind == kind]
        assert heat_map[kind] == "".join(map(str, widths))


def test_details_say_everything_else(solved):
    _, plan, shown, detailed = solved
    assert max(map(len, detailed)) <= WIDTH
    words = words_of(detailed)
    for said in ("share of weights", f"{plan.stored_bytes:,} bytes", "has no effect (proven", "cross-fit Such plans"):
        assert said in words
    assert detailed[: len(shown) - 3] != []
    assert "--details" not in words


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("details", [False, True])
def test_long_names_and_large_numbers_do_not_widen_a_plan(mixture, width, details):
    _, plan = mixture
    use = LimitUse(
        name=f"limit of {LONG}", origin=f"{LONG}:12:3", measure="bytes", step=1.0, at_most=10**15, at_least=None,
        used=10**15 - 1, price_per_step=1e-9, has_effect=True,
    )  # fmt: skip
    claim = SafetyClaim(required_factor=1.5, factor=2, factor_lower=1.6, confirmed=False, num_solves=3)
    large = plan.model_copy(update={"limits": (use,) * 6, "safety": claim, "stored_bytes": 10**15})
    lines = printed(render_plan, large, EVERYTHING, width=width, details=details)
    words = words_of(lines)
    assert "60 of 512 experts" in words
    assert "and 55 more" in words
    assert "with its BOS token in front" in words
    assert "PREDICTED, not confirmed" in words
    assert "and by 2 more limits" in words
    assert "expect about" in words
    assert ("its ties cost 0.02±0.004" in words) is details


def test_experts_share_a_row_of_the_heat_map(mixture):
    _, plan = mixture
    lines = printed(render_plan, plan, diagnosis())
    rows = [line for line in lines if line.startswith("….*.a_rather_long_projection")]
    assert len(rows) == 3  # 90 blocks take three parts of 30
    assert len([line for line in lines if line.startswith("self_attn.q_proj")]) == 3


def test_warnings_are_paragraphs_of_their_own(solved):
    _, plan, _, _ = solved
    lines = printed(render_plan, plan, diagnosis(warnings=("one thing.", "another thing.")))
    assert [line.strip() for line in lines if line.startswith("Warning")] == [
        "Warning: one thing.",
        "Warning: another thing.",
    ]


def test_a_cross_fit_that_agrees_is_left_to_the_details(solved):
    _, plan, _, _ = solved
    lines = printed(render_plan, plan, diagnosis(cross_fit=CrossFit(0.2, 0.201, 0.01, 4)))
    assert "unseen" not in words_of(lines)


def interval(value, width=0.3):
    return Interval(estimate=value, lower=value * (1 - width), upper=value * (1 + width))


def changes(num):
    kind = "block_sparse_moe.experts.17.down_proj_of_everything"
    return tuple(
        FormatChange(
            layer=f"model.layers.{index}.{kind}", kind=kind, block=index, before="int3-g128-sym", after="int8-g128-sym",
            stored_bytes=10**10 * (1 - 2 * (index % 2)), saved_nats=12.3, share_of_plan_loss=0.9,
            share_of_other_loss=0.9, paid_nats=1.2, net_nats=11.1,
        )
        for index in range(num)
    )  # fmt: skip


@pytest.mark.parametrize("details", [False, True])
def test_a_comparison_fits(solved, details):
    profile, plan, _, _ = solved
    found = comparison_of(plan, profile)
    bits = dict.fromkeys(range(126), 16.0)
    first = found.entries[0].model_copy(
        update={
            "name": LONG, "stored_bytes": 10**12, "measured_perplexity": 123456.78, "bits_by_block": bits,
            "measured_kl_nats": 0.000534, "measured_kl_standard_error_nats": 0.00005,
        }
    )  # fmt: skip
    large = found.model_copy(update={"entries": (first, *found.entries[1:]), "format_changes": changes(30)})
    words = words_of(printed(print_comparison, large, details=details))
    for number in ("931.32 GiB", "0.000534±0.000050", "123456.78"):
        assert number in words
    assert ("+10,000,000,000" in words) is details
    assert "KL divergence from the original" in words


def test_a_safety_file_fits(solved):
    _, plan, _, _ = solved
    safety = safety_of(plan)
    plans = tuple(
        one.model_copy(update={"plan": one.plan.model_copy(update={"name": LONG}), "factor": 1234.5})
        for one in safety.plans
    )
    points = tuple(one.model_copy(update={"name": "uniform int3-g128-sym"}) for one in safety.sweep)
    words = words_of(printed(print_safety, safety.model_copy(update={"plans": plans, "sweep": points})))
    assert "4.50 (3.60 to 5.62)" in words


def test_a_profile_fits(mixture):
    profile, _ = mixture
    record = profile.record.model_copy(update={"text_source": LONG})
    printed(
        print_profile,
        type(profile)(record, profile.measured_samples, profile.rounding_token_ids, profile.pricing_token_ids),
    )


@pytest.mark.parametrize("rows", [1, 2])
def test_frontiers_fit_and_numbers_stay_whole(rows):
    axes = (
        FrontierAxis(name="resident_bytes", measure="bytes", step=1.0),
        FrontierAxis(name="seconds of a query", measure="seconds", step=1e-3),
    )[:rows]
    point = FrontierPoint(
        bounds=(10**12, 123)[:rows], used=(10**12 - 7, 121)[:rows], status="OPTIMAL", objective=1.5, bound=1.4,
        predicted_loss_nats=0.000534, predicted_loss_standard_error_nats=0.00005, average_bits=12.345, seconds=1.0,
    )  # fmt: skip
    none = FrontierPoint(bounds=(5, 1)[:rows], used=(), status="INFEASIBLE", seconds=1.0)
    found = Frontier(
        model_source=LONG, profile_seed=0, objective="loss_increase", rows=axes, nested=False, solver="CP-SAT 9.15",
        seed=0, layers=(), points=(point, none),
    )  # fmt: skip
    lines = printed(print_frontier, found)
    assert any("931.32 GiB" in line and "0.000534±0.000050" in line and "optimal" in line for line in lines)
    assert any("no plan" in line for line in lines)


def test_a_difference_of_plans_fits():
    change = LayerChange("model.layers.17.block_sparse_moe.experts.3.w1", "int3-g128", "int8-g128", 10**10, -12.345678)
    found = Difference((change,) * 70, 700, (10**12, 10**12 + 10**10), (3.1, 3.2), (123.4, 122.1), False)
    words = words_of(printed(print_difference, found, LONG, LONG.upper()))
    assert "+10,000,000,000 -12.345678" in words
    assert "… and 10 more" in words


def test_predictions_fit():
    point = PointRecord(tokens_per_second=1234.5, watts=1234.5, joules_per_token=0.00123)
    entry = PredictedEntry(
        name=LONG, stored_bytes=10**12, resident_bytes=10**12, read_bytes_per_step=1e12, loss_increase_nats=0.000123,
        tokens_per_second=1234.5, full_speed=point, same_rate=point,
        query=QueryRecord(seconds_to_first_token=1, seconds=123.4, joules=12345.6), notes=("it does not fit",),
    )  # fmt: skip
    found = Prediction(
        model_source=LONG, hardware=LONG, workload=Workload(), same_rate_tokens_per_second=1234.5,
        same_rate_origin="stated", kv_cache_bytes=10**11, activation_bytes=10**9,
        parameters=(Parameter(name="efficiency of int4-g128-sym", value="3.35 TB/s", origin="datasheet", source=LONG),),
        estimates=("overhead",), words={}, entries=(entry, entry.model_copy(update={"name": "original"})),
    )  # fmt: skip
    assert "931.32" in words_of(printed(print_prediction, found))


def test_tables_of_hardware_fit():
    printed(print_hardware, [load_hardware(name) for name in hardware_names()])
    point = MeasuredPoint("int4-g128-sym", 10**11, 1234.5, 456.7, 1234.5)
    numbers = (
        FittedNumber("efficiency of int4-g128-sym", 0.87654, 0.01),
        FittedNumber("overhead", 1e-3, None, held=True),
        FittedNumber("base_power", 123.4, None),
    )
    printed(print_fits, [LawFit("speed", numbers, (Residual(point, 0.0123, 0.0124, 0.0125),))])
    row = RunRecord(
        format="int4-g128-sym", num_blocks=126, whole=True, read_bytes=10**12, measured_tokens_per_second=1234.5,
        median_tokens_per_second=1200.1, predicted_tokens_per_second=1233.3, measured_watts=1234.5,
    )  # fmt: skip
    found = MeasuredHardware(
        engine="llama.cpp b1234", counted="matrices", read_bytes_per_second=3e12, median_bytes_per_second=2.9e12,
        energy_counters=("nvml",), not_read=(LONG,), runs=(row,), law_not_tested="",
    )  # fmt: skip
    assert "931.32 GiB" in words_of(printed(print_measured, found))


def test_tables_of_accuracy_and_validity_fit():
    accuracy = Accuracy(
        task="arc_challenge_of_a_long_name", metric="acc_norm", value=interval(0.5), chance=0.25,
        chance_origin="one in four answers", num_answers=1_234_567,
    )  # fmt: skip
    plans = (PlanAccuracy(name=LONG, formats_sha256="0", accuracies=(accuracy,)),)
    found = AccuracyFile(
        scantling_version="0", model_sha256="0", origin="lm-eval 0.4.9", bootstrap=BootstrapSettings(), plans=plans
    )
    assert "50.0% (35.0%–65.0%)" in words_of(printed(print_accuracies, found))
    power = Power(
        hardware="a100-80gb", watts=1234.5, tokens_per_second=12345.6, joules=12345.6, work="a query of 1000 tokens",
        at="full speed", basis="modelled", origin="predicted",
    )  # fmt: skip
    rows = [Efficiency(entry=LONG, accuracy=accuracy, power=power, per_watt=interval(1e-4), per_joule=interval(1e-5))]
    assert "50.0% (35.0%–65.0%)" in words_of(printed(print_efficiency, rows))
    one = SweepPoint(
        name="uniform int3-g128-sym", average_bits=16.0, predicted_kl_nats=12.34567, measured_kl_nats=12.34567,
        ratio=12.34, ratio_standard_error=1.23, holds=True, joint_kl_nats=12.34567,
    )  # fmt: skip
    validity = PredictionValidity(sweep_points=(one,), elastic_limit_nats=0.1, correction=1.0, correction_error=0.1)
    lines = printed(print_prediction_validity, validity)
    assert any(re.search(r"12\.34567 +12\.34567 +12\.34±1\.23 +yes +12\.34567", line) for line in lines)


def test_names_are_cut_at_the_left():
    assert shorten_left("self_attn.q_proj", 16) == "self_attn.q_proj"
    assert shorten_left("self_attn.q_proj", 7) == "…q_proj"
