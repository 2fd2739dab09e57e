"""Least power at full speed against brute force over all plans."""

import pytest

from helpers.tiny_profiles import choices, formats_of, holds, make_profile
from scantling import Program
from scantling.common.errors import ScantlingError
from scantling.hardware.decode_laws import operate
from scantling.hardware.specification import Hardware
from scantling.planning.power_ratio import stated
from scantling.planning.solve import formats_or_none
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver
from scantling.solver.solve import solve


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


def choose(instance):
    return formats_or_none(instance, CpSatSolver(), SolverSettings())


@pytest.mark.parametrize("hardware", [card(int2=0.3, int4=0.9), card(int2=0.9, int4=0.5, int8=0.7), card()])
@pytest.mark.parametrize("max_loss", [0.02, 0.4])
def test_no_plan_draws_less(hardware, max_loss):
    program = Program(make_profile()).hardware(hardware).limit("loss_increase", at_most=max_loss).minimize("power")
    instance = stated(program, choose)
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
    assert stated(rated, choose).minimise == ("watts",)
    impossible = program.limit("memory", at_most="1 kB")
    assert choose(stated(impossible, choose)) is None
    with pytest.raises(ScantlingError, match="needs the hardware's base_power"):
        stated(
            Program(make_profile()).hardware(card().model_copy(update={"base_power": None})).minimize("power"), choose
        )
    with pytest.raises(ScantlingError, match="needs hardware"):
        stated(Program(make_profile()).minimize("power"), choose)
