"""What a plan gains over other formats, layer by layer, and what that is paid with: sums that must come out."""

import math
from pathlib import Path

import numpy as np
import pytest

from helpers.tiny_profiles import make_profile
from scantling.common.errors import ScantlingError
from scantling.common.files import file_sha256
from scantling.planning.edit_plan import edit_plan
from scantling.planning.program import Program
from scantling.planning.reduced_costs import reduced_costs
from scantling.planning.solve import solve
from scantling.sensitivity.profile import ProfileOrigin, uniform_formats, write_profile
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver
from scantling.solver.rules import Limit

PROFILE = make_profile(num_blocks=6, num_samples=5, seed=3)


def solved(program, path=Path("made.safetensors"), sha256="0" * 64):
    return solve(PROFILE, ProfileOrigin(path, sha256), program.instance(), CpSatSolver(), SolverSettings())


@pytest.fixture(params=["one limit", "two limits", "a lower bound"])
def plan(request):
    program = Program(PROFILE).limit("average_bits", at_most=3.7)
    if request.param == "two limits":
        program = Program(PROFILE).limit("average_bits", at_most=3.9).memory("58 KiB")
    if request.param == "a lower bound":
        program = program.limit("bit_weights", at_least=130_000, layers="*.q_proj", name="enough")
    plan = solved(program)
    assert all(use.price_per_step for use in plan.limits) or request.param == "two limits"
    return plan


@pytest.mark.parametrize("target", ["int2-g32", "int4-g32", "int8-row"])
def test_savings_and_payments_add_up(plan, target):
    other = uniform_formats(PROFILE, target)
    found = reduced_costs(plan, other)
    differing = [unit.name for unit in plan.program.units if plan.formats()[unit.name] != other[unit.name]]
    assert [plan.program.units[one.unit].name for one in found] == differing
    theirs, _ = PROFILE.predict(other)
    assert math.fsum(one.saved_nats for one in found) == pytest.approx(theirs - plan.loss_increase_nats, rel=1e-9)
    choice = [unit.formats.index(other[unit.name]) for unit in plan.program.units]
    limits = [rule for rule in plan.program.rules if hasattr(rule, "row")]
    paid = 0.0
    for rule, use in zip(limits, plan.limits, strict=True):
        sign = 1 if rule.at_most is not None else -1
        paid += sign * use.price_per_step * (plan.program.used(rule, plan.choice()) - plan.program.used(rule, choice))
    payments = [one.paid_nats for one in found if one.paid_nats is not None]
    assert sum(payments) == pytest.approx(paid, rel=1e-9)
    assert [one.net_nats for one in found] == [one.saved_nats - p for one, p in zip(found, payments, strict=True)]


def test_no_format_is_better_at_the_prices_but_for_the_gap():
    """Σ of the negative reduced costs ≥ −(L(plan) − D(λ)), D the Lagrangian bound at the plan's prices."""
    plan = solved(Program(PROFILE).limit("average_bits", at_most=3.7))
    (use,), (rule,) = plan.limits, plan.program.rules
    assert isinstance(rule, Limit)
    assert rule.at_most is not None
    assert use.price_per_step
    price = use.price_per_step
    row, domain = plan.program.row(rule.row), plan.program.domains[0]
    priced = [
        np.array(costs) + price * np.array(amounts)
        for costs, amounts in zip(domain.loss_increase_nats, row.amounts, strict=True)
    ]
    bound = sum(values.min() for values in priced) - price * (rule.at_most - row.fixed)
    gap = plan.loss_increase_nats - bound
    assert gap >= -1e-12
    for target in ("int2-g32", "int4-g32", "int8-row"):
        nets = [one.net_nats or 0.0 for one in reduced_costs(plan, uniform_formats(PROFILE, target))]
        assert sum(net for net in nets if net < 0) >= -gap - 1e-12
        assert max(nets) > 0


@pytest.mark.parametrize(
    "program",
    [
        Program(PROFILE).limit("loss_increase", at_most=0.05).minimize("memory"),
        Program(PROFILE).limit("average_bits", at_most=3.7).robust(2),
        Program(PROFILE).limit("average_bits", at_most=3.7).limit("loss_increase", at_most=10),
    ],
)
def test_where_prices_are_no_sum_of_nats_none_are_shown(program):
    found = reduced_costs(solved(program), uniform_formats(PROFILE, "int4-g32"))
    assert found
    assert all(one.paid_nats is None and one.net_nats is None for one in found)


def test_an_edited_plan_has_no_prices(tmp_path):
    path = tmp_path / "made.safetensors"
    write_profile(PROFILE, path)
    plan = solved(Program(PROFILE).limit("average_bits", at_most=3.7), path, file_sha256(path))
    assert all(one.net_nats is not None for one in reduced_costs(plan, uniform_formats(PROFILE, "int4-g32")))
    edited = edit_plan(plan, PROFILE, path, ["*.q_proj=int2-g32"]).plan
    assert all(one.net_nats is None for one in reduced_costs(edited, uniform_formats(PROFILE, "int4-g32")))


def test_a_format_that_is_not_offered_is_refused(plan):
    other = uniform_formats(PROFILE, "int4-g32")
    other["model.layers.0.mlp.up_proj"] = "int5-g32"
    with pytest.raises(ScantlingError, match=r"does not offer model\.layers\.0\.mlp\.up_proj the format 'int5-g32'"):
        reduced_costs(plan, other)
