"""Comparisons and safety files that were never measured, for what prints them."""

from scantling.evaluation.bootstrap import BootstrapSettings, Interval
from scantling.evaluation.cache import formats_sha256
from scantling.evaluation.comparison import Comparison, ComparisonEntry, PairedDifference
from scantling.evaluation.safety.record import (
    DomainCurve,
    DomainFactor,
    DomainQuality,
    MeasuredPlan,
    PlanSafety,
    PredictionMargin,
    SafetyFile,
    ThresholdPoint,
)
from scantling.sensitivity.profile import uniform_formats


def comparison_of(plan, profile):
    sets = {"plan": plan.formats(), "uniform int4-g32": uniform_formats(profile, "int4-g32")}
    rows = []
    for name, formats in sets.items():
        predicted, error = profile.predict(formats)
        rows.append(
            ComparisonEntry(
                name=name,
                role="plan" if name == "plan" else "baseline",
                says="as it is called",
                formats=tuple(formats.values()),
                stored_bytes=profile.stored_bytes(formats),
                average_bits=4.0,
                bits_by_kind={"mlp.up_proj": 4.0},
                bits_by_block={0: 4.0},
                predicted_kl_nats=predicted,
                predicted_kl_standard_error_nats=error,
                predicted_perplexity=11.0,
                measured_kl_nats=predicted,
                measured_kl_standard_error_nats=error,
                measured_perplexity=11.0,
                measured_top1_agreement=0.9,
                measured_kl_nats_by_sequence=(predicted,) * 2,
            )
        )
    original = rows[0].model_copy(
        update={
            "name": "original",
            "role": "original",
            "formats": (),
            "measured_kl_nats": 0.0,
            "predicted_kl_nats": 0.0,
        }
    )
    found = PairedDifference(
        other="uniform int4-g32", kl_nats=0.5, standard_error_nats=0.1, predicted_kl_nats=0.4, stored_bytes=100,
        interval=Interval(estimate=0.5, lower=0.3, upper=0.7),
    )  # fmt: skip
    return Comparison(
        scantling_version="0", model_source=plan.model_source, model_sha256=plan.model_sha256,
        profile_sha256=plan.profile_sha256, text_source="words", text_sha256="0", num_sequences=2, sequence_length=8,
        num_documents=2, rounding_inputs="original", bootstrap=BootstrapSettings(), layers=tuple(plan.formats()),
        entries=(*rows, original), differences=(found,), changes_from="uniform int4-g32", format_changes=(),
        left_out=(),
    )  # fmt: skip


def around(value):
    return Interval(estimate=value, lower=0.8 * value, upper=1.25 * value)


def measured_plan(name, bits):
    kl = 4.0**-bits
    quality = DomainQuality(
        domain="text", kl_nats=around(1.1 * kl), negative_log_likelihood_increase_nats=around(kl),
        perplexity=around(10 * (1 + kl)), next_token_accuracy=around(0.4), accuracy_change=around(-kl),
        top1_agreement=around(0.9), flips=around(0.1), kl_nats_by_sequence=(1.1 * kl,) * 2,
        by_document=(),
    )  # fmt: skip
    return MeasuredPlan(
        name=name, formats_sha256="0", average_bits=bits, stored_bytes=1000, predicted_kl_nats=kl,
        predicted_kl_standard_error_nats=kl / 10, domains=(quality,),
    )  # fmt: skip


def safety_of(plan):
    reached = ThresholdPoint(kl_nats=around(0.02), reached=True, share_reached=1.0, between=("4 bits", "3 bits"))
    beyond = ThresholdPoint(kl_nats=around(0.07), reached=False, share_reached=0.1, between=("2 bits",))
    curve = DomainCurve(
        domain="text", text_source="words", text_sha256="0", num_sequences=2, sequence_length=8, num_documents=2,
        original_perplexity=10.0,
        original_accuracy=around(0.4), elastic_limit_nats=None, onset_kl_nats=None, onset_point=None,
        yield_point=reached, ultimate_point=beyond,
    )  # fmt: skip
    factor = DomainFactor(
        domain="text", kl_nats=0.004, at_yield=around(4.5), at_ultimate=around(16), at_least_at_yield=False,
        at_least_at_ultimate=True,
    )  # fmt: skip
    judged = PlanSafety(
        plan=measured_plan("plan.json", 4).model_copy(update={"formats_sha256": formats_sha256(plan.formats())}),
        prediction_margin=PredictionMargin(value=1.1, basis="measured", mean_ratio=1.0, origin="a test"),
        domains=(factor,),
        factor=4.5, factor_lower=3.6, ultimate_factor=16, ultimate_factor_lower=12.8, governing_domain="text",
        required_factor=1.5, margin=1.4, passes=True,
    )  # fmt: skip
    other = judged.model_copy(update={"plan": measured_plan("other.json", 3), "factor": 0.5, "factor_lower": 0.4})
    return SafetyFile(
        scantling_version="0", model_source=plan.model_source, model_sha256=plan.model_sha256,
        profile_path=plan.profile_path, profile_sha256=plan.profile_sha256, rounding_inputs="original", offset=0.1,
        num_points=6,
        ultimate=1.0, bootstrap=BootstrapSettings(), curves=(curve,),
        sweep=tuple(measured_plan(f"{bits} bits", bits) for bits in (8, 6, 5, 4, 3, 2)), plans=(other, judged),
    )  # fmt: skip
