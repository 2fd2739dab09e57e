"""Quantities as people write them: ``60 MiB``, ``165 W``, ``60 tok/s``; parsed exactly, without binary fractions.

Knows nothing about what is limited.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from .errors import InputError

BYTES: Final = "bytes"
BYTES_PER_TOKEN: Final = "bytes per token"  # noqa: S105
WATTS: Final = "watts"
JOULES: Final = "joules"
SECONDS: Final = "seconds"
TOKENS_PER_SECOND: Final = "tokens per second"
BYTES_PER_SECOND: Final = "bytes per second"
OPERATIONS_PER_SECOND: Final = "operations per second"
NATS: Final = "nats"
BITS: Final = "bits"

BYTES_PER_UNIT = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_TOKEN_SUFFIXES = ("", "/tok", "/token")


def _powers_of_ten(**exponents: int) -> dict[str, Fraction]:
    return {unit: Fraction(10) ** exponent for unit, exponent in exponents.items()}


def _also_per_token(units: dict[str, Fraction]) -> dict[str, Fraction]:
    return {unit + suffix: factor for suffix in _TOKEN_SUFFIXES for unit, factor in units.items()}


_BYTES = {unit: Fraction(factor) for unit, factor in BYTES_PER_UNIT.items()}
_HOURS = {unit + "h": 3600 * factor for unit, factor in _powers_of_ten(mW=-3, W=0, kW=3).items()}
UNITS: Final[dict[str, dict[str, Fraction]]] = {
    BYTES: _BYTES,
    BYTES_PER_TOKEN: _also_per_token(_BYTES),
    WATTS: _powers_of_ten(W=0, uW=-6, µW=-6, mW=-3, kW=3),
    JOULES: _also_per_token(_powers_of_ten(J=0, nJ=-9, uJ=-6, µJ=-6, mJ=-3, kJ=3) | _HOURS),
    SECONDS: _also_per_token(_powers_of_ten(s=0, ns=-9, us=-6, µs=-6, ms=-3)),
    TOKENS_PER_SECOND: {"tok/s": Fraction(1), "token/s": Fraction(1), "tokens/s": Fraction(1)},
    BYTES_PER_SECOND: {unit + "/s": factor for unit, factor in _BYTES.items()},
    OPERATIONS_PER_SECOND: _powers_of_ten(**{"FLOP/s": 0, "GFLOP/s": 9, "TFLOP/s": 12, "PFLOP/s": 15}),
    NATS: _also_per_token({"nats": Fraction(1), "nat": Fraction(1), "mnats": Fraction(1, 1000)}),
    BITS: {"bits": Fraction(1), "bit": Fraction(1)},
}
_BARE = frozenset({NATS, BITS})  # what is customarily written without a unit
_EXAMPLES = {
    BYTES: "60MiB",
    BYTES_PER_TOKEN: "8GB/tok",
    WATTS: "165 W",
    JOULES: "2.5 J",
    SECONDS: "15 ms",
    TOKENS_PER_SECOND: "60 tok/s",
    BYTES_PER_SECOND: "2039 GB/s",
    OPERATIONS_PER_SECOND: "150 TFLOP/s",
    NATS: "0.05",
    BITS: "3.5",
}
# Few digits: a number of a million digits, or 1e999999999, is refused before anything is computed with it.
_NUMBER = r"(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,2})?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([A-Za-zµμ/]*)\s*")
_PLAIN = re.compile(rf"\s*[-+]?{_NUMBER}\s*")


def _excerpt(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "…'"


def exact_number(value: str | float) -> Fraction:
    """Parse a number without a unit, exactly as written; a float is taken as its shortest decimal form.

    Args:
        value: a number, or its text.

    Returns:
        The number.

    Raises:
        InputError: not a finite decimal number.

    >>> exact_number(0.1)
    Fraction(1, 10)
    """
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, bool) or _PLAIN.fullmatch(text) is None:
        raise InputError(f"{_excerpt(value)} is not a number. Write a decimal number such as 3.5.")
    return Fraction(Decimal(text.strip()))


def parse_quantity(text: str | float, measure: str) -> Fraction:
    """Parse a quantity with its unit.

    Args:
        text: a decimal number from 0 up and a unit; only nats and bits may omit the unit.
        measure: what it must be a quantity of, a key of UNITS.

    Returns:
        The quantity in ``measure``.

    Raises:
        InputError: no number, no unit, or a unit of something else; the message lists the units that fit.

    >>> parse_quantity("165 W", "watts"), parse_quantity("1.5 Wh", "joules"), parse_quantity(0.05, "nats")
    (Fraction(165, 1), Fraction(5400, 1), Fraction(1, 20))
    """
    units, example = UNITS[measure], _EXAMPLES[measure]
    known = ", ".join(units)
    match = None if isinstance(text, bool) else _QUANTITY.fullmatch(text if isinstance(text, str) else repr(text))
    if match is None:
        kind = "a number" if measure in _BARE else "a positive number and a unit"
        raise InputError(f"{_excerpt(text)} is not a number of {measure}. Write {kind}, such as {example}.")
    number, unit = match.groups()
    unit = unit.replace("\u00b5", "\u03bc")  # micro sign and mu look alike
    if not unit and measure not in _BARE:
        suffix = re.sub(r"^[0-9. ]+", "", example)
        raise InputError(
            f"{_excerpt(text)} has no unit. Write for instance {str(text).strip()}{suffix}; known units: {known}."
        )
    if unit and unit not in units:
        others = [other for other, names in UNITS.items() if unit in names]
        hint = f" (it is one of {' or '.join(others)})" if others else ""
        raise InputError(f"{unit!r} in {_excerpt(text)} is not a unit of {measure}{hint}. Known units: {known}.")
    return Fraction(Decimal(number)) * (units[unit] if unit else 1)


def parse_bytes(text: str) -> int:
    """Parse a number of bytes with its unit, B, kB … TB (powers of 1000) or KiB … TiB (of 1024); fractions are dropped.

    Args:
        text: such as ``60 MiB``.

    Returns:
        The number of bytes.

    >>> parse_bytes("60 MiB")
    62914560
    >>> parse_bytes("1.5kB")
    1500
    """
    return int(parse_quantity(text, BYTES))


def render_bytes(num_bytes: int) -> str:
    """Write bytes in the largest binary unit that leaves at least 1, followed by the exact number.

    Args:
        num_bytes: the number of bytes.

    Returns:
        The text.

    >>> render_bytes(62914560)
    '60.00 MiB (62,914,560 bytes)'
    >>> render_bytes(12)
    '12 bytes'
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if num_bytes >= BYTES_PER_UNIT[unit]:
            return f"{num_bytes / BYTES_PER_UNIT[unit]:.2f} {unit} ({num_bytes:,} bytes)"
    return f"{num_bytes:,} bytes"


