"""Quantities: exact, with their unit, and nothing else."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scantling.common.errors import InputError
from scantling.common.units import (
    BYTES_PER_UNIT,
    UNITS,
    exact_number,
    parse_bytes,
    parse_quantity,
    render_bytes,
    render_quantity,
)


@pytest.mark.parametrize(
    ("text", "measure", "expected"),
    [
        ("18 GiB", "bytes", 18 * 2**30),
        ("18GB", "bytes", 18 * 10**9),
        (" 1.5 kB ", "bytes", 1500),
        ("165 W", "watts", 165),
        ("15W", "watts", 15),
        ("250 mW", "watts", Fraction(1, 4)),
        ("1.2kW", "watts", 1200),
        ("2.5 J", "joules", Fraction(5, 2)),
        ("3 mJ/tok", "joules", Fraction(3, 1000)),
        ("1 mWh", "joules", Fraction(18, 5)),
        ("0.1 ms", "seconds", Fraction(1, 10000)),
        ("7 us", "seconds", Fraction(7, 10**6)),
        ("7 µs", "seconds", Fraction(7, 10**6)),
        ("7 μs", "seconds", Fraction(7, 10**6)),  # the other letter that looks like it
        ("60 tok/s", "tokens per second", 60),
        ("1e2 tokens/s", "tokens per second", 100),
        ("2039 GB/s", "bytes per second", 2039 * 10**9),
        ("8 GB/tok", "bytes per token", 8 * 10**9),
        ("0.05", "nats", Fraction(1, 20)),
        (0.1, "nats", Fraction(1, 10)),
        ("50 mnats", "nats", Fraction(1, 20)),
        (3.3, "bits", Fraction(33, 10)),
        (4, "bits", 4),
    ],
)
def test_a_quantity_is_read_exactly(text, measure, expected):
    assert parse_quantity(text, measure) == expected


@given(st.integers(0, 10**15), st.integers(0, 6), st.sampled_from(sorted(BYTES_PER_UNIT)))
def test_decimals_leave_no_dust(digits, places, unit):
    number = f"{digits // 10**places}.{digits % 10**places:0{places}d}" if places else str(digits)
    exact = Fraction(digits, 10**places) * BYTES_PER_UNIT[unit]
    assert parse_quantity(f"{number} {unit}", "bytes") == exact
    assert parse_bytes(f"{number}{unit}") == exact.numerator // exact.denominator


@pytest.mark.parametrize(
    ("text", "measure", "match"),
    [
        ("60", "bytes", "'60' has no unit. Write for instance 60MiB; known units: B, kB"),
        (60, "watts", "60 has no unit. Write for instance 60W"),
        ("60 W", "bytes", r"'W' in '60 W' is not a unit of bytes \(it is one of watts\). Known units: B"),
        ("60 GB", "watts", r"not a unit of watts \(it is one of bytes or bytes per token\)"),
        ("60 tok/s", "seconds", r"one of tokens per second"),
        ("60 parsec", "seconds", "'parsec' in '60 parsec' is not a unit of seconds. Known"),
        ("60 gib", "bytes", "not a unit of bytes"),
        ("18 GiB/tok", "bytes", "one of bytes per token"),
        ("-5 W", "watts", "positive number"),
        ("1_000 B", "bytes", "positive number"),
        ("1,5 GB", "bytes", "positive number"),
        ("٣ GB", "bytes", "positive number"),
        ("five W", "watts", "positive number"),
        ("", "bytes", "positive number"),
        ("nan", "nats", "Write a number"),
        (float("nan"), "nats", "Write a number"),
        (float("inf"), "bits", "Write a number"),
        (float("-inf"), "bytes", "positive number"),
        (True, "bits", "Write a number"),
        (-1, "nats", "Write a number"),
        ("1e999999999 B", "bytes", "positive number"),
        ("9" * 10**6 + " B", "bytes", "positive number"),
        ("5 " + "W" * 10**5, "watts", "not a unit"),
    ],
)
def test_anything_else_is_refused_and_the_mend_named(text, measure, match):
    with pytest.raises(InputError, match=match) as refusal:
        parse_quantity(text, measure)
    assert len(str(refusal.value)) < 120_000


@pytest.mark.parametrize("value", ["abc", "1e999", float("nan"), float("inf"), True, "", "1.2.3"])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="is not a number"):
        exact_number(value)


@pytest.mark.parametrize(
    ("amount", "measure", "text"),
    [
        (60 * 2**20, "bytes", "60.00 MiB (62,914,560 bytes)"),
        (-12, "bytes", "-12 bytes"),
        (Fraction(1, 60), "seconds", "16.67 ms"),
        (0, "watts", "0 W"),
        (165.04, "watts", "165 W"),
        (1650, "watts", "1.65 kW"),
        (2e-9, "joules", "2 nJ"),
        (3.5, "bits", "3.5 bits"),
        (2.5, "", "2.5"),
        (2e30, "joules", "2e+30 joules"),
    ],
)
def test_quantities_are_shown_with_a_unit_that_fits(amount, measure, text):
    assert render_quantity(amount, measure) == text


def test_every_shown_number_of_bytes_holds_the_exact_one():
    for power in range(45):
        assert f"{2**power:,} bytes" in render_bytes(2**power)


def test_no_unit_means_two_things_of_one_measure():
    for units in UNITS.values():
        assert all(factor > 0 for factor in units.values())
