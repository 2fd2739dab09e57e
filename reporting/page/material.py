"""What a page is made of: a plan, its profile, and what was measured of it; and whether these belong together.

Knows nothing about pages.
"""

from dataclasses import dataclass
from pathlib import Path

from ...common.errors import InputError
from ...common.files import file_sha256
from ...evaluation.cache import formats_sha256
from ...evaluation.comparison import Comparison, read_comparison
from ...evaluation.safety.record import PlanSafety, SafetyFile, read_safety
from ...planning.diagnosis import NaiveCounterpart
from ...planning.pareto import Frontier
from ...planning.plan import Plan
from ...sensitivity.profile import Profile


@dataclass(frozen=True)
class Source:
    """A file that the page rests on.

    Attributes:
        what: it is.
        path: where it lay.
        sha256: of the file.
    """

    what: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Material:
    """All that a page shows.

    Attributes:
        plan: the plan.
        profile: that it was solved from.
        naive: what the plan's bytes buy without a program; None where no uniform format is as small.
        comparison: what ``scantling compare`` measured; None where it was not given.
        safety: what ``scantling safety`` measured; None where it was not given.
        frontiers: of the plan's program, against bytes first.
        sources: the files.
    """

    plan: Plan
    profile: Profile
    naive: NaiveCounterpart | None
    comparison: Comparison | None
    safety: SafetyFile | None
    frontiers: tuple[Frontier, ...]
    sources: tuple[Source, ...]

    @property
    def judged(self) -> PlanSafety | None:
        """The plan's own factors; None where the safety file does not cover it."""
        if self.safety is None:
            return None
        own = formats_sha256(self.plan.formats())
        return next((found for found in self.safety.plans if found.plan.formats_sha256 == own), None)


@dataclass(frozen=True)
class Measurements:
    """What was measured of a plan, and the files that say so.

    Attributes:
        comparison: None where it was not given.
        safety: None where it was not given.
        sources: the files.
    """

    comparison: Comparison | None
    safety: SafetyFile | None
    sources: tuple[Source, ...]


def read_measurements(plan: Plan, comparison_path: Path | None, safety_path: Path | None) -> Measurements:
    """Read what ``scantling compare`` and ``scantling safety`` measured of a plan; what is of another is refused."""
    comparison, safety, sources = None, None, []
    if comparison_path is not None:
        comparison = read_comparison(comparison_path)
        _require_same_comparison(plan, comparison, comparison_path)
        sources.append(Source("comparison", str(comparison_path), file_sha256(comparison_path)))
    if safety_path is not None:
        safety = read_safety(safety_path)
        _require_same_origin(plan, safety, f"the safety file {safety_path}", "scantling safety")
        sources.append(Source("safety", str(safety_path), file_sha256(safety_path)))
    return Measurements(comparison, safety, tuple(sources))


def _require_same_comparison(plan: Plan, comparison: Comparison, path: Path) -> None:
    _require_same_origin(plan, comparison, f"the comparison {path}", "scantling compare")
    measured = dict(zip(comparison.layers, comparison.entries[0].formats, strict=False))
    different = sum(measured.get(layer) != name for layer, name in plan.formats().items())
    if different:
        raise InputError(
            f"the comparison {path} is of another plan: {different} of {len(plan.assignments)} layers have other "
            "formats there. Measure this plan with: scantling compare PLAN -o FILE"
        )


def _require_same_origin(plan: Plan, measured: Comparison | SafetyFile, what: str, command: str) -> None:
    if measured.model_sha256 != plan.model_sha256:
        raise InputError(
            f"{what} is of the model {measured.model_source!r} with weights {measured.model_sha256[:12]}…, the plan of "
            f"{plan.model_source!r} with {plan.model_sha256[:12]}…. Measure this plan with: {command} PLAN"
        )
    if measured.profile_sha256 != plan.profile_sha256:
        raise InputError(
            f"{what} rests on the profile {measured.profile_sha256[:12]}…, the plan on {plan.profile_sha256[:12]}…: "
            f"their predictions need not compare. Measure this plan with: {command} PLAN"
        )
