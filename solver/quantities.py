"""Quantities as people write them: ``60 MiB``, ``18 GB``.

Knows nothing about what is measured.
"""

import re
from decimal import Decimal

from .errors import ScantlingError

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
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z/]*)\s*")


def parse_bytes(text: str) -> int:
    """Read a number of bytes with its unit; a fraction of a byte is dropped.

    Args:
        text: a decimal number and one of B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).

    Returns:
        The number of bytes.

    Raises:
        ScantlingError: no number, no unit, or a unit that is not one of bytes.

    >>> parse_bytes("60 MiB")
    62914560
    >>> parse_bytes("1.5kB")
    1500
    """
    match = _QUANTITY.fullmatch(text)
    known = ", ".join(BYTES_PER_UNIT)
    if match is None:
        raise ScantlingError(f"{text!r} is not a number of bytes. Write a positive number and a unit, such as 60MiB.")
    number, unit = match.groups()
    if not unit:
        raise ScantlingError(f"{text!r} has no unit. Write for instance {text.strip()}MiB; known units: {known}.")
    if unit not in BYTES_PER_UNIT:
        raise ScantlingError(f"{unit!r} in {text!r} is not a unit of bytes. Known units: {known}.")
    return int(Decimal(number) * BYTES_PER_UNIT[unit])


def show_bytes(num_bytes: int) -> str:
    """Write bytes in the largest binary unit that leaves at least 1, with the exact number behind it.

    Args:
        num_bytes: the number of bytes.

    Returns:
        For instance ``60.00 MiB (62,914,560 bytes)``.

    >>> show_bytes(62914560)
    '60.00 MiB (62,914,560 bytes)'
    >>> show_bytes(12)
    '12 bytes'
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if num_bytes >= BYTES_PER_UNIT[unit]:
            return f"{num_bytes / BYTES_PER_UNIT[unit]:.2f} {unit} ({num_bytes:,} bytes)"
    return f"{num_bytes:,} bytes"
