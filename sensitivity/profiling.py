"""Building a profile: which formats every layer is offered, what is measured, and the record of it.

Knows nothing about plans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..common.errors import InputError
from ..common.progress import Progress
from ..models.kv_cache import config_numbers
from ..models.layers import Layer, ModelStructure, find_layers
from ..models.loading import LoadedModel
from ..quantization.formats import FLOAT_FORMATS, Format, parse_format
from ..quantization.gguf_types import GgufFormat, legal_types
from ..quantization.methods import RoundingMethod, validate_families
from .calibration.capture import LabelDraws
from .calibration.expert_coverage import ExpertCoverage, has_siblings
from .calibration.resume_cache import resume_cache_folder
from .calibration.text import validate_length
from .domains import Domain, calibration_sequences, domain_records
from .estimators.base import Samples
from .estimators.registry import ESTIMATORS
from .measure import MeasuredCosts, MeasurementRequest, measure
from .profile import Profile
from .profile_record import LayerRecord, ProfileRecord
from .round_model import scale_inputs_for, validate_groups

DEFAULT_INTEGERS = ("int2-g64", "int3-g64", "int4-g64", "int5-g64", "int6-g64", "int8-g64")


@dataclass(frozen=True)
class ProfileSettings:
    """What to measure and how.

    Attributes:
        formats: names of the formats to offer; None for integers of 2 to 8 bits in groups of 64, and 16 bits as in the
            checkpoint.
        include: layers outside the blocks that the program may decide too: ``embedding``, ``head``.
        num_rounding_sequences: calibration sequences that formats are fitted to.
        num_pricing_sequences: other calibration sequences, on which the loss increase is measured. Rounding fits what
            it sees: priced on the rounding sequences a plan looks a quarter cheaper than it is (benchmarks/LOG.md).
        sequence_length: tokens in each.
        estimator: the estimator's name, see the module estimators.registry.
        rounding: the rounding method that checkpoints will be written with.
        seed: the seed of sampled labels and probes.
        num_label_draws: labels sampled from the model on every pricing sequence.
    """

    formats: tuple[str, ...] | None = None
    include: tuple[str, ...] = ()
    num_rounding_sequences: int = 16
    num_pricing_sequences: int = 24
    sequence_length: int = 512
    estimator: str = "fisher"
    rounding: RoundingMethod = field(default_factory=RoundingMethod)
    seed: int = 0
    num_label_draws: int = 2


def offered_formats(
    structure: ModelStructure, settings: ProfileSettings, sixteen_bit_format: str
) -> dict[str, list[Format]]:
    """Decide which formats each layer is offered.

    Args:
        structure: the model's layers.
        settings: formats and included layers.
        sixteen_bit_format: the checkpoint's own.

    Returns:
        All formats for decoder layers and included ones, except GGUF types that do not fit a layer's width; 16 bits
        alone for other layers, and for those that no type fits.

    Raises:
        InputError: fewer than two formats, an unknown one, one that the rounding method cannot make, an illegal group
            size, or an included layer that the model lacks.
    """
    sixteen = FLOAT_FORMATS[sixteen_bit_format]
    names = (*DEFAULT_INTEGERS, sixteen.name) if settings.formats is None else settings.formats
    parsed = list(dict.fromkeys(parse_format(name) for name in names))
    if not parsed:
        raise InputError("no format was given. Offer at least two.")
    if len(parsed) < 2:
        raise InputError(f"the one format {names[0]} leaves nothing to decide. Offer at least two.")
    outside = {layer.kind for layer in structure.layers if layer.block is None}
    unknown = set(settings.include) - outside
    if unknown:
        raise InputError(
            f"this model has no layer {min(unknown)!r} to include. It has: {', '.join(sorted(outside))}"
            + (" (the head is tied to the embedding)." if "head" in unknown and "embedding" in outside else ".")
        )
    validate_families(settings.rounding, parsed)
    offered: dict[str, list[Format]] = {
        layer.name: legal_formats(layer, parsed) or [sixteen]
        if layer.block is not None or layer.kind in settings.include
        else [sixteen]
        for layer in structure.layers
    }
    useless = [target.name for target in parsed if all(target not in targets for targets in offered.values())]
    if useless:
        raise InputError(
            f"{useless[0]} fits no layer of this model. Types that fit {structure.layers[0].name}: "
            f"{', '.join(legal_types(structure.layers[0].in_features)) or 'none'}. Leave {useless[0]} out."
        )
    validate_groups(structure.layers, offered)
    return offered


def legal_formats(layer: Layer, formats: Sequence[Format]) -> list[Format]:
    """Leave out GGUF types that do not fit a layer's width; other illegal formats are refused later."""
    return [target for target in formats if not isinstance(target, GgufFormat) or target.fits(layer.in_features)]


def bytes_per_other_parameter(formats: Sequence[Format]) -> int:
    """Count the bytes of a parameter outside the layers: 4 with GGUF types, which keep norms in 32 bits, else 2."""
    return 4 if any(isinstance(target, GgufFormat) for target in formats) else 2


