"""Fits recover the laws that made the points, intervals cover them, and points that do not suffice are refused."""

import json

import numpy as np
import pytest

from helpers.command_line import run
from scantling.common.errors import InputError, ScantlingError
from scantling.hardware.decode_laws import operate
from scantling.hardware.fit import fit_power, fit_speed
from scantling.hardware.fitted_file import hardware_of, law_record
from scantling.hardware.points import MeasuredPoint, MeasuredPoints, read_points
from scantling.hardware.specification import Hardware, load_hardware, write_hardware
from scantling.reporting.terminal.hardware_table import draw_fits

BANDWIDTH = 100e9
SHARES = {"int4": 0.6, "float16": 0.9}
OVERHEAD, BASE, TRAFFIC = 2e-3, 30.0, 80.0


def point(name, read, noise=1.0, rate=None, watt_noise=0.0):
    seconds = (read / (SHARES[name] * BANDWIDTH) + OVERHEAD) * noise
    rate = 1 / seconds if rate is None else rate
    return MeasuredPoint(name, read, 1 / seconds, BASE + TRAFFIC * read * rate / BANDWIDTH + watt_noise, rate)


POINTS = [point(name, size * 1e8) for name in SHARES for size in (3, 7, 12)]


def test_exact_points_give_back_the_laws_that_made_them():
    speed, power = fit_speed(POINTS, BANDWIDTH), fit_power(POINTS, BANDWIDTH)
    for name, share in SHARES.items():
        assert speed.number(f"efficiency of {name}").value == pytest.approx(share, rel=1e-9)
    assert speed.number("overhead").value == pytest.approx(OVERHEAD, rel=1e-9)
    assert power.number("base_power").value == pytest.approx(BASE)
    assert power.number("traffic_power").value == pytest.approx(TRAFFIC)
    assert max(speed.largest_error, power.largest_error) < 1e-9
    assert power.r_squared == pytest.approx(1)
    for fit in (speed, power):
        for residual in fit.residuals:
            assert residual.left_out == pytest.approx(residual.measured)


def test_no_other_parameters_leave_a_smaller_sum_of_squares():
    draw = np.random.default_rng(3)
    points = [point(name, size * 1e8, noise=draw.normal(1, 0.05)) for name in SHARES for size in (2, 5, 9, 14)]
    fit = fit_speed(points, BANDWIDTH)
    shares = [fit.number(f"efficiency of {name}").value for name in SHARES]

    def squares(numbers):
        int4, float16, overhead = numbers
        share = {"int4": int4, "float16": float16}
        return sum(
            ((p.read_bytes / (share[p.format] * BANDWIDTH) + overhead) * p.tokens_per_second - 1) ** 2 for p in points
        )

    best = squares([*shares, fit.number("overhead").value])
    for moved in np.eye(3) * 1e-3:
        for sign in (-1, 1):
            factors = 1 + sign * moved
            assert squares(np.array([*shares, fit.number("overhead").value]) * factors) > best


def test_intervals_cover_the_truth_about_95_times_in_100():
    draw = np.random.default_rng(0)
    covered = {"efficiency of int4": 0, "overhead": 0, "base_power": 0, "traffic_power": 0}
    truth = {"efficiency of int4": 0.6, "overhead": OVERHEAD, "base_power": BASE, "traffic_power": TRAFFIC}
    for _ in range(300):
        points = [
            point(name, size * 1e8, draw.normal(1, 0.02), watt_noise=draw.normal(0, 1))
            for name in SHARES
            for size in (3, 7, 12)
        ]
        fits = (fit_speed(points, BANDWIDTH), fit_power(points, BANDWIDTH))
        for number in (n for fit in fits for n in fit.numbers if n.name in covered):
            covered[number.name] += abs(number.value - truth[number.name]) <= (number.half_width or 0)
    assert all(0.90 * 300 <= count <= 0.985 * 300 for count in covered.values()), covered


