"""Small random programs with every kind of limit and rule, and brute force as their judge."""

import itertools
import random

from scantling.solver.instance import DomainCosts, Instance, LossMeasure, Row, Unit
from scantling.solver.rules import Allow, Distinct, Limit, LossLimit, Order, Tie
from scantling.solver.verify import violations

BITS = {"int2": 2.0, "int3": 3.0, "int4": 4.0, "int6": 6.0, "int8": 8.0}
KINDS = ("limit", "floor", "sum", "sum floor", "loss", "allow", "tie", "order", "distinct")
OBJECTIVES = 4 * [("loss_increase",)] + [("r0",), ("loss_increase", "r0"), ("r0", "loss_increase")]


def random_program(seed):
    """Up to five units, three rows, two domains and four rules; a third of them have no plan."""
    draw = random.Random(seed)
    units = []
    for index in range(draw.randint(1, 5)):
        formats = sorted(draw.sample(list(BITS), draw.randint(1, 4)), key=BITS.__getitem__)
        units.append(Unit(f"u{index}", tuple(formats), tuple(BITS[name] for name in formats)))

    def table(entry):
        return tuple(tuple(entry() for _ in unit.formats) for unit in units)

    def amount():
        return draw.choice([draw.randint(0, 1000), draw.randint(-50, 50), 64 * draw.randint(0, 9)])

    def cost():
        return draw.choice([draw.uniform(0, 5), draw.uniform(-0.1, 0.1), draw.uniform(1e-9, 1e-6), 0.0, 1.0])

    def deviations():
        return tuple(draw.gauss(0, 0.3) for _ in range(3))

    rows = tuple(Row(f"r{k}", "bytes", table(amount), draw.choice([0, 0, 7])) for k in range(draw.randint(1, 3)))
    errors = draw.choice([0.0, 0.0, 0.0, 1.0, 2.5])
    cases = tuple(
        DomainCosts(f"case {k}", table(cost), table(deviations) if errors else ()) for k in range(draw.randint(1, 2))
    )
    loss = LossMeasure(draw.choice(["mean", "worst"]), errors)
    rules = tuple(_random_rule(draw, units, rows, f"rule {k}") for k in range(draw.randint(0, 4)))
    return Instance(tuple(units), rows, cases, rules, loss, draw.choice(OBJECTIVES))


def _random_rule(draw, units, rows, name):
    kind, row = draw.choice(KINDS), draw.choice(rows)
    everything = range(len(units))
    some = tuple(draw.sample(everything, draw.randint(1, len(units))))

    def bound(chosen):
        least = int(0.8 * sum(min(row.amounts[u]) for u in chosen))
        return draw.randint(least, max(least, int(0.8 * sum(max(row.amounts[u]) for u in chosen))) + 2)

    if kind == "limit":
        return Limit(name, row.name, at_most=bound(everything))
    if kind == "floor":
        return Limit(name, row.name, at_least=bound(everything))
    if kind == "sum":
        return Limit(name, row.name, at_most=bound(some), units=some)
    if kind == "sum floor":
        return Limit(name, row.name, at_least=bound(some), units=some)
    if kind == "loss":
        return LossLimit(name, draw.uniform(0, 1.5 * len(units)))
    if kind == "tie":
        return Tie(name, (some,))
    if kind == "order":
        pairs = [(draw.choice(everything), draw.choice(everything)) for _ in range(draw.randint(1, 3))]
        return Order(name, tuple(pairs))
    if kind == "distinct":
        return Distinct(name, some, draw.randint(1, 2))
    least = 0 if draw.random() < 0.1 else 1
    allowed = {u: draw.sample(range(len(units[u].formats)), draw.randint(least, len(units[u].formats))) for u in some}
    return Allow(name, tuple((u, tuple(formats)) for u, formats in allowed.items()))


def all_choices(instance):
    return list(itertools.product(*(range(len(unit.formats)) for unit in instance.units)))


def feasible_choices(instance):
    return [choice for choice in all_choices(instance) if not violations(instance, choice)]


def optima(instance, choices, share):
    """The least value of each objective, one after the other, among choices equal up to a share of the value."""
    values = []
    for name in instance.minimise:
        least = min(instance.objective(name, choice) for choice in choices)
        choices = [c for c in choices if instance.objective(name, c) <= least + share * (1 + abs(least))]
        values.append(least)
    return values


def sweep(num_units=12, domain=None):
    """Units of four formats whose losses fall with the bits, and one row of bytes; no rules."""
    bits = (2.0, 3.0, 4.0, 8.0)
    names = tuple(f"int{b:g}" for b in bits)
    units = tuple(Unit(f"u{u}", names, bits) for u in range(num_units))
    row = Row("bytes", "bytes", tuple(tuple(int(b) * (1 + u % 3) for b in bits) for u in range(num_units)))
    losses = tuple(tuple((u + 1) * 4.0**-b for b in bits) for u in range(num_units))
    return Instance(units, (row,), (domain or DomainCosts("text", losses),))


def layers_of_a_real_size(num_blocks=30, seed=1):
    """True byte counts of 135M-parameter blocks: sums that a float row could get wrong by a byte."""
    draw = random.Random(seed)
    bits = (2.0, 3.0, 4.0, 6.0)
    names = tuple(f"int{b:g}" for b in bits)
    units, amounts, losses = [], [], []
    for u in range(7 * num_blocks):
        num_weights = draw.choice([110592, 331776, 884736])
        scale = draw.lognormvariate(0, 1) * num_weights * 1e-8
        units.append(Unit(f"u{u}", names, bits))
        amounts.append(
            tuple(num_weights * int(b) // 8 + num_weights // 64 * 2 + -(-num_weights // 64 * int(b) // 8) for b in bits)
        )
        losses.append(tuple(scale * 4.0 ** (3 - b) * draw.uniform(0.9, 1.1) for b in bits))
    budget = sum(row[1] for row in amounts) * 31 // 30
    return Instance(
        tuple(units),
        (Row("bytes", "bytes", tuple(amounts)),),
        (DomainCosts("text", tuple(losses)),),
        (
            Limit("memory", "bytes", at_most=budget),
            Limit("every third", "bytes", at_most=budget // 3, units=tuple(range(0, len(units), 3))),
        ),
    )
