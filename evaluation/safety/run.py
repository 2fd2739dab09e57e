"""From plans to ``safety.json``: solve the ladder, measure it and the plans, judge.

Knows nothing about command lines.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ... import __version__
from ...common.errors import ScantlingError
from ...common.progress import Progress
from ...models.layers import take_apart
from ...models.loading import LoadedModel
from ...planning.solve import Origin
from ...sensitivity.profile import Profile
from ...sensitivity.sequential_rounding import ORIGINAL_INPUTS
from ..bootstrap import Resampling
from ..cache import Formats, Measurer
from ..text import evaluation_cases, profiled_cases
from .budget_sweep import ladder
from .factor import judge_measured, judge_predicted
from .measured_sweep import MeasuredLadder, Thresholds, measured_ladder
from .record import PlanSafety, SafetyFile


@dataclass(frozen=True)
class SafetySettings:
    """What is measured, and what is asked of it.

    Attributes:
        sources: names and texts; none for the load cases of the profile.
        num_sequences: of evaluation, for each load case.
        sequence_length: tokens in each.
        num_rungs: of the ladder.
        inputs: what layers are rounded against.
        thresholds: what is called yield and collapse, and how sure bounds are.
        required_factor: what the lower end of a factor's interval is held against.
    """

    sources: tuple[tuple[str, str], ...] = ()
    num_sequences: int = 24
    sequence_length: int = 512
    num_rungs: int = 11
    inputs: str = ORIGINAL_INPUTS
    thresholds: Thresholds = field(default_factory=Thresholds)
    required_factor: float = 1.0


def settings_of(safety: SafetyFile, profile: Profile, origin: Origin) -> SafetySettings:
    """Give the settings that a safety file was made with.

    Args:
        safety: the file.
        profile: that its ladder must have been solved from.
        origin: where the profile lies.

    Returns:
        The settings; the required factor is left to who asks.

    Raises:
        ScantlingError: it was made from another profile.
    """
    if safety.profile_sha256 != origin.sha256:
        raise ScantlingError(
            f"the safety file is of the profile {safety.profile_path}, not of {origin.path} as it is now. Measure "
            "again with: scantling safety PLAN"
        )
    curves = safety.curves
    as_profiled = [(case.name, case.text_sha256) for case in profiled_cases(profile)]
    known = [(curve.load_case, curve.text_sha256) for curve in curves] == as_profiled
    return SafetySettings(
        sources=() if known else tuple((curve.load_case, curve.text_source) for curve in curves),
        num_sequences=curves[0].num_sequences,
        sequence_length=curves[0].sequence_length,
        num_rungs=safety.num_rungs,
        inputs=safety.rounding_inputs,
        thresholds=Thresholds(safety.offset, safety.ultimate, safety.certainty),
    )


def kept_beside(profile_path: Path) -> Path:
    """Say where the measurements of a profile's plans are kept.

    Args:
        profile_path: the profile's file.

    Returns:
        The folder beside it.

    >>> kept_beside(Path("some/model.safetensors")).name
    'model.safetensors.measured'
    """
    return profile_path.with_name(f"{profile_path.name}.measured")


@dataclass(frozen=True)
class SafetyRun:
    """A model on its text, ready to be pulled.

    Attributes:
        origin: where the profile lies.
        measurer: measures plans, and keeps what was measured.
        settings: what is measured, and what is asked of it.
    """

    origin: Origin
    measurer: Measurer
    settings: SafetySettings

    def pull(self, plans: Mapping[str, Formats]) -> tuple[MeasuredLadder, dict[str, PlanSafety]]:
        """Measure the ladder and plans, and judge the plans.

        Args:
            plans: the format of every layer, by name.

        Returns:
            The ladder, and the factors of every plan.

        Raises:
            ScantlingError: a plan is called like a rung.
        """
        measurer, settings = self.measurer, self.settings
        rungs: dict[str, Formats] = dict(ladder(measurer.profile, settings.num_rungs, measurer.progress))
        if rungs.keys() & plans.keys():
            raise ScantlingError(
                f"a plan is called {min(rungs.keys() & plans.keys())!r}, as a rung is. Rename its file."
            )
        measured = measurer.measure({**rungs, **plans})
        ladder_measured = measured_ladder(measurer.profile, rungs, measured, measurer.cases, settings.thresholds)
        return ladder_measured, {
            name: judge_measured(ladder_measured, name, formats, measured[name], settings.required_factor)
            for name, formats in plans.items()
        }

    def predict(self, plans: Mapping[str, Formats]) -> tuple[MeasuredLadder, dict[str, PlanSafety]]:
        """Measure the ladder only, and judge plans by their predictions.

        Args:
            plans: the format of every layer, by name.

        Returns:
            The ladder, and the factors of every plan.
        """
        ladder_measured, _ = self.pull({})
        return ladder_measured, {
            name: judge_predicted(ladder_measured, name, formats, self.settings.required_factor)
            for name, formats in plans.items()
        }

    def record(self, found: tuple[MeasuredLadder, Mapping[str, PlanSafety]]) -> SafetyFile:
        """Write down what was found.

        Args:
            found: the ladder, and the factors of every plan.

        Returns:
            What ``safety.json`` says.
        """
        ladder_measured, plans = found
        record = self.measurer.profile.record
        return SafetyFile(
            scantling_version=__version__,
            model_source=record.model_source,
            model_sha256=record.model_sha256,
            profile_path=str(self.origin.path),
            profile_sha256=self.origin.sha256,
            rounding_inputs=self.settings.inputs,
            num_rungs=self.settings.num_rungs,
            offset=self.settings.thresholds.offset,
            ultimate=self.settings.thresholds.ultimate,
            certainty=self.settings.thresholds.certainty,
            curves=ladder_measured.curves(),
            ladder=ladder_measured.rungs(),
            plans=tuple(plans.values()),
        )


def safety_run(
    loaded: LoadedModel, profile: Profile, origin: Origin, settings: SafetySettings, kept: Path, progress: Progress
) -> SafetyRun:
    """Prepare the text, and refuse before any work what cannot end well.

    Args:
        loaded: the model.
        profile: of this model.
        origin: where the profile lies.
        settings: what is measured, and what is asked of it.
        kept: the folder for measurements.
        progress: shows how far the work is.

    Returns:
        What measures and judges.

    Raises:
        ScantlingError: the required factor is none.
    """
    settings.thresholds.refuse_nonsense()
    if not 0 < settings.required_factor < math.inf:
        raise ScantlingError(f"a required factor of {settings.required_factor:g} is none. Give one such as 1.5.")
    profile.refuse_other_model(loaded.sha256, [layer.name for layer in take_apart(loaded.model).layers])
    cases = evaluation_cases(loaded, profile, settings.sources, settings.num_sequences, settings.sequence_length)
    for case in cases:
        Resampling(case.document_of_sequence, settings.thresholds.certainty).refuse_too_few()
    return SafetyRun(origin, Measurer(loaded, profile, cases, settings.inputs, kept, progress), settings)
