"""The laws against the rows of the integer program, by their own arithmetic, and at their edges."""

import itertools
from fractions import Fraction

import pytest

from helpers.tiny_profiles import choices, formats_of, make_profile
from scantling import Program
from scantling.common.errors import InputError, MissingFigureError, OutOfRangeError
from scantling.hardware.decode_laws import (
    above_power_limit,
    figures_behind,
    operate,
    query_cost,
    seconds_per_step,
    watts_at,
)
from scantling.hardware.resources import Rows
from scantling.hardware.specification import Hardware

CARD = Hardware.model_validate({
    "name": "card",
    "bandwidth": "1 GB/s",
    "efficiency": [{"formats": "int2*", "share": 0.5}, {"formats": "*", "share": 0.8}],
    "overhead": "10 us",
    "base_power": "20 W",
    "traffic_power": "30 W",
    "power_limit": "45 W",
    "compute": "1 GFLOP/s",
    "compute_power": "7 W",
})


@pytest.mark.parametrize("batch", [1, 3])
def test_the_laws_are_the_rows_of_the_program(batch):
    profile = make_profile()
    workload = {"context": 40, "batch": batch}
    full = Program(profile).hardware(CARD).workload(**workload)
    rated = full.workload(rate="50 tok/s")
    steps = 1e-6
    for choice in list(choices(full.instance()))[::53]:
        read = full.rows.read_bytes(formats_of(full.instance(), choice))
        point, slow = operate(read, CARD, batch=batch), operate(read, CARD, rate=50, batch=batch)
        amounts = {name: full.instance().amount(name, choice) for name in ("seconds_per_token", "joules_per_token")}
        assert 1 / point.tokens_per_second == pytest.approx(amounts["seconds_per_token"] * 1e-12, rel=steps)
        assert point.joules_per_token == pytest.approx(amounts["joules_per_token"] * 1e-9, rel=1e-4)
        assert slow.watts == pytest.approx(rated.instance().amount("watts", choice) * 1e-6, rel=1e-5)
        assert slow.joules_per_token == pytest.approx(
            rated.instance().amount("joules_per_token", choice) * 1e-9, rel=1e-5
        )
        assert sum(read.values()) <= full.instance().amount("read_bytes_per_token", choice) * batch


def test_what_is_read_is_split_by_format():
    rows = Rows(make_profile())
    formats = {record.name: rows.profile.record.formats[record.formats[0]] for record in rows.profile.record.layers}
    read = rows.read_bytes(formats)
    int2 = sum(rows.profile.record.layers[i].stored_bytes[0] for i in range(6))
    assert read == {"int2-g32": int2, "float16": 2 * 96 * 64 + 2 * 64 + 1000}  # the head, one row, norms
    original = rows.read_bytes(None)
    assert original == {"float16": 2 * sum(r.num_weights for r in rows.profile.record.layers[:6]) + read["float16"]}


def test_energy_is_power_times_time_and_full_speed_is_the_fastest_rate():
    read = {"int2-g32": 10**6, "float16": 3 * 10**6}
    point = operate(read, CARD)
    assert point.watts / point.tokens_per_second == pytest.approx(point.joules_per_token)
    assert operate(read, CARD, rate=1 / seconds_per_step(read, CARD)) == point
    rates = [point.tokens_per_second * share for share in (0.1, 0.5, 0.999)]
    slower = [operate(read, CARD, rate=rate) for rate in rates]
    assert all(a.watts < b.watts and a.joules_per_token > b.joules_per_token for a, b in itertools.pairwise(slower))
    with pytest.raises(OutOfRangeError, match=r"a rate of .* tok/s is out of reach: card is predicted to give"):
        operate(read, CARD, rate=point.tokens_per_second * 1.001)
    with pytest.raises(OutOfRangeError, match="is out of reach"):
        operate(read, CARD, rate=0)
    assert watts_at(read, CARD, Fraction(0)) == 20


def test_a_query_is_its_prompt_and_its_steps():
    read = {"float16": 8 * 10**6}  # 10 ms and 10 us a step
    one = query_cost(read, CARD, 1, 1, 10**9)
    step = operate(read, CARD)
    assert one.seconds == pytest.approx(1 / step.tokens_per_second)
    assert one.joules == pytest.approx(step.joules_per_token)
    longer = query_cost(read, CARD, 1, 11, 10**9)
    assert longer.seconds == pytest.approx(11 * one.seconds)
    assert longer.joules == pytest.approx(11 * one.joules)
    heavy = query_cost(read, CARD, 100, 1, 10**6)  # 2e8 operations: 0.2 s
    assert heavy.prompt_seconds == pytest.approx(0.2)
    assert heavy.prompt_joules == pytest.approx(20 * 0.2 + 30 * 8e6 / 1e9 + 7 * 0.2)
    light = query_cost(read, CARD, 2, 1, 1000)  # reading takes longer than computing
    assert light.prompt_seconds == pytest.approx(0.01001)
    assert light.answer_joules == 0


def test_what_a_query_lacks_is_named():
    read = {"float16": 10**6}
    for lacks in ("compute", "compute_power"):
        without = CARD.model_copy(update={lacks: None})
        query_cost(read, without, 1, 5, 10)
        with pytest.raises(MissingFigureError, match=f"a query needs the hardware's {lacks}, which card lacks"):
            query_cost(read, without, 2, 5, 10)
    for lengths in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match="must each have at least 1 token"):
            query_cost(read, CARD, *lengths, 10)


def test_a_power_above_the_limit_is_reported():
    assert above_power_limit(45, CARD) == ""
    assert above_power_limit(45.1, CARD) == (
        "45.1 W is above the power limit of card, 45 W: it would run slower than predicted."
    )
    assert above_power_limit(450, CARD.model_copy(update={"power_limit": None})) == ""


def test_the_numbers_behind_a_prediction_are_listed():
    found = figures_behind(CARD, ["int2-g32", "float16"])
    assert set(found) == {
        "bandwidth", "overhead", "base_power", "traffic_power", "compute", "compute_power", "efficiency of int2*",
        "efficiency of *",
    }  # fmt: skip
    assert set(figures_behind(CARD, ["float16"])) == set(found) - {"efficiency of int2*"}
