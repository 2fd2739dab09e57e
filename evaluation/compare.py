"""A plan beside uniform quantization and the original: predicted, and measured on the same sequences.

Knows nothing about terminals.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import torch

from .. import __version__
from ..common.errors import InputError, OutOfRangeError
from ..common.progress import Progress, silent
from ..models.loading import LoadedModel
from ..planning.baselines import SIZED, Baseline, baselines
from ..planning.original_model import load_original
from ..planning.plan import Plan, average_bits
from ..planning.plan_profile import profile_for
from ..quantization.formats import parse_format
from ..sensitivity.calibration.text import Text
from ..sensitivity.domains import DEFAULT_NAME
from ..sensitivity.profile import Profile, decided_layers
from ..sensitivity.sequential_rounding import ORIGINAL_INPUTS, round_as_shipped, validate_inputs
from .bootstrap import BlockBootstrap, BootstrapSettings, needed_documents
from .comparison import ORIGINAL, Comparison, ComparisonEntry, PairedDifference, format_changes
from .quality import Quality, measure_candidates, standard_error
from .text import EvaluationDomain, evaluation_domain, profiled_domains


@dataclass(frozen=True)
class EvaluationSettings:
    """What quality is measured on.

    Attributes:
        text_source: None for the part of the calibration text that was held out for evaluation.
        num_sequences: evaluation sequences.
        sequence_length: tokens in each.
        inputs: what layers are rounded against: ``original`` inputs, which predictions assume, or, as
            ``apply`` does, ``corrected`` or ``quantized`` ones.
    """

    text_source: str | None = None
    num_sequences: int = 8
    sequence_length: int = 512
    inputs: str = ORIGINAL_INPUTS


def evaluate(
    plan: Plan,
    *,
    against: Sequence[str] = (),
    text: str | None = None,
    sequences: int = 8,
    length: int = 512,
    inputs: str = ORIGINAL_INPUTS,
    other_plans: Mapping[str, Plan] | None = None,
    model: str | PathLike[str] | LoadedModel | None = None,
    profile: str | PathLike[str] | Profile | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Measure a plan beside uniform quantization and the original, on text that calibration has not seen.

    Args:
        plan: the plan; called ``plan`` in the comparison.
        against: baselines: formats or widths for all layers, or ``same-bytes``, ``same-bits``, ``nearest``, which
            come closest to the plan. Without any, and without other plans, these three.
        text: evaluation text: a file, a folder, or a name such as ``wikipedia``; None for the held-out part of the
            calibration text.
        sequences: evaluation sequences.
        length: tokens in each.
        inputs: what layers are rounded against: ``original`` inputs, which predictions assume, or ``quantized`` or
            ``corrected`` ones.
        other_plans: further plans of the same profile, by name.
        model: the original model, loaded or by name or path; None for the one that the plan names.
        profile: that the plan was solved from; None for the file that the plan names. A file must have the hash that
            the plan records.
        trust_remote_code: run code that comes with the model.
        progress: shows how far the work is; None for silence.

    Returns:
        The comparison: entries with predicted and measured loss, paired differences, format changes.

    Raises:
        InputError: plan, profile, model and other plans do not belong together, or a baseline is not one that the
            profile can give.
        ScantlingError: model or text cannot be read, or the text is too short.
    """
    validate_inputs(inputs)
    solved_from = profile_for(plan, profile)
    plans = {"plan": plan, **_of_same_profile(plan, other_plans or {})}
    targets = (against,) if isinstance(against, str) else tuple(against)
    baselines(solved_from, plan.formats(), [target for target in targets if target not in SIZED])  # before loading
    shown = progress or silent
    loaded = load_original(model, plan.model_source, shown, trust_remote_code=trust_remote_code)
    settings = EvaluationSettings(text, sequences, length, inputs)
    return compare(loaded, solved_from, plans, targets or (() if other_plans else SIZED), settings, shown)


def _of_same_profile(plan: Plan, others: Mapping[str, Plan]) -> Mapping[str, Plan]:
    """Check that other plans can stand beside a plan."""
    if "plan" in others:
        raise InputError("another plan is called 'plan', as the first one is. Give it another name.")
    for name, other in others.items():
        if other.profile_sha256 != plan.profile_sha256:
            raise InputError(f"{name} was solved from another profile than the plan. Solve both from one profile.")
    return others


