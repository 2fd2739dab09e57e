"""A plan beside uniform quantization and the original, predicted and measured on the same sequences.

Knows nothing about terminals.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .. import __version__
from ..common.errors import ScantlingError
from ..common.progress import Progress
from ..models.loading import LoadedModel
from ..planning.baselines import SIZED, Baseline, baselines
from ..planning.plan import Plan, average_bits
from ..quantization.formats import parse_format
from ..sensitivity.calibration.text import Text
from ..sensitivity.domains import DEFAULT_NAME
from ..sensitivity.profile import Profile, decided_layers
from ..sensitivity.sequential_rounding import ORIGINAL_INPUTS, round_as_shipped
from .bootstrap import BlockBootstrap, BootstrapSettings, needed_documents
from .comparison import ORIGINAL, Comparison, ComparisonEntry, PairedDifference, format_changes
from .quality import Quality, measure_candidates, standard_error
from .text import EvaluationDomain, evaluation_domain, profiled_domains


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured on.

    Attributes:
        text_source: None for the part of the calibration text that was kept for evaluation.
        num_sequences: how many.
        sequence_length: tokens in each.
        inputs: what layers are rounded against: ``original`` inputs, which is what predictions are for, or as
            ``apply`` does: ``corrected`` or ``quantized``.
    """

    text_source: str | None = None
    num_sequences: int = 8
    sequence_length: int = 512
    inputs: str = ORIGINAL_INPUTS


def evaluation_sequences(
    loaded: LoadedModel, profile: Profile, settings: EvaluationSettings
) -> tuple[Text, torch.Tensor]:
    """Cut the evaluation sequences.

    Args:
        loaded: the model.
        profile: says what was calibrated on.
        settings: what is measured on.

    Returns:
        The text and int64 [sequences, tokens].
    """
    domain = _case(loaded, profile, settings)
    return domain.text, domain.token_ids


def _case(loaded: LoadedModel, profile: Profile, settings: EvaluationSettings) -> EvaluationDomain:
    named = profiled_domains(profile)[0] if settings.text_source is None else (DEFAULT_NAME, settings.text_source)
    return evaluation_domain(loaded, profile, named, settings.num_sequences, settings.sequence_length)


@dataclass(frozen=True)
class MeasuredModels:
    """Sets of formats, measured on one text.

    Attributes:
        domain: the text and its sequences.
        rows: one a set of formats.
        original: the original's row.
    """

    domain: EvaluationDomain
    rows: tuple[ComparisonEntry, ...]
    original: ComparisonEntry


def measured_beside(
    loaded: LoadedModel,
    profile: Profile,
    everyone: Sequence[Baseline],
    settings: EvaluationSettings,
    progress: Progress,
) -> MeasuredModels:
    """Measure sets of formats and the original on the same text.

    Args:
        loaded: the original model.
        profile: of this model.
        everyone: what is measured, each under a name of its own.
        settings: what is measured on.
        progress: shows how far the work is.

    Returns:
        What was measured.
    """
    domain = _case(loaded, profile, settings)
    formats = {one.name: one.formats for one in everyone}
    candidates = round_as_shipped(loaded, profile, formats, settings.inputs, progress)
    found = measure_candidates(loaded.model, candidates, domain.token_ids, progress)
    rows = tuple(_entry(profile, one, found) for one in everyone)
    return MeasuredModels(domain, rows, _original(profile, found[ORIGINAL]))


def compare(
    loaded: LoadedModel,
    profile: Profile,
    plans: Mapping[str, Plan],
    targets: Sequence[str],
    settings: EvaluationSettings,
    progress: Progress,
) -> Comparison:
    """Measure plans, what they are put beside and the original on the same text.

    Args:
        loaded: the original model.
        profile: of this model.
        plans: solved from this profile, by the names they shall have; at least one.
        targets: what the first plan is put beside, as ``entries.rivals`` reads it.
        settings: what is measured on.
        progress: shows how far the work is.

    Returns:
        The comparison.
    """
    first = next(iter(plans.values()))
    beside, left_out = _beside(profile, first, targets)
    everyone = [*(Baseline(name, plan.formats(), is_plan=True) for name, plan in plans.items()), *beside]
    measured = measured_beside(loaded, profile, everyone, settings, progress)
    plan_row, *others = measured.rows
    resampling = BlockBootstrap(measured.domain.document_of_sequence, BootstrapSettings())
    closest = min(
        (row for row in others if row.role == "baseline"),
        key=lambda row: abs(row.stored_bytes - plan_row.stored_bytes),
        default=None,
    )
    return Comparison(
        scantling_version=__version__,
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        profile_sha256=first.profile_sha256,
        text_source=measured.domain.text.source,
        text_sha256=measured.domain.text.sha256,
        num_sequences=len(measured.domain.token_ids),
        sequence_length=measured.domain.token_ids.shape[1],
        num_documents=resampling.num_documents,
        rounding_inputs=settings.inputs,
        bootstrap=resampling.bootstrap,
        layers=tuple(layer.name for layer in profile.record.layers),
        entries=(*measured.rows, measured.original),
        differences=tuple(_difference(plan_row, row, resampling) for row in others),
        changes_from=None if closest is None else closest.name,
        format_changes=()
        if closest is None
        else format_changes(profile, first, dict(zip(profile.layer_index, closest.formats, strict=True))),
        left_out=left_out,
    )