def build_profile(
    loaded: LoadedModel, domains: Sequence[Domain], settings: ProfileSettings, output: Path, progress: Progress
) -> Profile:
    """Measure a profile.

    An interrupted run resumes from the cache beside the output. Once the profile is written, remove the cache with
    ``discard_resume_cache``.

    Args:
        loaded: the model.
        domains: at least one; the calibration part of their texts is used.
        settings: what to measure and how.
        output: where the profile will be written.
        progress: shows how far the work is.

    Returns:
        The profile.

    Raises:
        InputError: the estimator is unknown, or the settings do not fit each other, the model or the text.
    """
    if settings.estimator not in ESTIMATORS:
        raise InputError(f"{settings.estimator!r} is not an estimator. Known: {', '.join(ESTIMATORS)}.")
    structure = find_layers(loaded.model)
    offered = offered_formats(structure, settings, loaded.sixteen_bit_format)
    if min(settings.num_rounding_sequences, settings.num_pricing_sequences, settings.num_label_draws) < 1:
        raise InputError(
            "rounding and pricing need at least one sequence each, and pricing at least one draw of labels."
        )
    validate_length(loaded.model.config, settings.sequence_length)
    sequences = calibration_sequences(
        loaded.tokenizer,
        domains,
        settings.num_rounding_sequences,
        settings.num_pricing_sequences,
        settings.sequence_length,
    )
    every = list(dict.fromkeys(target for wanted in offered.values() for target in wanted))
    scale_inputs_for(settings.rounding, loaded, structure, sequences.rounding, every, progress)
    request = MeasurementRequest(
        loaded=loaded,
        rounding_ids=sequences.rounding,
        pricing_ids=sequences.pricing,
        offered=offered,
        decided=tuple(name for name, targets in offered.items() if len(targets) > 1),
        estimator=settings.estimator,
        rounding=settings.rounding,
        draws=LabelDraws(settings.seed, settings.num_label_draws),
    )
    measured = measure(request, resume_cache_folder(output), progress)
    record = _record(loaded, domains, settings, request, measured)
    record = record.model_copy(update={"domain_of_sequence": sequences.domain_of_sequence if len(domains) > 1 else ()})
    return Profile(record, as_array(record, measured.samples), sequences.rounding.numpy(), sequences.pricing.numpy())


def _record(
    loaded: LoadedModel,
    domains: Sequence[Domain],
    settings: ProfileSettings,
    request: MeasurementRequest,
    measured: MeasuredCosts,
) -> ProfileRecord:
    """Record what was measured, on what and how."""
    structure = find_layers(loaded.model)
    every = list(dict.fromkeys(target for wanted in request.offered.values() for target in wanted))
    names = [target.name for target in every]
    return ProfileRecord(
        scantling_version=__version__,
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        text_source=domains[0].text.source,
        text_sha256=domains[0].text.sha256,
        domains=domain_records(domains) if len(domains) > 1 else (),
        sequence_length=settings.sequence_length,
        seed=settings.seed,
        estimator=settings.estimator,
        num_label_draws=settings.num_label_draws,
        rounding=settings.rounding.describe(),
        calibration_perplexity=measured.rounding_perplexity,
        regime=measured.regime,
        formats=tuple(names),
        layers=with_coverage(
            [layer_record(layer, request.offered[layer.name], names) for layer in structure.layers],
            measured.coverage,
            (request.rounding_ids.numel(), request.pricing_ids.numel()),
        ),
        other_bytes=bytes_per_other_parameter(every) * structure.num_other_parameters,
        config=config_numbers(loaded.model.config),
    )


def layer_record(layer: Layer, offered: Sequence[Format], names: Sequence[str]) -> LayerRecord:
    """Describe a layer with the formats that it is offered."""
    return LayerRecord(
        name=layer.name,
        kind=layer.kind,
        block=layer.block,
        out_features=layer.out_features,
        in_features=layer.in_features,
        formats=tuple(names.index(target.name) for target in offered),
        stored_bytes=tuple(target.stored_bytes(layer.out_features, layer.in_features) for target in offered),
    )


def with_coverage(
    layers: Sequence[LayerRecord], coverage: Mapping[str, ExpertCoverage], num_tokens: tuple[int, int]
) -> tuple[LayerRecord, ...]:
    """Record the coverage of experts; ``num_tokens`` are those of all rounding and of all pricing sequences."""
    counted = []
    for layer in layers:
        seen = coverage.get(layer.name)
        update: dict[str, int | float | None] = {}
        if seen is not None and has_siblings(layer):
            update = {
                "read_share": seen.share(*num_tokens),
                "num_rounding_tokens": seen.num_rounding_tokens,
                "num_pricing_tokens": seen.num_pricing_tokens,
            }
        counted.append(layer.model_copy(update=update))
    return tuple(counted)


def as_array(record: ProfileRecord, samples: Samples) -> NDArray[np.float64]:
    """Arrange samples as in a profile: float64 [layers, formats, samples], NaN where a format is not offered."""
    num_samples = len(next(iter(next(iter(samples.values())).values())))
    array = np.full((len(record.layers), len(record.formats), num_samples), np.nan)
    for index, layer in enumerate(record.layers):
        if not layer.is_decided:
            array[index, layer.formats[0]] = 0.0
        for target, values in samples.get(layer.name, {}).items():
            array[index, record.formats.index(target.name)] = values.numpy()
    return array
