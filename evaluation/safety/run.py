"""From plans to ``safety.json``: solve the budget sweep, measure it and the plans, compute factors.

Knows nothing about command lines.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ... import __version__
from ...common.errors import InputError
from ...common.progress import Progress
from ...models.layers import find_layers
from ...models.loading import LoadedModel
from ...sensitivity.profile import Profile, ProfileOrigin
from ...sensitivity.sequential_rounding import ORIGINAL_INPUTS
from ..bootstrap import BlockBootstrap
from ..cache import Formats, MeasurementCache
from ..text import evaluation_domains, profiled_domains
from .budget_sweep import sweep
from .factor import safety_of_measured, safety_of_predicted
from .measured_sweep import MeasuredSweep, Thresholds, measured_sweep
from .record import PlanSafety, SafetyFile


@dataclass(frozen=True)
class SafetySettings:
    """What is measured, and what it must reach.

    Attributes:
        sources: names and texts of domains; empty for the domains of the profile.
        num_sequences: evaluation sequences per domain.
        sequence_length: tokens in each.
        num_points: of the budget sweep.
        inputs: what layers are rounded against.
        thresholds: where yield and collapse are, and the confidence of bounds.
        required_factor: what the lower bound of a factor's interval must reach.
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
        profile: that its sweep must have been solved from.
        origin: the profile's file.

    Returns:
        The settings, without the required factor.

    Raises:
        InputError: it was made from another profile.
    """
    if safety.profile_sha256 != origin.sha256:
        raise InputError(
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
    """Name the folder beside a profile that caches the measurements of its plans.

    Returns:
        The folder.

    >>> cache_beside(Path("some/model.safetensors")).name
    'model.safetensors.measured'
    """
    return profile_path.with_name(f"{profile_path.name}.measured")


@dataclass(frozen=True)
class SafetyRun:
    """A model and its evaluation text, ready to measure.

    Attributes:
        origin: the profile's file.
        cache: measures plans, each only once.
        settings: what is measured, and what it must reach.
    """

    origin: ProfileOrigin
    cache: MeasurementCache
    settings: SafetySettings

    def measure_plans(self, plans: Mapping[str, Formats]) -> tuple[MeasuredSweep, dict[str, PlanSafety]]:
        """Measure the budget sweep and plans.

        Args:
            plans: the format of every layer, by name.

        Returns:
            The measured sweep, and the factors of every plan.

        Raises:
            InputError: a plan has the name of a sweep point.
        """
        cache, settings = self.cache, self.settings
        points: dict[str, Formats] = dict(sweep(cache.profile, settings.num_points, cache.progress))
        if points.keys() & plans.keys():
            raise InputError(
                f"a plan is called {min(points.keys() & plans.keys())!r}, as a sweep point is. Rename its file."
            )
        measured = cache.measure({**points, **plans})
        sweep_measured = measured_sweep(cache.profile, points, measured, cache.domains, settings.thresholds)
        return sweep_measured, {
            name: safety_of_measured(sweep_measured, name, formats, measured[name], settings.required_factor)
            for name, formats in plans.items()
        }

    def predict(self, plans: Mapping[str, Formats]) -> tuple[MeasuredSweep, dict[str, PlanSafety]]:
        """Measure the budget sweep only, and give plans the factors that follow from their predictions."""
        sweep_measured, _ = self.measure_plans({})
        return sweep_measured, {
            name: safety_of_predicted(sweep_measured, name, formats, self.settings.required_factor)
            for name, formats in plans.items()
        }

    def record(self, found: tuple[MeasuredSweep, Mapping[str, PlanSafety]]) -> SafetyFile:
        """Record a measured sweep and the factors of plans as ``safety.json`` holds them."""
        sweep_measured, plans = found
        record = self.cache.profile.record
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
    cache_folder: Path,
    progress: Progress,
) -> SafetyRun:
    """Prepare the text, and refuse what would fail before any work is done.

    Args:
        loaded: the model.
        profile: of this model.
        origin: the profile's file.
        settings: what is measured, and what it must reach.
        cache_folder: for measurements.
        progress: shows how far the work is.

    Returns:
        The run.

    Raises:
        InputError: the required factor is not a finite number above 0.
    """
    settings.thresholds.validate()
    if not 0 < settings.required_factor < math.inf:
        raise InputError(
            f"the required factor must be a finite number above 0, got "
            f"{settings.required_factor:g}. Give for instance 1.5."
        )
    profile.require_same_model(loaded.sha256, [layer.name for layer in find_layers(loaded.model).layers])
    domains = evaluation_domains(loaded, profile, settings.sources, settings.num_sequences, settings.sequence_length)
    for domain in domains:
        BlockBootstrap(domain.document_of_sequence, settings.thresholds.bootstrap).require_enough()
    return SafetyRun(
        origin, MeasurementCache(loaded, profile, domains, settings.inputs, cache_folder, progress), settings
    )
