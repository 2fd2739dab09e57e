"""Intelligence per watt and per joule (Saad-Falcon et al. 2025, arXiv 2511.07885).

    per watt  = accuracy / average power          at a stated throughput
    per joule = accuracy / energy                 of a stated piece of work: a query, or one token

A ratio hides its parts: a model that knows nothing scores well on a machine that draws nothing. So every figure is kept
together with its accuracy and the chance level, watts and throughput, and where each comes from.

Knows nothing about command lines, nor how accuracy or power were found.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from ...common.errors import InputError, MissingFigureError
from ...common.records import Finite, Record
from ...common.units import TOKENS_PER_SECOND, WATTS, parse_quantity
from ..bootstrap import Interval
from ..prediction import PredictedEntry, Prediction
from .accuracies import Accuracy


class Power(Record):
    """A machine at work.

    Attributes:
        hardware: its name.
        watts: average power.
        tokens_per_second: of every sequence.
        joules: energy of the work.
        work: what that energy is spent on.
        at: ``full speed``, ``the same rate for all``, or ``as measured``.
        basis: whether watts and throughput were measured or modelled.
        origin: where they come from, in words.
    """

    hardware: str
    watts: Finite
    tokens_per_second: Finite
    joules: Finite
    work: str
    at: str
    basis: Literal["measured", "modelled"]
    origin: str


class Efficiency(Record):
    """One figure with its parts.

    Attributes:
        entry: the plan, a uniform format, or ``original``.
        accuracy: with its chance level and interval.
        power: with its throughput and origin.
        per_watt: accuracy / watts; the interval is that of the accuracy.
        per_joule: accuracy / joules, likewise.
    """

    entry: str
    accuracy: Accuracy
    power: Power
    per_watt: Interval
    per_joule: Interval


def efficiency(entry: str, accuracy: Accuracy, power: Power) -> Efficiency:
    """Divide an entry's accuracy by its power and energy; raises InputError unless these are finite and above 0."""
    for number, unit in ((power.watts, "W"), (power.tokens_per_second, "tok/s"), (power.joules, "J")):
        if not (math.isfinite(number) and number > 0):
            raise InputError(
                f"power, rate and energy must be above 0, got {number:g} {unit} for {entry} on {power.hardware}. "
                "State what was measured."
            )
    return Efficiency(
        entry=entry,
        accuracy=accuracy,
        power=power,
        per_watt=_over(accuracy.value, power.watts),
        per_joule=_over(accuracy.value, power.joules),
    )


def _over(value: Interval, by: float) -> Interval:
    return Interval(estimate=value.estimate / by, lower=value.lower / by, upper=value.upper / by)


def modelled_powers(prediction: Prediction, entry: PredictedEntry) -> list[Power]:
    """Give the powers that the laws of decode predict for an entry.

    Args:
        prediction: of all entries on a machine.
        entry: one of them.

    Returns:
        At full speed, and at the throughput that is the same for all, where each can be predicted.

    Raises:
        MissingFigureError: neither can; the hardware's missing numbers are named.
    """
    estimates = f", of which estimates: {', '.join(prediction.estimates)}" if prediction.estimates else ""
    origin = f"modelled from the numbers of {prediction.hardware}{estimates}"
    powers = []
    for at, point in (("full speed", entry.full_speed), ("the same rate for all", entry.same_rate)):
        if point is None:
            continue
        whole_query = entry.query if at == "full speed" else None
        powers.append(
            Power(
                hardware=prediction.hardware,
                watts=point.watts,
                tokens_per_second=point.tokens_per_second,
                joules=point.joules_per_token if whole_query is None else whole_query.joules,
                work="one token" if whole_query is None else _describe_query(prediction),
                at=at,
                basis="modelled",
                origin=origin,
            )
        )
    if not powers:
        raise MissingFigureError(f"no power of {entry.name} on {prediction.hardware}: {'; '.join(entry.notes)}")
    return powers


def _describe_query(prediction: Prediction) -> str:
    work = prediction.workload
    return f"a query of {work.prompt or 1} + {work.answer} tokens"


def measured_powers(stated: Sequence[str]) -> dict[str, list[Power]]:
    """Read powers that a user measured.

    Args:
        stated: ``NAME=WATTS@RATE`` each, such as ``plan=165W@26tok/s``.

    Returns:
        Powers by the entry's name.

    Raises:
        InputError: one is not written so, or is not above 0.
    """
    found: dict[str, list[Power]] = {}
    for words in stated:
        name, equals, numbers = words.rpartition("=")
        watts_word, at, rate_word = numbers.partition("@")
        if not (name and equals and at):
            raise InputError(f"--measured {words!r} is not NAME=WATTS@RATE. Write for instance plan=165W@26tok/s.")
        watts, rate = parse_quantity(watts_word, WATTS), parse_quantity(rate_word, TOKENS_PER_SECOND)
        if watts <= 0 or rate <= 0:
            raise InputError(
                f"--measured {words!r}: watts and rate must be above 0, got {watts_word} at {rate_word}. State what "
                "was measured."
            )
        found.setdefault(name, []).append(_measured(watts, rate))
    return found


def _measured(watts: Fraction, rate: Fraction) -> Power:
    return Power(
        hardware="as measured",
        watts=float(watts),
        tokens_per_second=float(rate),
        joules=float(watts / rate),
        work="one token",
        at="as measured",
        basis="measured",
        origin="stated by the user as measured",
    )
