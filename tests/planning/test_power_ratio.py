"""Least power at full speed against brute force over all plans."""

import pytest

from helpers.tiny_profiles import choices, formats_of, holds, make_profile
from scantling import Program
from scantling.common.errors import ScantlingError
from scantling.hardware.decode_laws import operate
from scantling.hardware.specification import Hardware
from scantling.planning.power_ratio import lower_with_least_power
from scantling.planning.solve import formats_or_none, search_with
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver
from scantling.solver.solve import solve

SEARCH = search_with()


def card(**efficiencies):
    shares = [{"formats": f"{name}*", "share": share} for name, share in efficiencies.items()]
    return Hardware.model_validate({
        "name": "card",
        "bandwidth": "1 GB/s",
        "efficiency": [*shares, {"formats": "*", "share": 0.8}],
        "overhead": "20 us",
        "base_power": "20 W",
        "traffic_power": "30 W",
    })


@pytest.mark.parametrize("hardware", [card(int2=0.3, int4=0.9), card(int2=0.9, int4=0.5, int8=0.7), card()])
@pytest.mark.parametrize("max_loss", [0.02, 0.4])
def test_no_plan_draws_less(hardware, max_loss):
    program = Program(make_profile()).hardware(hardware).limit("loss_increase", at_most=max_loss).minimize("power")
    instance = lower_with_least_power(program, SEARCH)
    found = solve(instance, CpSatSolver(), SolverSettings())
    assert found.status.name == "OPTIMAL"

    def watts(choice):
        return operate(program.rows.read_bytes(formats_of(instance, choice)), hardware).watts

    allowed = [c for c in choices(instance) if all(holds(instance, rule, c) for rule in instance.rules)]
    least, most = (pick(map(watts, allowed)) for pick in (min, max))
    assert watts(found.choice) == pytest.approx(least, rel=1e-7)
    assert most > least * 1.001  # so that the test could fail
    assert abs(found.proofs[0].value) < 10_000  # the sum that is least at zero, in nanojoules


def test_a_rate_makes_power_a_plain_sum_and_no_plan_stays_no_plan():
    program = Program(make_profile()).hardware(card()).minimize("power")
    rated = program.workload(rate="10 tok/s")
    assert lower_with_least_power(rated, SEARCH).minimise == ("watts",)
    impossible = program.limit("memory", at_most="1 kB")
    assert formats_or_none(lower_with_least_power(impossible, SEARCH), SEARCH.solver, SEARCH.settings) is None
    with pytest.raises(ScantlingError, match="needs the hardware's base_power"):
        lower_with_least_power(
            Program(make_profile()).hardware(card().model_copy(update={"base_power": None})).minimize("power"), SEARCH
        )
    with pytest.raises(ScantlingError, match="needs hardware"):
        lower_with_least_power(Program(make_profile()).minimize("power"), SEARCH)
