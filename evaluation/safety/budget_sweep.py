"""The budget sweep: plans solved for falling budgets of average bits.

The budgets fall by equal ratios from the widest to the narrowest that the profile's formats allow (at most 8 bits):
the loss rises about fourfold with every bit removed, so points lie closer where the loss is larger.

Knows nothing about measuring.
"""

from ...common.errors import InputError
from ...common.progress import Progress
from ...planning.plan import average_bits
from ...planning.program import Program
from ...planning.solve import choose_formats
from ...quantization.formats import parse_format
from ...sensitivity.estimators.names import WITHOUT_UNIT
from ...sensitivity.profile import Profile, decided_layers
from ...solver.milp.base import SolverSettings
from ...solver.milp.cpsat import CpSatSolver

LIGHTEST_BITS = 8.0
_ROUNDING = 1 + 1e-9  # an average of binary fractions may come out a little below the plan that has it


def bits_of_points(narrowest: float, widest: float, num_points: int) -> tuple[float, ...]:
    """Space budgets by equal ratios.

    Args:
        narrowest: average bits of the last point.
        widest: of the first.
        num_points: at least 2.

    Returns:
        Average bits, falling.

    >>> bits_of_points(2.0, 8.0, 3)
    (8.0, 4.0, 2.0)
    """
    ratio = narrowest / widest
    return (*(widest * ratio ** (step / (num_points - 1)) for step in range(num_points - 1)), narrowest)


def sweep(profile: Profile, num_points: int, progress: Progress) -> dict[str, dict[str, str]]:
    """Solve the plans of the sweep.

    Args:
        profile: what formats cost.
        num_points: number of budgets.
        progress: shows how far the work is.

    Returns:
        The format of every layer, by the point's name, from light to heavy compression; equal plans are one point.

    Raises:
        InputError: the profile predicts no loss, or leaves nothing to choose.
    """
    if profile.record.estimator in WITHOUT_UNIT:
        raise InputError(
            f"the estimator {profile.record.estimator} ranks formats and predicts no loss, so there is no sweep to "
            "solve. Profile with the estimator fisher."
        )
    if num_points < 4:
        raise InputError(f"a budget sweep takes 4 or more points to have a curve, got {num_points}. Give --points.")
    narrowest, widest = _span(profile)
    if not narrowest < widest:
        raise InputError("every plan of this profile has the same bits, so there is no sweep. Profile more formats.")
    sweep_points: dict[str, dict[str, str]] = {}
    for bits in progress(bits_of_points(narrowest, widest, num_points), "solving the budget sweep"):
        program = Program(profile).limit("average_bits", at_most=bits * _ROUNDING, origin="the budget sweep")
        formats = choose_formats(program.instance(), CpSatSolver(), SolverSettings())
        if formats not in sweep_points.values():
            sweep_points[f"{bits:.2f} bits"] = formats
    return sweep_points


def _span(profile: Profile) -> tuple[float, float]:
    names = profile.record.formats
    offered = [
        ([parse_format(names[target]).bits for target in layer.formats], layer.num_weights)
        for layer in decided_layers(profile)
    ]
    narrowest = average_bits([(min(bits), weights) for bits, weights in offered])
    return narrowest, min(LIGHTEST_BITS, average_bits([(max(bits), weights) for bits, weights in offered]))
