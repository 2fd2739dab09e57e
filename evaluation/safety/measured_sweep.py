"""A ladder that was measured: the curve of every load case, and where the model yields and collapses on it.

Knows nothing about factors, nor how anything was measured.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...common.errors import ScantlingError
from ...planning.plan import average_bits
from ...quantization.formats import parse_format
from ...sensitivity.profile import Profile, decided_layers
from ..bootstrap import Certainty, Interval, Resampling
from ..cache import ORIGINAL, Formats, QualityOf, formats_sha256
from ..prediction_validity import held_against, judge
from ..quality import Quality
from ..text import EvaluationCase
from .degradation_curve import Crossing, Curve, curve_of, loss_by_sequence
from .record import CaseCurve, CaseQuality, DocumentQuality, MeasuredPlan, Point

DEFAULT_OFFSET = 0.1
DEFAULT_ULTIMATE = 1.0


@dataclass(frozen=True)
class Thresholds:
    """What is called yield and collapse, and how sure bounds are.

    Attributes:
        offset: the relative rise of perplexity at yield.
        ultimate: at collapse.
        certainty: of all intervals.
    """

    offset: float = DEFAULT_OFFSET
    ultimate: float = DEFAULT_ULTIMATE
    certainty: Certainty = field(default_factory=Certainty)

    def refuse_nonsense(self) -> None:
        """Refuse thresholds that are none.

        Raises:
            ScantlingError: they are not in order.
        """
        if not 0 < self.offset < self.ultimate:
            raise ScantlingError(
                f"yield at {self.offset:.3%} and collapse at {self.ultimate:.3%} more perplexity are not in order. "
                "Give --offset above 0 and below --ultimate."
            )


@dataclass(frozen=True)
class MeasuredCase:
    """One load case on which a ladder was measured.

    Attributes:
        case: its text.
        resampling: the draws of its documents.
        original: what was measured of the original.
        curve: the ladder's.
        at_yield: where perplexity has risen by the offset.
        at_ultimate: where the model has collapsed.
    """

    case: EvaluationCase
    resampling: Resampling
    original: Quality
    curve: Curve
    at_yield: Crossing
    at_ultimate: Crossing


@dataclass(frozen=True)
class MeasuredLadder:
    """A ladder that was measured, ready to judge plans by.

    Attributes:
        profile: that it was solved from.
        ladder: the format of every layer, by rung, from light to heavy.
        measured: of every rung, and of the original, on every load case.
        thresholds: what is called yield and collapse.
        cases: one a load case.
    """

    profile: Profile
    ladder: Mapping[str, Formats]
    measured: QualityOf
    thresholds: Thresholds
    cases: tuple[MeasuredCase, ...]

    def plan_quality(self, name: str, formats: Formats, measured: Mapping[str, Quality]) -> MeasuredPlan:
        """Describe a plan.

        Args:
            name: of the plan.
            formats: of every layer.
            measured: its quality by load case; none where it was only predicted.

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
            cases=tuple(_case_quality(one, measured[one.case.name]) for one in self.cases) if measured else (),
        )

    def rungs(self) -> tuple[MeasuredPlan, ...]:
        """Describe the ladder.

        Returns:
            Its rungs.
        """
        return tuple(self.plan_quality(name, formats, self.measured[name]) for name, formats in self.ladder.items())

    def curves(self) -> tuple[CaseCurve, ...]:
        """Describe what was found on every load case.

        Returns:
            One curve a load case.
        """
        return tuple(self._curve(one) for one in self.cases)

    def _curve(self, one: MeasuredCase) -> CaseCurve:
        name = one.case.name
        onset = _onset(one, [self.measured[rung][name] for rung in self.ladder])
        return CaseCurve(
            load_case=name,
            text_source=one.case.text.source,
            text_sha256=one.case.text.sha256,
            num_sequences=len(one.case.token_ids),
            sequence_length=one.case.token_ids.shape[1],
            num_documents=one.resampling.num_documents,
            original_perplexity=one.original.perplexity,
            original_accuracy=one.resampling.mean_interval(one.original.next_token_accuracy),
            elastic_limit_nats=self._elastic_limit(one),
            onset_kl_nats=None if onset is None else float(one.curve.kl_nats[onset]),
            onset_rung=None if onset is None else one.curve.names[onset],
            yield_point=_point(one, one.at_yield),
            ultimate_point=_point(one, one.at_ultimate),
        )

    def _elastic_limit(self, one: MeasuredCase) -> float | None:
        """Give the measured KL divergence up to which predictions hold."""
        rungs = []
        for name, formats in self.ladder.items():
            predicted, measured = self.predicted(formats, one.case.name), self.measured[name][one.case.name]
            rungs.append(held_against(name, 0.0, predicted, (measured.mean_kl_nats, measured.kl_standard_error_nats)))
        judged = judge(rungs)
        elastic = [rung for rung in judged.rungs if rung.predicted_kl_nats <= (judged.elastic_limit_nats or 0.0)]
        return max((rung.measured_kl_nats for rung in elastic), default=None)

    def predicted_and_measured(self, one: MeasuredCase) -> list[tuple[float, float]]:
        """Put predictions beside measurements.

        Args:
            one: the load case.

        Returns:
            KL divergence per token, predicted and measured, of every rung.
        """
        return [
            (self.predicted(formats, one.case.name)[0], self.measured[rung][one.case.name].mean_kl_nats)
            for rung, formats in self.ladder.items()
        ]

    def predicted(self, formats: Formats, case_name: str) -> tuple[float, float | None]:
        """Predict a plan on a load case.

        Args:
            formats: of every layer.
            case_name: the load case; one that the profile does not know stands for the mean of those that it does.

        Returns:
            KL divergence per token in nats, and its standard error, None where there is one sample.
        """
        samples = self.profile.samples_of_cases.get(case_name, self.profile.samples)
        chosen = [
            samples[index, self.profile.format_index[formats[layer]]]
            for layer, index in self.profile.layer_index.items()
        ]
        totals = np.sum(chosen, axis=0)
        error = float(totals.std(ddof=1)) / math.sqrt(len(totals)) if len(totals) > 1 else None
        return float(totals.mean()), error


