"""A plan beside uniform quantization and the original, predicted and measured.

Knows nothing about terminals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..backends.formats import parse_format
from ..backends.model import LoadedModel
from ..backends.progress import Progress
from ..sensitivity.final_rounding import ORIGINAL_INPUTS, round_as_shipped
from ..sensitivity.load_cases import DEFAULT_NAME
from ..sensitivity.planning import decided_layers, uniform_formats
from ..sensitivity.profile import Profile
from ..sensitivity.text import Text
from ..solver.plan import Plan, average_bits
from .comparison import Comparison, Contender
from .evaluation_text import evaluation_case, profiled_cases
from .quality import Quality, measure_candidates


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
    named = profiled_cases(profile)[0] if settings.text_source is None else (DEFAULT_NAME, settings.text_source)
    case = evaluation_case(loaded, profile, named, settings.num_sequences, settings.sequence_length)
    return case.text, case.token_ids


def compare(
    loaded: LoadedModel,
    profile: Profile,
    plans: Mapping[str, Plan],
    uniforms: Sequence[str],
    settings: EvaluationSettings,
    progress: Progress,
) -> Comparison:
    """Measure plans, uniform quantization and the original on the same text.

    Args:
        loaded: the original model.
        profile: of this model.
        plans: solved from this profile, by the names they shall have.
        uniforms: formats' names, or widths.
        settings: what is measured on.
        progress: shows how far the work is.

    Returns:
        The comparison.
    """
    contenders = {name: plan.formats() for name, plan in plans.items()}
    for target in uniforms:
        formats = uniform_formats(profile, target)
        contenders[f"uniform {formats[decided_layers(profile)[0].name]}"] = formats
    text, token_ids = evaluation_sequences(loaded, profile, settings)
    candidates = round_as_shipped(loaded, profile, contenders, settings.inputs, progress)
    measured = measure_candidates(loaded.model, candidates, token_ids, progress)
    original = measured["original"]
    rows = [_contender(profile, name, formats, measured[name], original) for name, formats in contenders.items()]
    return Comparison(
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        text_source=text.source,
        text_sha256=text.sha256,
        num_sequences=len(token_ids),
        sequence_length=token_ids.shape[1],
        rounding_inputs=settings.inputs,
        contenders=(*rows, _original(profile, original)),
    )


def _contender(profile: Profile, name: str, formats: dict[str, str], measured: Quality, original: Quality) -> Contender:
    predicted, error = profile.predict(formats)
    return Contender(
        name=name,
        stored_bytes=profile.stored_bytes(formats),
        average_bits=average_bits([
            (parse_format(formats[layer.name]).bits, layer.num_weights) for layer in decided_layers(profile)
        ]),
        predicted_kl_nats=predicted,
        predicted_kl_standard_error_nats=error,
        predicted_perplexity=original.perplexity * math.exp(predicted),
        measured_kl_nats=measured.mean_kl_nats,
        measured_kl_standard_error_nats=measured.kl_standard_error_nats,
        measured_perplexity=measured.perplexity,
        measured_kl_nats_by_sequence=measured.kl_nats,
    )


def _original(profile: Profile, measured: Quality) -> Contender:
    return Contender(
        name="original",
        stored_bytes=2 * sum(layer.num_weights for layer in profile.record.layers) + profile.record.other_bytes,
        average_bits=16.0,
        predicted_kl_nats=0.0,
        predicted_kl_standard_error_nats=0.0,
        predicted_perplexity=measured.perplexity,
        measured_kl_nats=0.0,
        measured_kl_standard_error_nats=0.0,
        measured_perplexity=measured.perplexity,
        measured_kl_nats_by_sequence=measured.kl_nats,
    )