def test_points_that_do_not_identify_the_parameters_are_refused():
    one_model = [point(name, 5e8) for name in SHARES]
    with pytest.raises(
        InputError, match=r"2 point\(s\) do not identify 2 efficiencies and the overhead \(int4: 1 size"
    ):
        fit_speed(one_model, BANDWIDTH)
    same_size = [point("int4", 5e8), point("int4", 5e8 * (1 + 1e-9)), point("int4", 5e8)]
    with pytest.raises(InputError, match="Missing: one more model size"):
        fit_speed(same_size, BANDWIDTH)
    with pytest.raises(InputError, match="do not tell base_power from traffic_power"):
        fit_power([point("int4", 5e8, rate=10), point("int4", 5e8, rate=10)], BANDWIDTH)
    with pytest.raises(InputError, match=r"1 point\(s\) with watts"):
        fit_power(POINTS[:1], BANDWIDTH)
    falling = [MeasuredPoint("*", 1e9, 50, 60, 10), MeasuredPoint("*", 1e9, 50, 50, 40)]
    with pytest.raises(InputError, match=r"power falls with traffic, by 33\.33 W"):
        fit_power(falling, BANDWIDTH)
    with pytest.raises(InputError, match=r"an efficiency of 6 for int4, which is not a share of 10 GB/s"):
        fit_speed(POINTS, BANDWIDTH / 10)


def test_two_points_fix_two_numbers_and_nothing_tells_how_well():
    fit = fit_speed([point("int4", 3e8), point("int4", 9e8)], BANDWIDTH)
    assert [number.half_width for number in fit.numbers] == [None, None]
    assert all(residual.left_out is None for residual in fit.residuals)
    assert fit.number("overhead").value == pytest.approx(OVERHEAD)


def test_an_overhead_below_zero_is_held_at_zero_and_said(tmp_path):
    rushed = [MeasuredPoint("*", size, 1 / (size / 90e9 - 1e-3 + wobble), None, 1) for size, wobble in
              ((3e8, 0), (6e8, 1e-4), (9e8, 0))]  # fmt: skip
    fit = fit_speed(rushed, BANDWIDTH)
    overhead = fit.number("overhead")
    assert overhead.value == 0
    assert overhead.held
    assert fit.numbers[0].half_width is not None
    hardware = hardware_of(
        Hardware.model_validate({"name": "x", "bandwidth": "100 GB/s"}),
        [fit],
        MeasuredPoints("p.csv", "ab" * 32, tuple(rushed)),
    )
    assert hardware.overhead is not None
    assert hardware.overhead.origin == "estimate"
    assert "held at zero" in hardware.overhead.source


CSV = """# my card
format, read_bytes, tokens_per_second, watts, rate
int4-g64, 300 MB, 142.857143 tok/s, 64.29 W,
int4-g64, 0.7 GB, 73.1707 tok/s, ,
int4-g64, 1.2 GB, 45.4545 tok/s, 39.6 W, 10 tok/s
"""


def test_a_csv_file_becomes_a_hardware_file_that_predicts_its_points(tmp_path):
    (tmp_path / "points.csv").write_text(CSV)
    result = run(
        "hardware", "fit", tmp_path / "points.csv", "--bandwidth", "100 GB/s", "-o", tmp_path / "card.yaml", "--name",
        "card", "--picture", tmp_path / "fit.png", "--json",
    )  # fmt: skip
    speed, power = json.loads(result.output)
    assert speed["numbers"][0]["value"] == pytest.approx(0.6, rel=1e-3)
    assert power["numbers"][1] | {"value": 30} == {
        "name": "base_power", "value": 30, "interval_half_width": None, "held_at_zero": False,
    }  # fmt: skip
    assert (tmp_path / "fit.png").read_bytes()[:4] == b"\x89PNG"
    card = load_hardware(str(tmp_path / "card.yaml"))
    points = read_points(tmp_path / "points.csv")
    for measured in points.points:
        full = operate({"int4-g64": int(measured.read_bytes)}, card)
        assert full.tokens_per_second == pytest.approx(measured.tokens_per_second, rel=1e-3)
        if measured.watts is not None:
            rate = min(measured.rate, full.tokens_per_second * (1 - 1e-9))
            assert operate({"int4-g64": int(measured.read_bytes)}, card, rate).watts == pytest.approx(
                measured.watts, rel=1e-3
            )
    assert card.efficiency[0].share.origin == "measured"  # three points, two parameters
    assert card.base_power is not None
    assert card.overhead is not None
    assert card.base_power.origin == "estimate"  # two points, two parameters: nothing tests them
    assert points.sha256[:16] in card.overhead.source


