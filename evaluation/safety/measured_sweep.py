"""A measured budget sweep: the curve of every domain, and where the model yields and collapses on it.

Knows nothing about factors, nor how anything was measured.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...common.errors import InputError
from ...planning.plan import average_bits
from ...quantization.formats import parse_format
from ...sensitivity.profile import Profile, decided_layers, mean_and_standard_error
from ..bootstrap import BlockBootstrap, BootstrapSettings, Interval
from ..cache import ORIGINAL, Formats, QualityOf, formats_sha256
from ..prediction_validity import check_prediction, prediction_validity
from ..quality import Quality
from ..text import EvaluationDomain
from .degradation_curve import Crossing, DegradationCurve, curve_of, loss_by_sequence
from .record import DocumentQuality, DomainCurve, DomainQuality, MeasuredPlan, ThresholdPoint

DEFAULT_OFFSET = 0.1
DEFAULT_ULTIMATE = 1.0


@dataclass(frozen=True)
class Thresholds:
    """Where yield and collapse are, and the confidence of bounds.

    Attributes:
        offset: relative rise of perplexity at yield.
        ultimate: relative rise of perplexity at collapse.
        bootstrap: of all intervals.
    """

    offset: float = DEFAULT_OFFSET
    ultimate: float = DEFAULT_ULTIMATE
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def validate(self) -> None:
        """Require 0 < offset < ultimate."""
        if not 0 < self.offset < self.ultimate:
            raise InputError(
                f"yield at {self.offset:.3%} and collapse at {self.ultimate:.3%} more perplexity are not in order. "
                "Give --offset above 0 and below --ultimate."
            )


@dataclass(frozen=True)
class MeasuredDomain:
    """One domain on which a sweep was measured.

    Attributes:
        domain: its text.
        resampling: the draws of its documents.
        original: quality of the original.
        curve: the sweep's.
        at_yield: where perplexity has risen by the offset.
        at_ultimate: where the model has collapsed.
    """

    domain: EvaluationDomain
    resampling: BlockBootstrap
    original: Quality
    curve: DegradationCurve
    at_yield: Crossing
    at_ultimate: Crossing


@dataclass(frozen=True)
class MeasuredSweep:
    """A measured budget sweep, which the factors of plans follow from.

    Attributes:
        profile: that it was solved from.
        sweep: the format of every layer, by sweep point, from light to heavy compression.
        measured: quality of every point, and of the original, on every domain.
        thresholds: where yield and collapse are.
        domains: one per domain.
    """

    profile: Profile
    sweep: Mapping[str, Formats]
    measured: QualityOf
    thresholds: Thresholds
    domains: tuple[MeasuredDomain, ...]

    def plan_quality(self, name: str, formats: Formats, measured: Mapping[str, Quality]) -> MeasuredPlan:
        """Record a plan.

        Args:
            name: of the plan.
            formats: of every layer.
            measured: its quality by domain; empty where it was only predicted.

        Returns:
            The record.
        """
        predicted, error = self.profile.predict(dict(formats))
        decided = decided_layers(self.profile)
        return MeasuredPlan(
            name=name,
            formats_sha256=formats_sha256(formats),
            average_bits=average_bits([
                (parse_format(formats[layer.name]).bits, layer.num_weights) for layer in decided
            ]),
            stored_bytes=self.profile.stored_bytes(dict(formats)),
            predicted_kl_nats=predicted,
            predicted_kl_standard_error_nats=error,
            domains=tuple(_domain_quality(one, measured[one.domain.name]) for one in self.domains) if measured else (),
        )

    def sweep_points(self) -> tuple[MeasuredPlan, ...]:
        """Record the points of the sweep."""
        return tuple(self.plan_quality(name, formats, self.measured[name]) for name, formats in self.sweep.items())

    def curves(self) -> tuple[DomainCurve, ...]:
        """Record one curve per domain."""
        return tuple(self._curve(one) for one in self.domains)

    def _curve(self, one: MeasuredDomain) -> DomainCurve:
        name = one.domain.name
        onset = _onset(one, [self.measured[point][name] for point in self.sweep])
        return DomainCurve(
            domain=name,
            text_source=one.domain.text.source,
            text_sha256=one.domain.text.sha256,
            num_sequences=len(one.domain.token_ids),
            sequence_length=one.domain.token_ids.shape[1],
            num_documents=one.resampling.num_documents,
            original_perplexity=one.original.perplexity,
            original_accuracy=one.resampling.mean_interval(one.original.next_token_accuracy),
            elastic_limit_nats=self._elastic_limit(one),
            onset_kl_nats=None if onset is None else float(one.curve.kl_nats[onset]),
            onset_point=None if onset is None else one.curve.names[onset],
            yield_point=_point(one, one.at_yield),
            ultimate_point=_point(one, one.at_ultimate),
        )

    def _elastic_limit(self, one: MeasuredDomain) -> float | None:
        """Give the measured KL divergence up to which predictions hold."""
        points = []
        for name, formats in self.sweep.items():
            predicted, measured = self.predicted(formats, one.domain.name), self.measured[name][one.domain.name]
            points.append(
                check_prediction(name, 0.0, predicted, (measured.mean_kl_nats, measured.kl_standard_error_nats))
            )
        validity = prediction_validity(points)
        limit = validity.elastic_limit_nats or 0.0
        elastic = [point.measured_kl_nats for point in validity.sweep_points if point.predicted_kl_nats <= limit]
        return max(elastic, default=None)

    def predicted_and_measured(self, one: MeasuredDomain) -> list[tuple[float, float]]:
        """Give the predicted and the measured KL divergence per token of every sweep point on a domain."""
        return [
            (self.predicted(formats, one.domain.name)[0], self.measured[point][one.domain.name].mean_kl_nats)
            for point, formats in self.sweep.items()
        ]

    def predicted(self, formats: Formats, domain_name: str) -> tuple[float, float | None]:
        """Predict a plan on a domain.

        Args:
            formats: of every layer.
            domain_name: the domain; for one that the profile does not know, the mean over its domains is predicted.

        Returns:
            KL divergence per token in nats, and its standard error, None for a single sample.
        """
        losses, names = self.profile.sample_losses_nats(formats), self.profile.domain_names
        if domain_name in names:
            losses = losses[self.profile.domain_of_sample == names.index(domain_name)]
        return mean_and_standard_error(losses)


def measured_sweep(
    profile: Profile,
    sweep: Mapping[str, Formats],
    measured: QualityOf,
    domains: Sequence[EvaluationDomain],
    thresholds: Thresholds,
) -> MeasuredSweep:
    """Find yield and collapse on every domain.

    Args:
        profile: that the sweep was solved from.
        sweep: the format of every layer, by sweep point, from light to heavy compression.
        measured: quality of every point, and of the original, on every domain.
        domains: the domains.
        thresholds: where yield and collapse are.

    Returns:
        The measured sweep.
    """
    thresholds.validate()
    found = []
    for domain in domains:
        resampling = BlockBootstrap(domain.document_of_sequence, thresholds.bootstrap)
        resampling.require_enough()
        original = measured[ORIGINAL][domain.name]
        curve = curve_of(list(sweep), [measured[point][domain.name] for point in sweep], original, resampling)
        at_yield = curve.crossing(math.log1p(thresholds.offset))
        at_ultimate = curve.crossing(math.log1p(thresholds.ultimate))
        found.append(MeasuredDomain(domain, resampling, original, curve, at_yield, at_ultimate))
    return MeasuredSweep(profile, sweep, measured, thresholds, tuple(found))


def _domain_quality(one: MeasuredDomain, measured: Quality) -> DomainQuality:
    draws, original = one.resampling, one.original
    likelihood = draws.mean_interval(measured.negative_log_likelihood_nats)
    accuracy = np.subtract(measured.next_token_accuracy, original.next_token_accuracy)
    return DomainQuality(
        domain=one.domain.name,
        kl_nats=draws.mean_interval(measured.kl_nats),
        negative_log_likelihood_increase_nats=draws.mean_interval(loss_by_sequence(measured, original)),
        perplexity=Interval(
            estimate=math.exp(likelihood.estimate), lower=math.exp(likelihood.lower), upper=math.exp(likelihood.upper)
        ),
        next_token_accuracy=draws.mean_interval(measured.next_token_accuracy),
        accuracy_change=draws.mean_interval(accuracy),
        top1_agreement=draws.mean_interval(measured.top1_agreement),
        flips=draws.mean_interval(measured.flips),
        kl_nats_by_sequence=measured.kl_nats,
        by_document=tuple(_document_qualities(one, measured)),
    )


def _document_qualities(one: MeasuredDomain, measured: Quality) -> Iterator[DocumentQuality]:
    sequences: dict[int, list[int]] = {}
    for sequence, document in enumerate(one.domain.document_of_sequence):
        sequences.setdefault(document, []).append(sequence)
    for document, chosen in sorted(sequences.items()):
        yield DocumentQuality(document=document, num_sequences=len(chosen), **measured.means_of(chosen))


def _onset(one: MeasuredDomain, sweep_points: Sequence[Quality]) -> int | None:
    """Give the lightest point that is significantly worse than the original, as are all heavier ones."""
    onset = None
    for index in np.argsort(-one.curve.kl_nats, kind="stable"):
        if one.resampling.mean_interval(loss_by_sequence(sweep_points[index], one.original)).lower <= 0:
            break
        onset = int(index)
    return onset


def _point(one: MeasuredDomain, crossing: Crossing) -> ThresholdPoint:
    return ThresholdPoint(
        kl_nats=one.resampling.interval(crossing.kl_nats, crossing.replicates),
        reached=crossing.reached,
        share_reached=crossing.share_reached,
        between=crossing.between,
    )