def _beside(profile: Profile, plan: Plan, targets: Sequence[str]) -> tuple[tuple[Baseline, ...], tuple[str, ...]]:
    """Find the rivals; what is looked for by size may not be there, and then that is said."""
    possible, left_out = [], []
    for target in targets:
        try:
            baselines(profile, plan.formats(), [target])
            possible.append(target)
        except ScantlingError as error:
            if target not in SIZED:
                raise
            left_out.append(f"{target}: {error}")
    return baselines(profile, plan.formats(), possible), tuple(left_out)


def _difference(plan: ComparisonEntry, other: ComparisonEntry, resampling: BlockBootstrap) -> PairedDifference:
    """Pair two contenders by sequence: what both share, such as hard text, is not in the error of the difference."""
    pairs = zip(other.measured_kl_nats_by_sequence, plan.measured_kl_nats_by_sequence, strict=True)
    values = [theirs - mine for theirs, mine in pairs]
    enough = resampling.num_documents >= needed_documents(resampling.bootstrap.confidence)
    return PairedDifference(
        other=other.name,
        kl_nats=math.fsum(values) / len(values),
        standard_error_nats=standard_error(values),
        interval=resampling.mean_interval(values) if enough else None,
        predicted_kl_nats=other.predicted_kl_nats - plan.predicted_kl_nats,
        stored_bytes=other.stored_bytes - plan.stored_bytes,
    )


def _entry(profile: Profile, one: Baseline, measured: Mapping[str, Quality]) -> ComparisonEntry:
    predicted, error = profile.predict(one.formats)
    counted, quality = widths(profile, one.formats), measured[one.name]
    return ComparisonEntry(
        name=one.name,
        role="plan" if one.is_plan else "baseline",
        says=one.describe,
        formats=tuple(one.formats[layer.name] for layer in profile.record.layers),
        stored_bytes=profile.stored_bytes(one.formats),
        average_bits=counted.average,
        bits_by_kind=counted.by_kind,
        bits_by_block=counted.by_block,
        predicted_kl_nats=predicted,
        predicted_kl_standard_error_nats=error,
        predicted_perplexity=measured[ORIGINAL].perplexity * math.exp(predicted),
        measured_kl_nats=quality.mean_kl_nats,
        measured_kl_standard_error_nats=quality.kl_standard_error_nats,
        measured_perplexity=quality.perplexity,
        measured_top1_agreement=math.fsum(quality.top1_agreement) / len(quality.top1_agreement),
        measured_kl_nats_by_sequence=quality.kl_nats,
    )


def _original(profile: Profile, measured: Quality) -> ComparisonEntry:
    return ComparisonEntry(
        name=ORIGINAL,
        role="original",
        says="the model as it came, its matrices counted in 16 bits",
        formats=(),
        stored_bytes=2 * sum(layer.num_weights for layer in profile.record.layers) + profile.record.other_bytes,
        average_bits=16.0,
        bits_by_kind={},
        bits_by_block={},
        predicted_kl_nats=0.0,
        predicted_kl_standard_error_nats=0.0,
        predicted_perplexity=measured.perplexity,
        measured_kl_nats=0.0,
        measured_kl_standard_error_nats=0.0,
        measured_perplexity=measured.perplexity,
        measured_top1_agreement=1.0,
        measured_kl_nats_by_sequence=measured.kl_nats,
    )


@dataclass(frozen=True)
class Widths:
    """Σ bits · weights / Σ weights over the layers that the program decides; scales and zero points not counted.

    Attributes:
        average: over all of them.
        by_kind: over those of a kind, in the order of the model.
        by_block: over those of a block, by its index.
    """

    average: float
    by_kind: dict[str, float]
    by_block: dict[int, float]


def widths(profile: Profile, formats: Mapping[str, str]) -> Widths:
    """Average the widths of a set of formats.

    Args:
        profile: says the layers.
        formats: of every layer.

    Returns:
        The averages.
    """
    pairs = [(layer, (parse_format(formats[layer.name]).bits, layer.num_weights)) for layer in decided_layers(profile)]
    kinds: dict[str, list[tuple[float, int]]] = defaultdict(list)
    blocks: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for layer, pair in pairs:
        kinds[layer.kind].append(pair)
        if layer.block is not None:
            blocks[layer.block].append(pair)
    return Widths(
        average_bits([pair for _, pair in pairs]),
        {kind: average_bits(found) for kind, found in kinds.items()},
        {block: average_bits(found) for block, found in sorted(blocks.items())},
    )
