"""Measured points of a machine, as a CSV file holds them.

The columns, in any order, each number with its unit:

    format             a format's name; * or an empty cell if one efficiency is to serve all
    read_bytes         read per token: 14.38 GiB
    tokens_per_second  at full speed: 84.3 tok/s
    watts              drawn meanwhile, or at ``rate``; may be empty
    rate               tokens per second at which ``watts`` was drawn; empty for full speed

Lines that begin with # are comments.

Knows nothing about what is fitted.
"""

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..common.errors import FileFormatError, InputError
from ..common.units import BYTES_PER_TOKEN, TOKENS_PER_SECOND, WATTS, parse_quantity

COLUMNS: Final = ("format", "read_bytes", "tokens_per_second", "watts", "rate")
_REQUIRED: Final = ("read_bytes", "tokens_per_second")
_MAX_BYTES: Final = 1 << 20
_ANY: Final = "*"


@dataclass(frozen=True)
class MeasuredPoint:
    """One run of one model.

    Attributes:
        format: of its weights; * for any.
        read_bytes: per token.
        tokens_per_second: at full speed.
        watts: drawn; None if not measured.
        rate: tokens per second meanwhile.
    """

    format: str
    read_bytes: float
    tokens_per_second: float
    watts: float | None
    rate: float


@dataclass(frozen=True)
class MeasuredPoints:
    """All points of a file.

    Attributes:
        name: of the file.
        sha256: of the file.
        points: in its order.
    """

    name: str
    sha256: str
    points: tuple[MeasuredPoint, ...]


def read_points(path: Path) -> MeasuredPoints:
    """Read a CSV file of measurements.

    Args:
        path: the file.

    Returns:
        The points.

    Raises:
        FileFormatError: no such file, a missing or unknown column, or a wrong cell; the message gives the line.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read the measurements {path}: {error}") from error
    if len(raw) > _MAX_BYTES:
        raise FileFormatError(f"{path} has {len(raw):,} bytes; a file of measurements may have at most 1 MiB.")
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if _has_content(line)]
    if len(numbered) < 2:
        raise FileFormatError(f"{path} has no measurements. Its first line names columns: {','.join(COLUMNS)}.")
    header = [cell.strip() for cell in next(csv.reader([numbered[0][1]]))]
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in _REQUIRED if name not in header]
    if unknown or missing or len(set(header)) < len(header):
        raise FileFormatError(
            f"{path}:{numbered[0][0]}: the columns are {', '.join(header)}. Required: {' and '.join(_REQUIRED)}; "
            f"known: {', '.join(COLUMNS)}; each once."
        )
    points = tuple(_point(f"{path}:{number}", header, line) for number, line in numbered[1:])
    return MeasuredPoints(path.name, hashlib.sha256(raw).hexdigest(), points)


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _point(where: str, header: list[str], line: str) -> MeasuredPoint:
    cells = [cell.strip() for cell in next(csv.reader([line]))]
    if len(cells) != len(header):
        raise FileFormatError(f"{where}: {len(cells)} cells for {len(header)} columns. Correct the line.")
    row = dict(zip(header, cells, strict=True))
    speed = _number(where, row, "tokens_per_second", TOKENS_PER_SECOND)
    watts = _number(where, row, "watts", WATTS) if row.get("watts") else None
    if watts is None and row.get("rate"):
        raise FileFormatError(f"{where}: a rate without watts has no meaning. Add watts, or leave the rate empty.")
    rate = _number(where, row, "rate", TOKENS_PER_SECOND) if row.get("rate") else speed
    if rate > speed * 1.0001:
        raise FileFormatError(
            f"{where}: a rate of {row['rate']} is beyond the full speed of {row['tokens_per_second']}."
        )
    return MeasuredPoint(
        row.get("format") or _ANY, _number(where, row, "read_bytes", BYTES_PER_TOKEN), speed, watts, rate
    )


def _number(where: str, row: Mapping[str, str], column: str, measure: str) -> float:
    try:
        value = float(parse_quantity(row[column], measure))
    except InputError as error:
        raise FileFormatError(f"{where}: {column}: {error}") from error
    if value <= 0:
        raise FileFormatError(f"{where}: {column} is {row[column]}. Measurements must be above 0.")
    return value