def measured_ladder(
    profile: Profile,
    ladder: Mapping[str, Formats],
    measured: QualityOf,
    cases: Sequence[EvaluationCase],
    thresholds: Thresholds,
) -> MeasuredLadder:
    """Find yield and collapse on every load case.

    Args:
        profile: that the ladder was solved from.
        ladder: the format of every layer, by rung, from light to heavy.
        measured: of every rung, and of the original, on every load case.
        cases: the load cases.
        thresholds: what is called yield and collapse.

    Returns:
        The ladder, ready to judge plans by.
    """
    thresholds.refuse_nonsense()
    made = []
    for case in cases:
        resampling = Resampling(case.document_of_sequence, thresholds.certainty)
        resampling.refuse_too_few()
        original = measured[ORIGINAL][case.name]
        curve = curve_of(list(ladder), [measured[rung][case.name] for rung in ladder], original, resampling)
        at_yield = curve.crossing(math.log1p(thresholds.offset))
        at_ultimate = curve.crossing(math.log1p(thresholds.ultimate))
        made.append(MeasuredCase(case, resampling, original, curve, at_yield, at_ultimate))
    return MeasuredLadder(profile, ladder, measured, thresholds, tuple(made))


def _case_quality(one: MeasuredCase, measured: Quality) -> CaseQuality:
    draws, original = one.resampling, one.original
    likelihood = draws.mean_interval(measured.negative_log_likelihood_nats)
    accuracy = np.subtract(measured.next_token_accuracy, original.next_token_accuracy)
    return CaseQuality(
        load_case=one.case.name,
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


def _document_qualities(one: MeasuredCase, measured: Quality) -> Iterator[DocumentQuality]:
    sequences: dict[int, list[int]] = {}
    for sequence, document in enumerate(one.case.document_of_sequence):
        sequences.setdefault(document, []).append(sequence)
    for document, chosen in sorted(sequences.items()):
        yield DocumentQuality(document=document, num_sequences=len(chosen), **measured.means_of(chosen))


def _onset(one: MeasuredCase, rungs: Sequence[Quality]) -> int | None:
    """Give the lightest rung that is worse than the original beyond doubt, as are all heavier ones."""
    onset = None
    for index in np.argsort(-one.curve.kl_nats, kind="stable"):
        if one.resampling.mean_interval(loss_by_sequence(rungs[index], one.original)).lower <= 0:
            break
        onset = int(index)
    return onset


def _point(one: MeasuredCase, crossing: Crossing) -> Point:
    return Point(
        kl_nats=one.resampling.interval(crossing.kl_nats, crossing.replicates),
        reached=crossing.reached,
        share_reached=crossing.share_reached,
        between=crossing.between,
    )
