"""What ``scantling safety`` writes: the ladder, where the model yields and collapses, and the factors of plans.

Knows nothing about how any of it was measured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, Literal

from ...common.records import Finite, Record, VersionedRecord, read_record, write_record
from ..bootstrap import BootstrapSettings, Interval

SAFETY_VERSION: Final = 2


class DocumentQuality(Record):
    """What was measured of one plan on one document: means over its sequences.

    Attributes:
        document: its position among the documents of the evaluation text.
        num_sequences: that are of it.
        kl_nats: KL divergence from the original, per token.
        negative_log_likelihood_nats: of the plan, per token.
        top1_agreement: the share of tokens where plan and original have the same most likely one.
        next_token_accuracy: the share of tokens that the plan's most likely one meets.
        flips: the share of tokens where one of the two was right and the other wrong.
    """

    document: int
    num_sequences: int
    kl_nats: Finite
    negative_log_likelihood_nats: Finite
    top1_agreement: Finite
    next_token_accuracy: Finite
    flips: Finite


class DomainQuality(Record):
    """What was measured of one plan on one domain.

    Attributes:
        domain: its name.
        kl_nats: KL divergence from the original, per token.
        negative_log_likelihood_increase_nats: that of the plan less that of the original, per token; paired.
        perplexity: of the plan.
        next_token_accuracy: the share of tokens that the plan's most likely one meets.
        accuracy_change: that share less the original's; paired.
        top1_agreement: the share of tokens where plan and original have the same most likely one.
        flips: the share of tokens where one of the two was right and the other wrong.
        kl_nats_by_sequence: the KL divergence of every sequence.
        by_document: the means of every document.
    """

    domain: str
    kl_nats: Interval
    negative_log_likelihood_increase_nats: Interval
    perplexity: Interval
    next_token_accuracy: Interval
    accuracy_change: Interval
    top1_agreement: Interval
    flips: Interval
    kl_nats_by_sequence: tuple[Finite, ...]
    by_document: tuple[DocumentQuality, ...]


class MeasuredPlan(Record):
    """One plan, predicted and measured: a rung of the ladder, or a plan whose factor was asked for.

    Attributes:
        name: such as ``3.17 bits``, ``plan.json``, ``uniform int3-g64``.
        formats_sha256: of the format of every layer.
        average_bits: over the layers that the program decides.
        stored_bytes: of all tensors, exact.
        predicted_kl_nats: the predicted loss increase, per token.
        predicted_kl_standard_error_nats: over the profile's samples; None where there is only one.
        domains: what was measured, one a domain; empty where the plan was only predicted.
    """

    name: str
    formats_sha256: str
    average_bits: Finite
    stored_bytes: int
    predicted_kl_nats: Finite
    predicted_kl_standard_error_nats: Finite | None
    domains: tuple[DomainQuality, ...]


class ThresholdPoint(Record):
    """Where the curve of quality against KL divergence crosses a threshold.

    Attributes:
        kl_nats: the KL divergence there, between two rungs, and its interval; where the ladder ends before, the largest
            that was measured, and the interval's upper end says nothing.
        reached: whether the ladder reaches the threshold; where it does not, the true value is larger.
        share_reached: of the resamples in which it does.
        between: the two rungs around it (``original`` and the first, where it comes before that); the last rung alone
            where the ladder ends before.
    """

    kl_nats: Interval
    reached: bool
    share_reached: Finite
    between: tuple[str, ...]


class DomainCurve(Record):
    """One domain: its text, and where the model yields and collapses on it.

    Attributes:
        domain: its name.
        text_source: the evaluation text.
        text_sha256: of its documents.
        num_sequences: of evaluation.
        sequence_length: tokens in each.
        num_documents: that the sequences are of; intervals rest on them.
        original_perplexity: of the original model.
        original_accuracy: its next-token accuracy.
        elastic_limit_nats: the largest measured KL divergence up to which all rungs were predicted within a quarter, or
            within twice the standard error; None where the first is off.
        onset_kl_nats: the KL divergence of the first rung from which on every rung is worse than the original beyond
            doubt; depends on the length of the text. None where there is none.
        onset_point: that rung.
        yield_point: where perplexity has risen by the offset.
        ultimate_point: where the model has collapsed.
    """

    domain: str
    text_source: str
    text_sha256: str
    num_sequences: int
    sequence_length: int
    num_documents: int
    original_perplexity: Finite
    original_accuracy: Interval
    elastic_limit_nats: Finite | None
    onset_kl_nats: Finite | None
    onset_point: str | None
    yield_point: ThresholdPoint
    ultimate_point: ThresholdPoint


class PredictionMargin(Record):
    """γ: what the plan's KL divergence is multiplied by before it is held against the yield.

    Attributes:
        value: at least 1.
        mean_ratio: measured / predicted on average over the rungs that it comes from; 1 for a measured plan.
        basis: whether the plan's KL divergence was measured or only predicted.
        origin: where the value comes from, in words.
    """

    value: Finite
    mean_ratio: Finite
    basis: Literal["measured", "predicted"]
    origin: str


class DomainFactor(Record):
    """The factor of a plan on one domain.

    Attributes:
        domain: its name.
        kl_nats: D_plan: measured, or predicted.
        at_yield: D_yield / (γ · D_plan) and its interval.
        at_ultimate: D_ultimate / (γ · D_plan) and its interval.
        at_least_at_yield: the ladder ends before the yield, so that the factor is at least this.
        at_least_at_ultimate: likewise.
    """

    domain: str
    kl_nats: Finite
    at_yield: Interval
    at_ultimate: Interval
    at_least_at_yield: bool
    at_least_at_ultimate: bool


class PlanSafety(Record):
    """How safe one plan is: the least over its domains.

    Attributes:
        plan: predicted and measured.
        prediction_margin: and its origin.
        domains: the factors, one a domain.
        factor: at yield, the least over the domains.
        factor_lower: the lower end of its interval, the least over the domains: this one decides.
        ultimate_factor: at ultimate, likewise.
        ultimate_factor_lower: the lower end of its interval.
        governing_domain: the domain of the least lower end at yield.
        required_factor: that was asked for.
        margin: factor_lower / required_factor − 1.
        passes: whether the margin is not negative.
    """

    plan: MeasuredPlan
    prediction_margin: PredictionMargin
    domains: tuple[DomainFactor, ...]
    factor: Finite
    factor_lower: Finite
    ultimate_factor: Finite
    ultimate_factor_lower: Finite
    governing_domain: str
    required_factor: Finite
    margin: Finite
    passes: bool


class SafetyFile(VersionedRecord):
    """The whole of ``safety.json``.

    Attributes:
        safety_version: of this layout.
        scantling_version: that wrote it.
        model_source: the model.
        model_sha256: of its weights.
        profile_path: the profile that the ladder was solved from.
        profile_sha256: of that file.
        rounding_inputs: what layers were rounded against for the measurement.
        num_points: budgets that the ladder was solved at; equal plans are one rung.
        offset: the relative rise of perplexity that is called yield.
        ultimate: the relative rise of perplexity that is called collapse.
        bootstrap: of all intervals.
        curves: one a domain.
        sweep: from the lightest compression to the heaviest, by predicted loss increase.
        plans: the plans asked for, the first of which decides the exit status.
    """

    version_key: ClassVar[str] = "safety_version"
    version: ClassVar[int] = SAFETY_VERSION
    renamed_keys: ClassVar[Mapping[str, str]] = {
        "certainty": "bootstrap",
        "case": "domain",
        "cases": "domains",
        "gamma": "prediction_margin",
        "governing_case": "governing_domain",
        "ladder": "sweep",
        "onset_rung": "onset_point",
    }

    safety_version: Literal[2] = SAFETY_VERSION
    scantling_version: str
    model_source: str
    model_sha256: str
    profile_path: str
    profile_sha256: str
    rounding_inputs: str
    num_points: int
    offset: Finite
    ultimate: Finite
    bootstrap: BootstrapSettings
    curves: tuple[DomainCurve, ...]
    sweep: tuple[MeasuredPlan, ...]
    plans: tuple[PlanSafety, ...]


def write_safety(safety: SafetyFile, path: Path) -> None:
    """Write ``safety.json``, whole or not at all.

    Args:
        safety: what was found.
        path: the file, replaced where it exists.
    """
    write_record(safety, path)


def read_safety(path: Path) -> SafetyFile:
    """Read ``safety.json``.

    Args:
        path: the file.

    Returns:
        What it says.

    Raises:
        ScantlingError: there is no such file, or it is not of this version.
    """
    return read_record(SafetyFile, path, f"safety file of version {SAFETY_VERSION}", "scantling safety PLAN")
