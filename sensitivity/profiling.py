"""Building a profile: round every layer in every format and price the difference, block by block.

Knows nothing about plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import __version__
from ..backends.formats import FLOAT_FORMATS, Format, parse_format
from ..backends.grid import Rounded
from ..backends.layers import Anatomy, Layer, take_apart
from ..backends.model import LoadedModel
from ..backends.progress import Progress
from ..backends.rounding import Gptq, RoundingMethod
from ..solver.errors import ScantlingError
from .capture import capture
from .estimators import ESTIMATORS, Measurement, Pricer
from .profile import LayerRecord, Profile, ProfileRecord
from .rounding_pass import RoundingTask, refuse_illegal_groups, round_ends, round_group, scale_inputs_for
from .text import Text, refuse_too_long, token_sequences
from .walk import walk_blocks

DEFAULT_INTEGERS = ("int2-g64", "int3-g64", "int4-g64", "int5-g64", "int6-g64", "int8-g64")


@dataclass(frozen=True)
class ProfileSettings:
    """What is measured and how.

    Attributes:
        formats: names of the formats to offer; None for integers of 2 to 8 bits in groups of 64, and 16 bits as in the
            checkpoint.
        include: layers outside the blocks that the program may also decide: ``embedding``, ``head``.
        num_rounding_sequences: of calibration text that formats are fitted to.
        num_pricing_sequences: of other calibration text, on which the loss increase is measured. Rounding fits what it
            sees: priced on its own sequences a plan looks a quarter cheaper than it is (benchmarks/LOG.md).
        sequence_length: tokens in each.
        estimator: see the module estimators.
        rounding: the method that will ship.
        seed: of sampled labels and probes.
    """

    formats: tuple[str, ...] | None = None
    include: tuple[str, ...] = ()
    num_rounding_sequences: int = 16
    num_pricing_sequences: int = 16
    sequence_length: int = 512
    estimator: str = "fisher"
    rounding: RoundingMethod = field(default_factory=Gptq)
    seed: int = 0


def offered_formats(anatomy: Anatomy, settings: ProfileSettings, sixteen_bit_format: str) -> dict[str, list[Format]]:
    """Decide which formats each layer is offered.

    Args:
        anatomy: of the model.
        settings: formats and included layers.
        sixteen_bit_format: the checkpoint's own.

    Returns:
        All formats for decoder layers and included ones, 16 bits alone for the others.

    Raises:
        ScantlingError: an unknown format, fewer than two, an included layer that the model does not have, or an
            illegal group size.
    """
    sixteen = FLOAT_FORMATS[sixteen_bit_format]
    names = (*DEFAULT_INTEGERS, sixteen.name) if settings.formats is None else settings.formats
    parsed = list(dict.fromkeys(parse_format(name) for name in names))
    if len(parsed) < 2:
        raise ScantlingError(f"the one format {names[0]} leaves nothing to decide. Offer at least two.")
    outside = {layer.kind for layer in anatomy.layers if layer.block is None}
    unknown = set(settings.include) - outside
    if unknown:
        raise ScantlingError(
            f"this model has no layer {min(unknown)!r} to include. It has: {', '.join(sorted(outside))}"
            + (" (the head is tied to the embedding)." if "head" in unknown and "embedding" in outside else ".")
        )
    offered: dict[str, list[Format]] = {
        layer.name: parsed if layer.block is not None or layer.kind in settings.include else [sixteen]
        for layer in anatomy.layers
    }
    refuse_illegal_groups(anatomy.layers, offered)
    return offered


def calibration_sequences(loaded: LoadedModel, text: Text, settings: ProfileSettings) -> tuple[Tensor, Tensor]:
    """Cut the calibration sequences and deal them out evenly.

    Args:
        loaded: the model.
        text: its first 60 % of documents are used.
        settings: how many sequences of what length.

    Returns:
        The rounding sequences and the pricing sequences, int64 [sequences, tokens] each.
    """
    num_pricing = settings.num_pricing_sequences
    total = settings.num_rounding_sequences + num_pricing
    token_ids = token_sequences(loaded.tokenizer, text.calibration(), total, settings.sequence_length)
    priced = [(2 * index + 1) * total // (2 * num_pricing) for index in range(num_pricing)]
    return token_ids[[index for index in range(total) if index not in priced]], token_ids[priced]


def build_profile(
    loaded: LoadedModel, text: Text, settings: ProfileSettings, workspace: Path, progress: Progress
) -> Profile:
    """Measure a profile.

    Args:
        loaded: the model.
        text: its first 60 % of documents are used.
        settings: what is measured and how.
        workspace: a folder for large intermediate files.
        progress: shows how far the work is.

    Returns:
        The profile.

    Raises:
        ScantlingError: an estimator of that name does not exist, or the model, text or formats do not allow it.
    """
    if settings.estimator not in ESTIMATORS:
        raise ScantlingError(f"{settings.estimator!r} is not an estimator. Known: {', '.join(ESTIMATORS)}.")
    anatomy = take_apart(loaded.model)
    offered = offered_formats(anatomy, settings, loaded.sixteen_bit_format)
    if min(settings.num_rounding_sequences, settings.num_pricing_sequences) < 1:
        raise ScantlingError("rounding and pricing need at least one sequence each.")
    refuse_too_long(loaded.model.config, settings.sequence_length)
    rounding_ids, pricing_ids = calibration_sequences(loaded, text, settings)
    every = list(dict.fromkeys(target for wanted in offered.values() for target in wanted))
    scale_inputs_for(settings.rounding, loaded, anatomy, (rounding_ids, every), progress)
    task = RoundingTask(loaded, anatomy, rounding_ids, offered, settings.rounding)
    layers = [layer for layer in anatomy.layers if len(offered[layer.name]) > 1]
    on = Measurement(loaded, anatomy, pricing_ids, layers, settings.seed, progress, workspace)
    with ESTIMATORS[settings.estimator](on) as pricer:
        samples, perplexity = _price(task, on, pricer)
    names = [target.name for target in every]
    record = ProfileRecord(
        scantling_version=__version__,
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        text_source=text.source,
        text_sha256=text.sha256,
        sequence_length=settings.sequence_length,
        seed=settings.seed,
        estimator=settings.estimator,
        rounding=settings.rounding.describe(),
        calibration_perplexity=perplexity,
        formats=tuple(names),
        layers=tuple(_layer_record(layer, offered[layer.name], names) for layer in anatomy.layers),
        other_bytes=2 * anatomy.num_other_parameters,
    )
    return Profile(record, _as_array(record, samples), rounding_ids.numpy(), pricing_ids.numpy())


def _price(task: RoundingTask, on: Measurement, pricer: Pricer) -> tuple[dict[str, dict[Format, Tensor]], float]:
    """Round and price what the program decides; also give the original's perplexity on the rounding sequences."""
    model = task.loaded.model
    rounding = capture(model, task.anatomy, task.token_ids, on.seed, on.progress, with_gradients=False)
    pricing = None
    if pricer.needs_gradients:
        pricing = capture(model, task.anatomy, on.token_ids, on.seed, on.progress, with_gradients=True)
    samples: dict[str, dict[Format, Tensor]] = {}
    for groups in walk_blocks(model, task.anatomy, rounding, pricing, on.progress):
        for group in groups:
            rounded = round_group(task, group)
            for layer in group.layers:
                samples[layer.name] = {
                    target: pricer.block_samples(layer, group, record.dequantize() - task.matrix(layer))
                    for target, record in rounded[layer.name].items()
                }
    for layer, records in _decided_ends(task, on):
        deltas = [record.dequantize() - task.matrix(layer) for record in records.values()]
        samples[layer.name] = dict(zip(records, pricer.end_samples(layer, deltas, pricing), strict=True))
    return samples, float(np.exp(rounding.negative_log_likelihood_nats))