_RENDERED_IN = {
    WATTS: (("kW", 3), ("W", 0), ("mW", -3), ("µW", -6)),
    JOULES: (("kJ", 3), ("J", 0), ("mJ", -3), ("µJ", -6), ("nJ", -9)),
    SECONDS: (("s", 0), ("ms", -3), ("µs", -6), ("ns", -9)),
    TOKENS_PER_SECOND: (("tok/s", 0),),
    BYTES_PER_SECOND: (("TB/s", 12), ("GB/s", 9), ("MB/s", 6), ("B/s", 0)),
    OPERATIONS_PER_SECOND: (("TFLOP/s", 12), ("GFLOP/s", 9), ("FLOP/s", 0)),
}


def render_quantity(amount: float | Fraction, measure: str) -> str:
    """Write a quantity for a person, in a unit that fits its size.

    Args:
        amount: the quantity in ``measure``.
        measure: a key of UNITS, or any other word, which then follows the number.

    Returns:
        Four significant digits and a unit; bytes exactly.

    >>> render_quantity(0.0142857, "seconds"), render_quantity(165, "watts"), render_quantity(3.5, "bits")
    ('14.29 ms', '165 W', '3.5 bits')
    """
    if measure in {BYTES, BYTES_PER_TOKEN}:
        return render_bytes(int(amount)) if amount >= 0 else f"-{render_bytes(-int(amount))}"
    value = float(amount)
    choices = _RENDERED_IN.get(measure, ((measure, 0),))
    unit, exponent = next((choice for choice in choices if abs(value) >= 10.0 ** choice[1]), choices[-1])
    if value == 0:
        unit, exponent = next((choice for choice in choices if choice[1] == 0), choices[-1])
    return f"{value / 10.0**exponent:,.4g} {unit}".rstrip() if abs(value) < 1e15 else f"{value:.4g} {measure}"
