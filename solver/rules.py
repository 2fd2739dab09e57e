"""Limits and rules as records, each with its formula; units are named by their position in the instance.

Every limit and rule carries the name that its user gave it and its origin (a flag, or a file and line), so that
whatever is said about it can be found again. x(u, f) is 1 where unit u has format f.

Knows nothing about solvers, nor about how rules are written in files.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A bound on the sum of a row: fixed + Σ_{u ∈ units} Σ_f a(u, f) x(u, f) ≤ at_most, or ≥ at_least.

    ``fixed`` (see Row) counts only where all units are summed.

    Attributes:
        name: as the user calls it.
        row: the row's name.
        at_most: the upper bound in integer steps of the row; None where the limit is a lower bound.
        at_least: the lower bound, likewise; exactly one of the two is stated.
        units: the units summed; None for all.
        origin: where it was stated.
    """

    name: str
    row: str
    at_most: int | None = None
    at_least: int | None = None
    units: tuple[int, ...] | None = None
    origin: str = ""


@dataclass(frozen=True)
class LossLimit:
    """An upper bound on the predicted loss increase, measured as the instance's ``loss`` says: L(x) ≤ at_most.

    Attributes:
        name: as the user calls it.
        at_most_nats: the bound, in nats per token.
        origin: where it was stated.
    """

    name: str
    at_most_nats: float
    origin: str = ""


@dataclass(frozen=True)
class Allow:
    """A unit may take only some of its formats: Σ_{f ∉ allowed(u)} x(u, f) = 0.

    Pins, lists of formats, smallest and largest widths are all of this kind.

    Attributes:
        name: as the user calls it.
        allowed: pairs of a unit and the positions of the formats that it may take.
        origin: where it was stated.
    """

    name: str
    allowed: tuple[tuple[int, tuple[int, ...]], ...]
    origin: str = ""


@dataclass(frozen=True)
class Tie:
    """All units of a group take the same format, by name: x(u, f) = x(v, f).

    A format that one member does not have is closed to all.

    Attributes:
        name: as the user calls it.
        groups: units that go together.
        origin: where it was stated.
    """

    name: str
    groups: tuple[tuple[int, ...], ...]
    origin: str = ""


@dataclass(frozen=True)
class Order:
    """The first of each pair is at least as fine as the second: Σ_f bits(u, f) x(u, f) ≥ Σ_f bits(v, f) x(v, f).

    Attributes:
        name: as the user calls it.
        pairs: (the finer unit u, the coarser unit v).
        origin: where it was stated.
    """

    name: str
    pairs: tuple[tuple[int, int], ...]
    origin: str = ""


@dataclass(frozen=True)
class Distinct:
    """At most N different formats among some units: x(u, f) ≤ y(f), Σ_f y(f) ≤ N.

    Attributes:
        name: as the user calls it.
        units: the units.
        at_most_formats: N.
        origin: where it was stated.
    """

    name: str
    units: tuple[int, ...]
    at_most_formats: int
    origin: str = ""


Rule = Limit | LossLimit | Allow | Tie | Order | Distinct
