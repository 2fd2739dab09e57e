"""The record of a comparison, which ``scantling compare --json`` writes and ``scantling report`` reads.

Knows nothing about how it was measured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator

from ..common.records import Finite, Record, VersionedRecord, read_record, write_record
from ..planning.plan import Plan
from ..planning.reduced_costs import reduced_costs
from ..sensitivity.profile import Profile
from .bootstrap import BootstrapSettings, Interval

COMPARISON_VERSION: Final = 2
ORIGINAL: Final = "original"


def _current_role(role: str) -> str:
    """Read a role of version 0.1."""
    return "baseline" if role == "rival" else role


class ComparisonEntry(Record):
    """One row of the comparison.

    Attributes:
        name: of the plan, ``uniform`` and its format, ``even`` and two formats, or ``original``.
        role: ``plan``, ``baseline`` (uniform, or a naive mixture) or ``original``.
        says: its description.
        formats: of every layer, in the order of the comparison's ``layers``; empty for the original.
        stored_bytes: of all tensors, exact.
        average_bits: over the decided layers, without scales and zero points.
        bits_by_kind: the same over the layers of one kind.
        bits_by_block: the same over the layers of one block, by its index.
        predicted_kl_nats: the predicted loss increase per token.
        predicted_kl_standard_error_nats: over the profile's samples; None for a single one.
        predicted_perplexity: the original's measured perplexity · exp(predicted KL).
        measured_kl_nats: mean KL divergence per token from the original.
        measured_kl_standard_error_nats: over the evaluation sequences; None for a single one.
        measured_perplexity: on the evaluation sequences.
        measured_top1_agreement: share of tokens where it and the original agree on the most likely one.
        measured_kl_nats_by_sequence: the measured KL divergence per token of every evaluation sequence.
    """

    name: str
    role: Annotated[Literal["plan", "baseline", "original"], BeforeValidator(_current_role)]
    says: str
    formats: tuple[str, ...]
    stored_bytes: int
    average_bits: Finite
    bits_by_kind: dict[str, Finite]
    bits_by_block: dict[int, Finite]
    predicted_kl_nats: Finite
    predicted_kl_standard_error_nats: Finite | None
    predicted_perplexity: Finite
    measured_kl_nats: Finite
    measured_kl_standard_error_nats: Finite | None
    measured_perplexity: Finite
    measured_top1_agreement: Finite
    measured_kl_nats_by_sequence: tuple[Finite, ...]


class PairedDifference(Record):
    """By how much the first plan is better than another entry, sequence by sequence on the same text.

    Attributes:
        other: the entry's name.
        kl_nats: the other's measured KL divergence minus the plan's, per token; positive where the plan is better.
        standard_error_nats: of that mean, over the sequences; None for a single one.
        interval: by the block bootstrap over documents; None where there are too few documents for its confidence.
        predicted_kl_nats: the predicted difference.
        stored_bytes: the other's minus the plan's.
    """

    other: str
    kl_nats: Finite
    standard_error_nats: Finite | None
    interval: Interval | None
    predicted_kl_nats: Finite
    stored_bytes: int

    @property
    def is_clear(self) -> bool | None:
        """Whether the interval excludes zero; None without an interval."""
        return None if self.interval is None else not self.interval.lower <= 0 <= self.interval.upper


class FormatChange(Record):
    """One layer that has another format in the plan than in another entry, and why.

    Attributes:
        layer: its name.
        kind: the path inside its block.
        block: the index of its block; None outside the blocks.
        before: the other entry's format.
        after: the plan's.
        stored_bytes: more in the plan.
        saved_nats: predicted loss that the plan saves here; negative where it adds loss.
        share_of_plan_loss: the layer's share of the plan's predicted loss.
        share_of_other_loss: its share of the other entry's.
        paid_nats: what the layer's extra amounts cost at the plan's shadow prices; None without prices.
        net_nats: saved minus paid, the reduced cost of the other entry's format; None without prices.
    """

    layer: str
    kind: str
    block: int | None
    before: str
    after: str
    stored_bytes: int
    saved_nats: Finite
    share_of_plan_loss: Finite
    share_of_other_loss: Finite
    paid_nats: Finite | None
    net_nats: Finite | None


class Comparison(VersionedRecord):
    """The whole comparison.

    Attributes:
        comparison_version: of this layout.
        scantling_version: that wrote it.
        model_source: the model.
        model_sha256: of its weights.
        profile_sha256: of the profile that predicts.
        text_source: the evaluation text.
        text_sha256: of its documents.
        num_sequences: of evaluation.
        sequence_length: tokens in each.
        num_documents: documents that the sequences come from; intervals rest on them.
        rounding_inputs: what layers were rounded against. Predictions assume ``original`` inputs.
        bootstrap: of all intervals.
        layers: names of all layers.
        entries: the plans, their baselines, the original.
        differences: of the first plan from every other entry but the original.
        changes_from: the baseline closest in bytes, which ``format_changes`` are counted from; None without baselines.
        format_changes: where the first plan differs from it.
        left_out: baselines that do not exist, with the reason.
    """

    version_key: ClassVar[str] = "comparison_version"
    version: ClassVar[int] = COMPARISON_VERSION
    renamed_keys: ClassVar[Mapping[str, str]] = {
        "certainty": "bootstrap",
        "contenders": "entries",
        "moves": "format_changes",
        "moves_from": "changes_from",
    }

    comparison_version: Literal[2] = COMPARISON_VERSION
    scantling_version: str
    model_source: str
    model_sha256: str
    profile_sha256: str
    text_source: str
    text_sha256: str
    num_sequences: int
    sequence_length: int
    num_documents: int
    rounding_inputs: str
    bootstrap: BootstrapSettings
    layers: tuple[str, ...]
    entries: tuple[ComparisonEntry, ...]
    differences: tuple[PairedDifference, ...]
    changes_from: str | None
    format_changes: tuple[FormatChange, ...]
    left_out: tuple[str, ...]

    def entry(self, name: str) -> ComparisonEntry:
        """Give the entry of this name."""
        return next(row for row in self.entries if row.name == name)

    @property
    def baseline(self) -> PairedDifference | None:
        """The difference from the baseline closest in bytes; None without baselines."""
        return next((row for row in self.differences if row.other == self.changes_from), None)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the comparison as JSON, whole or not at all; an existing file is replaced."""
    write_record(comparison, path)