def _decided_ends(task: RoundingTask, on: Measurement) -> list[tuple[Layer, dict[Format, Rounded]]]:
    """Round the embedding and the head where the program decides them."""
    decided = [layer for layer in on.layers if layer.block is None]
    rounded = round_ends(task, on.progress) if decided else {}
    return [(layer, rounded[layer.name]) for layer in decided]


def _layer_record(layer: Layer, offered: Sequence[Format], names: Sequence[str]) -> LayerRecord:
    return LayerRecord(
        name=layer.name,
        kind=layer.kind,
        block=layer.block,
        out_features=layer.out_features,
        in_features=layer.in_features,
        formats=tuple(names.index(target.name) for target in offered),
        stored_bytes=tuple(target.stored_bytes(layer.out_features, layer.in_features) for target in offered),
    )


def _as_array(record: ProfileRecord, samples: dict[str, dict[Format, Tensor]]) -> np.ndarray:
    num_samples = len(next(iter(next(iter(samples.values())).values())))
    array = np.full((len(record.layers), len(record.formats), num_samples), np.nan)
    for index, layer in enumerate(record.layers):
        if len(layer.formats) == 1:
            array[index, layer.formats[0]] = 0.0
        for target, values in samples.get(layer.name, {}).items():
            array[index, record.formats.index(target.name)] = values.numpy()
    return array
