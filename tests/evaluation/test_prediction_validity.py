"""Prediction validity: where predictions hold, and the factor that corrects them."""

import math
from typing import Any

import pytest
from typer.testing import CliRunner

from scantling.__main__ import app
from scantling.common.errors import OutOfRangeError, SolverError
from scantling.common.progress import silent
from scantling.evaluation import validity_sweep
from scantling.evaluation.comparison import ComparisonEntry
from scantling.evaluation.prediction_validity import prediction_validity, sweep_point
from scantling.models.loading import load_model
from scantling.planning.diagnose import silent_layer_warnings
from scantling.sensitivity.joint import joint_samples
from scantling.sensitivity.profile import read_profile, uniform_formats


def row(predicted: float, measured: float, error: float | None = 0.01) -> ComparisonEntry:
    return ComparisonEntry(
        name=f"plan {predicted}",
        role="plan",
        says="",
        formats=(),
        stored_bytes=1,
        average_bits=3.0,
        bits_by_kind={},
        bits_by_block={},
        predicted_kl_nats=predicted,
        predicted_kl_standard_error_nats=None if error is None else error * predicted,
        predicted_perplexity=1.0,
        measured_kl_nats=measured,
        measured_kl_standard_error_nats=None if error is None else error * measured,
        measured_perplexity=1.0,
        measured_top1_agreement=1.0,
        measured_kl_nats_by_sequence=(measured,),
    )


def test_the_range_ends_before_the_first_prediction_that_is_off():
    found = prediction_validity([
        sweep_point(row(*pair)) for pair in [(1.0, 3.0), (0.01, 0.011), (0.1, 0.12), (2.0, 2.0)]
    ])
    assert [one.holds for one in found.sweep_points] == [True, True, False, True]
    assert found.elastic_limit_nats == 0.1
    assert found.correction == pytest.approx(math.sqrt(1.1 * 1.2))
    assert found.correction_error == pytest.approx(abs(math.log(1.2 / 1.1)) / math.sqrt(2))


def test_a_difference_within_its_error_is_none():
    sure, unsure = sweep_point(row(1.0, 1.5)), sweep_point(row(1.0, 1.5, 0.3))
    assert (sure.holds, unsure.holds) == (False, True)
    assert unsure.ratio_standard_error == pytest.approx(1.5 * 0.3 * math.sqrt(2))
    assert sweep_point(row(1.0, 1.5, None)).ratio_standard_error is None
    assert not sweep_point(row(1.0, 1.5, None)).holds


def test_where_nothing_holds_there_is_no_range():
    found = prediction_validity([sweep_point(row(1.0, 2.0))])
    assert found.elastic_limit_nats is found.correction is found.correction_error is None


def test_the_sweep_leaves_out_budgets_beyond_the_formats_and_hides_no_other_error():
    class Solved:
        def formats(self):
            return {"layer": "int4-g64"}

    def only_from_3_to_4_bits(bits) -> Any:
        if not 3 <= bits <= 4:
            raise OutOfRangeError("no such plan")
        return Solved()

    assert [one.name for one in validity_sweep._solved(only_from_3_to_4_bits)] == [
        "solved at 3 bits",
        "solved at 3.5 bits",
        "solved at 4 bits",
    ]

    def broken(bits):
        raise SolverError("the plan breaks its own limits")

    with pytest.raises(SolverError, match="breaks its own limits"):
        validity_sweep._solved(broken)


def test_layers_that_nothing_passes_through_are_named(tmp_path, llama_folder, text_file):
    words = ["profile", llama_folder, "--text", text_file, "-o", tmp_path / "p", "--length", "32", "--sequences", "3"]
    result = CliRunner().invoke(
        app, [str(w) for w in [*words, "--pricing-sequences", "3", "--formats", "int2-g32,int8-row"]]
    )
    assert result.exit_code == 0
    profile = read_profile(tmp_path / "p")
    assert silent_layer_warnings(profile) == []
    profile.measured_samples[4] = 0.0
    (warning,) = silent_layer_warnings(profile)
    assert "1 layers cost nothing" in warning
    assert profile.record.layers[4].name in warning


def test_a_profile_can_be_checked_by_measurement(tmp_path, llama_folder, text_file):
    words = ["profile", llama_folder, "--text", text_file, "-o", tmp_path / "p", "--length", "32"]
    words += ["--sequences", "3", "--pricing-sequences", "8", "--formats", "int2-g32,int4-g32,int8-row", "--check"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    for name in ("uniform int8-row", "uniform int2-g32", "solved at 3 bits", "measured /", "As a whole"):
        assert name in " ".join(result.output.split())
    profile = read_profile(tmp_path / "p")
    formats = uniform_formats(profile, "int8-row")
    (whole,) = joint_samples(load_model(str(llama_folder)), profile, {"it": formats}, silent).values()
    assert f"{whole.price():.5f}" in result.output
    assert "elastic range" in result.output
