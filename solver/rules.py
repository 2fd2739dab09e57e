"""Limits and rules as records, each with its formula; units are given by their position in the instance.

Every limit and rule carries the name that its user gave it and its origin (a flag, or a file and line), for messages.
x(u, f) is 1 where unit u has format f.

Knows nothing about solvers, nor about how rules are written in files.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A bound on the sum of a row: fixed + Σ_{u ∈ units} Σ_f a(u, f) x(u, f) ≤ at_most, or ≥ at_least.

    ``fixed`` (see Row) counts only if all units are summed.

    Attributes:
        name: as the user calls it.
        row: the row's name.
        at_most: the upper bound in integer steps of the row; None for a lower bound.
        at_least: the lower bound, likewise; exactly one of the two is given.
        units: the units summed; None for all.
        origin: where it was given.
    """

    name: str
    row: str
    at_most: int | None = None
    at_least: int | None = None
    units: tuple[int, ...] | None = None
    origin: str = ""


@dataclass(frozen=True)
class LossLimit:
    """An upper bound on the predicted loss increase, as the instance's ``loss`` measures it: L(x) ≤ at_most.

    Attributes:
        name: as the user calls it.
        at_most_nats: the bound, in nats per token.
        origin: where it was given.
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
        origin: where it was given.
    """

    name: str
    allowed: tuple[tuple[int, tuple[int, ...]], ...]
    origin: str = ""


@dataclass(frozen=True)
class Tie:
    """All units of a group take the same format, by name: x(u, f) = x(v, f).

    A format that one member lacks is closed to all.

    Attributes:
        name: as the user calls it.
        groups: units that go together.
        origin: where it was given.
    """

    name: str
    groups: tuple[tuple[int, ...], ...]
    origin: str = ""


@dataclass(frozen=True)
class Order:
    """The first of each pair has at least as many bits: Σ_f bits(u, f) x(u, f) ≥ Σ_f bits(v, f) x(v, f).

    Attributes:
        name: as the user calls it.
        pairs: (the finer unit u, the coarser unit v).
        origin: where it was given.
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
        origin: where it was given.
    """

    name: str
    units: tuple[int, ...]
    at_most_formats: int
    origin: str = ""


Rule = Limit | LossLimit | Allow | Tie | Order | Distinct