def test_other_numbers_of_the_base_machine_stay(tmp_path):
    points = MeasuredPoints("p.csv", "ab" * 32, tuple(POINTS))
    base = load_hardware("rtx-4090")
    found = hardware_of(base, [fit_speed(POINTS, BANDWIDTH)], points)
    assert (found.memory, found.base_power) == (base.memory, base.base_power)
    assert [entry.formats for entry in found.efficiency] == ["int4", "float16", *(e.formats for e in base.efficiency)]
    again = hardware_of(found, [fit_speed(POINTS, BANDWIDTH)], points)
    assert again.efficiency == found.efficiency  # what is fitted anew replaces what was
    one = [MeasuredPoint("*", point.read_bytes, point.tokens_per_second, None, 1) for point in POINTS[:3]]
    assert len(hardware_of(found, [fit_speed(one, BANDWIDTH)], points).efficiency) == 1  # one for all leaves no other
    write_hardware(found, tmp_path / "d.yaml")
    assert load_hardware(str(tmp_path / "d.yaml")) == found
    record = law_record(fit_speed(POINTS, BANDWIDTH))
    assert record.num_points == 6
    assert record.largest_left_out_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "has no measurements"),
        ("read_bytes,tokens_per_second\n", "has no measurements"),
        ("read_bytes,speed\n1 GB,3 tok/s\n", r"x\.csv:1: the columns are read_bytes, speed"),
        ("read_bytes,read_bytes,tokens_per_second\n1 GB,1 GB,3 tok/s\n", "each once"),
        ("read_bytes,tokens_per_second\n\n1 GB\n", r"x\.csv:3: 1 cells for 2 columns"),
        ("read_bytes,tokens_per_second\n1 GB,3\n", r"x\.csv:2: tokens_per_second: '3' has no unit"),
        ("read_bytes,tokens_per_second\n1 W,3 tok/s\n", "'W' in '1 W' is not a unit of bytes per token"),
        ("read_bytes,tokens_per_second\n0 GB,3 tok/s\n", "read_bytes is 0 GB. Measurements must be above 0"),
        ("read_bytes,tokens_per_second,rate\n1 GB,3 tok/s,2 tok/s\n", "a rate without watts has no meaning"),
        ("read_bytes,tokens_per_second,watts,rate\n1 GB,3 tok/s,9 W,4 tok/s\n", "a rate of 4 tok/s is beyond the full"),
        ("read_bytes,tokens_per_second\nnan GB,3 tok/s\n", "is not a number of bytes per token"),
    ],
)
def test_a_file_of_measurements_that_is_wrong_is_refused_with_its_line(tmp_path, text, match):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        read_points(tmp_path / "x.csv")


def test_what_a_fit_needs_is_said(tmp_path):
    (tmp_path / "p.csv").write_text(CSV)
    for words, match in (
        ((), "Give either --hardware or --bandwidth"),
        (("--bandwidth", "1 GB/s", "--hardware", "rtx-4090"), "either --hardware or"),
        (("--bandwidth", "100 W"), "not a unit of bytes per second"),
        (("--bandwidth", "100 GB/s", "--picture", tmp_path / "f.txt"), "give a name that ends in"),
    ):
        with pytest.raises(ScantlingError, match=match):
            run("hardware", "fit", tmp_path / "p.csv", "-o", tmp_path / "o.yaml", *words)
        assert not (tmp_path / "o.yaml").exists()
    with pytest.raises(ScantlingError, match="cannot read the measurements"):
        read_points(tmp_path / "missing.csv")
    with pytest.raises(ScantlingError, match="give a name"):
        draw_fits([fit_speed(POINTS, BANDWIDTH)], "t", tmp_path / "x.txt")