def read_comparison(path: Path) -> Comparison:
    """Read a comparison, also one of version 0.1; raises FileFormatError where it is missing or something else."""
    return read_record(Comparison, path, f"comparison of version {COMPARISON_VERSION}", "scantling compare PLAN")


def format_changes(profile: Profile, plan: Plan, formats: Mapping[str, str]) -> tuple[FormatChange, ...]:
    """List where a plan differs from another assignment of formats, in the order of the model."""
    plan_loss = plan.loss_increase_nats
    other_loss, _ = profile.predict(dict(formats))
    found = []
    for one in reduced_costs(plan, formats):
        layer = profile.record.layers[one.unit]
        before, after = (profile.format_index[name] for name in (one.before, one.after))
        stored = dict(zip(layer.formats, layer.stored_bytes, strict=True))
        found.append(
            FormatChange(
                layer=layer.name,
                kind=layer.kind,
                block=layer.block,
                before=one.before,
                after=one.after,
                stored_bytes=stored[after] - stored[before],
                saved_nats=one.saved_nats,
                share_of_plan_loss=profile.loss_increase_nats(one.unit, after) / plan_loss if plan_loss else 0.0,
                share_of_other_loss=profile.loss_increase_nats(one.unit, before) / other_loss if other_loss else 0.0,
                paid_nats=one.paid_nats,
                net_nats=one.net_nats,
            )
        )
    return tuple(found)