def evaluation_sequences(
    loaded: LoadedModel, profile: Profile, settings: EvaluationSettings
) -> tuple[Text, torch.Tensor]:
    """Cut the evaluation text into int64 [sequences, tokens]; gives the text too."""
    domain = _domain(loaded, profile, settings)
    return domain.text, domain.token_ids


def _domain(loaded: LoadedModel, profile: Profile, settings: EvaluationSettings) -> EvaluationDomain:
    named = profiled_domains(profile)[0] if settings.text_source is None else (DEFAULT_NAME, settings.text_source)
    return evaluation_domain(loaded, profile, named, settings.num_sequences, settings.sequence_length)


@dataclass(frozen=True)
class MeasuredModels:
    """Assignments of formats, measured on one text.

    Attributes:
        domain: the text and its sequences.
        rows: one an assignment.
        original: the original's row.
    """

    domain: EvaluationDomain
    rows: tuple[ComparisonEntry, ...]
    original: ComparisonEntry


def measured_beside(
    loaded: LoadedModel,
    profile: Profile,
    assignments: Sequence[Baseline],
    settings: EvaluationSettings,
    progress: Progress,
) -> MeasuredModels:
    """Measure assignments of formats, each under a name of its own, and the original on the same text."""
    domain = _domain(loaded, profile, settings)
    formats = {one.name: one.formats for one in assignments}
    candidates = round_as_shipped(loaded, profile, formats, settings.inputs, progress)
    measured = measure_candidates(loaded.model, candidates, domain.token_ids, progress)
    rows = tuple(_entry(profile, one, measured) for one in assignments)
    return MeasuredModels(domain, rows, _original(profile, measured[ORIGINAL]))


def compare(
    loaded: LoadedModel,
    profile: Profile,
    plans: Mapping[str, Plan],
    targets: Sequence[str],
    settings: EvaluationSettings,
    progress: Progress,
) -> Comparison:
    """Measure plans, baselines and the original on the same text.

    Args:
        loaded: the original model.
        profile: of this model.
        plans: solved from this profile, by name; at least one.
        targets: baselines of the first plan, as ``planning.baselines`` reads them.
        settings: what is measured on.
        progress: shows how far the work is.

    Returns:
        The comparison.
    """
    first = next(iter(plans.values()))
    beside, left_out = _beside(profile, first, targets)
    assignments = [*(Baseline(name, plan.formats(), is_plan=True) for name, plan in plans.items()), *beside]
    measured = measured_beside(loaded, profile, assignments, settings, progress)
    plan_row, *others = measured.rows
    resampling = BlockBootstrap(measured.domain.document_of_sequence, BootstrapSettings())
    closest = _closest_baseline(plan_row, others)
    changes = () if closest is None else format_changes(profile, first, _formats_of(profile, closest))
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
        format_changes=changes,
        left_out=left_out,
    )


def _closest_baseline(plan_row: ComparisonEntry, others: Sequence[ComparisonEntry]) -> ComparisonEntry | None:
    """Find the baseline closest to the plan in bytes."""
    return min(
        (row for row in others if row.role == "baseline"),
        key=lambda row: abs(row.stored_bytes - plan_row.stored_bytes),
        default=None,
    )


def _formats_of(profile: Profile, row: ComparisonEntry) -> dict[str, str]:
    return dict(zip(profile.layer_index, row.formats, strict=True))


def _beside(profile: Profile, plan: Plan, targets: Sequence[str]) -> tuple[tuple[Baseline, ...], tuple[str, ...]]:
    """Find the baselines, and say why one that is looked up by size does not exist."""
    possible, left_out = [], []
    for target in targets:
        try:
            baselines(profile, plan.formats(), [target])
            possible.append(target)
        except OutOfRangeError as error:
            if target not in SIZED:
                raise
            left_out.append(f"{target}: {error}")
    return baselines(profile, plan.formats(), possible), tuple(left_out)


def _difference(plan: ComparisonEntry, other: ComparisonEntry, resampling: BlockBootstrap) -> PairedDifference:
    """Pair two entries by sequence, so that what both share, such as hard text, cancels in the error."""
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
    """Σ bits · weights / Σ weights over the decided layers, without scales and zero points.

    Attributes:
        average: over all of them.
        by_kind: over those of one kind, in the order of the model.
        by_block: over those of one block, by its index.
    """

    average: float
    by_kind: dict[str, float]
    by_block: dict[int, float]


def widths(profile: Profile, formats: Mapping[str, str]) -> Widths:
    """Average the widths of an assignment."""
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
