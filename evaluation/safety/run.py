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
from ...models.layers import find_layers
from ...models.loading import LoadedModel
from ...sensitivity.profile import Profile, ProfileOrigin
from ...sensitivity.sequential_rounding import ORIGINAL_INPUTS
from ..bootstrap import BlockBootstrap
from ..cache import Formats, MeasurementCache
from ..text import evaluation_domains, profiled_domains
from .budget_sweep import sweep
from .factor import judge_measured, judge_predicted
from .measured_sweep import MeasuredSweep, Thresholds, measured_sweep
from .record import PlanSafety, SafetyFile


@dataclass(frozen=True)
class SafetySettings:
    """What is measured, and what is asked of it.

    Attributes:
        sources: names and texts; none for the domains of the profile.
        num_sequences: of evaluation, for each domain.
        sequence_length: tokens in each.
        num_points: of the ladder.
        inputs: what layers are rounded against.
        thresholds: what is called yield and collapse, and how sure bounds are.
        required_factor: what the lower end of a factor's interval is held against.
    """

    sources: tuple[tuple[str, str], ...] = ()
    num_sequences: int = 24
    sequence_length: int = 512
    num_points: int = 11
    inputs: str = ORIGINAL_INPUTS
    thresholds: Thresholds = field(default_factory=Thresholds)
    required_factor: float = 1.0


def settings_of(safety: SafetyFile, profile: Profile, origin: ProfileOrigin) -> SafetySettings:
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
    as_profiled = [(domain.name, domain.text_sha256) for domain in profiled_domains(profile)]
    known = [(curve.domain, curve.text_sha256) for curve in curves] == as_profiled
    return SafetySettings(
        sources=() if known else tuple((curve.domain, curve.text_source) for curve in curves),
        num_sequences=curves[0].num_sequences,
        sequence_length=curves[0].sequence_length,
        num_points=safety.num_points,
        inputs=safety.rounding_inputs,
        thresholds=Thresholds(safety.offset, safety.ultimate, safety.bootstrap),
    )


def cache_beside(profile_path: Path) -> Path:
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

    origin: ProfileOrigin
    measurer: MeasurementCache
    settings: SafetySettings

    def measure_plans(self, plans: Mapping[str, Formats]) -> tuple[MeasuredSweep, dict[str, PlanSafety]]:
        """Measure the ladder and plans, and judge the plans.

        Args:
            plans: the format of every layer, by name.

        Returns:
            The ladder, and the factors of every plan.

        Raises:
            ScantlingError: a plan is called like a rung.
        """
        measurer, settings = self.measurer, self.settings
        sweep_points: dict[str, Formats] = dict(sweep(measurer.profile, settings.num_points, measurer.progress))
        if sweep_points.keys() & plans.keys():
            raise ScantlingError(
                f"a plan is called {min(sweep_points.keys() & plans.keys())!r}, as a rung is. Rename its file."
            )
        measured = measurer.measure({**sweep_points, **plans})
        sweep_measured = measured_sweep(measurer.profile, sweep_points, measured, measurer.domains, settings.thresholds)
        return sweep_measured, {
            name: judge_measured(sweep_measured, name, formats, measured[name], settings.required_factor)
            for name, formats in plans.items()
        }

    def predict(self, plans: Mapping[str, Formats]) -> tuple[MeasuredSweep, dict[str, PlanSafety]]:
        """Measure the ladder only, and judge plans by their predictions.

        Args:
            plans: the format of every layer, by name.

        Returns:
            The ladder, and the factors of every plan.
        """
        sweep_measured, _ = self.measure_plans({})
        return sweep_measured, {
            name: judge_predicted(sweep_measured, name, formats, self.settings.required_factor)
            for name, formats in plans.items()
        }

    def record(self, found: tuple[MeasuredSweep, Mapping[str, PlanSafety]]) -> SafetyFile:
        """Write down what was found.

        Args:
            found: the ladder, and the factors of every plan.

        Returns:
            What ``safety.json`` says.
        """
        sweep_measured, plans = found
        record = self.measurer.profile.record
        return SafetyFile(
            scantling_version=__version__,
            model_source=record.model_source,
            model_sha256=record.model_sha256,
            profile_path=str(self.origin.path),
            profile_sha256=self.origin.sha256,
            rounding_inputs=self.settings.inputs,
            num_points=self.settings.num_points,
            offset=self.settings.thresholds.offset,
            ultimate=self.settings.thresholds.ultimate,
            bootstrap=self.settings.thresholds.bootstrap,
            curves=sweep_measured.curves(),
            sweep=sweep_measured.sweep_points(),
            plans=tuple(plans.values()),
        )


def safety_run(
    loaded: LoadedModel,
    profile: Profile,
    origin: ProfileOrigin,
    settings: SafetySettings,
    kept: Path,
    progress: Progress,
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
    settings.thresholds.validate()
    if not 0 < settings.required_factor < math.inf:
        raise ScantlingError(f"a required factor of {settings.required_factor:g} is none. Give one such as 1.5.")
    profile.require_same_model(loaded.sha256, [layer.name for layer in find_layers(loaded.model).layers])
    domains = evaluation_domains(loaded, profile, settings.sources, settings.num_sequences, settings.sequence_length)
    for domain in domains:
        BlockBootstrap(domain.document_of_sequence, settings.thresholds.bootstrap).require_enough()
    return SafetyRun(origin, MeasurementCache(loaded, profile, domains, settings.inputs, kept, progress), settings)
