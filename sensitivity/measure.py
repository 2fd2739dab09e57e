"""Rounding and pricing a whole model, block by block, each finished block in the resume cache.

From the last block to the first: round its layers in every format, estimate the loss increase of every change, write
the samples. An interrupted run resumes below the last block that was written; only the forward pass over the texts is
repeated.

Knows nothing about plans or how profiles are stored.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..common.progress import Progress
from ..models.layers import Layer, find_layers
from ..models.loading import LoadedModel
from ..quantization.formats import Format, parse_format
from ..quantization.grid import Rounded
from ..quantization.methods import RoundingMethod
from .calibration.backward_pass import BlockVisit, blocks_backward
from .calibration.capture import Capture, LabelDraws, capture
from .calibration.expert_coverage import ExpertCoverage
from .calibration.resume_cache import ResumeCache, open_resume_cache
from .estimators.base import Estimator, PricingContext, Samples
from .estimators.registry import ESTIMATORS
from .profile_record import RegimeRecord
from .regime import diagnose_regime
from .round_model import FormatsOfLayer, RoundingTask, round_ends, round_group

_SEPARATOR = "|"
_FIRST_TOKENS = "first token squares"
_COVERAGE = "tokens seen"
_NOT_COUNTED = -1


@dataclass(frozen=True)
class RoundingChanges:
    """The changes ΔW that rounding makes to some layers, for estimators; ``task`` has the original matrices."""

    task: RoundingTask
    records: Mapping[Layer, Mapping[Format, Rounded]]

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers that were rounded."""
        return list(self.records)

    def matrix(self, layer: Layer) -> Tensor:
        """Give a layer's original matrix, float32 [out, in]."""
        return self.task.matrix(layer)

    def deltas(self, layer: Layer) -> Iterator[tuple[Format, Tensor]]:
        """Yield each format of a layer with ΔW, rounded minus original, [out, in]."""
        for target, record in self.records[layer].items():
            yield target, record.dequantize() - self.task.matrix(layer)


@dataclass(frozen=True)
class MeasurementRequest:
    """What to measure, on what and how.

    Attributes:
        loaded: the model.
        rounding_ids: the sequences that formats are fitted to, int64 [sequences, tokens].
        pricing_ids: the sequences that their loss increase is measured on, int64 [sequences, tokens].
        offered: the formats of every layer, by its name.
        decided: the names of the layers that are priced.
        estimator: the estimator's name.
        rounding: the rounding method that checkpoints will be written with.
        draws: how labels are sampled.
    """

    loaded: LoadedModel
    rounding_ids: Tensor
    pricing_ids: Tensor
    offered: FormatsOfLayer
    decided: tuple[str, ...]
    estimator: str
    rounding: RoundingMethod
    draws: LabelDraws

    def purpose(self) -> dict[str, str | int | float | bool | None]:
        """List everything that decides the values, so that the resume cache serves nothing else."""
        offered = json.dumps({layer: [target.name for target in targets] for layer, targets in self.offered.items()})
        return {
            "scantling_version": __version__,
            "model_sha256": self.loaded.sha256,
            "rounding_sequences_sha256": _ids_sha256(self.rounding_ids),
            "pricing_sequences_sha256": _ids_sha256(self.pricing_ids),
            "formats_sha256": hashlib.sha256(offered.encode()).hexdigest(),
            "estimator": self.estimator,
            "seed": self.draws.seed,
            "num_label_draws": self.draws.number,
            "first_sequence": self.draws.first_sequence,
            **{f"rounding {key}": value for key, value in self.rounding.describe().items()},
        }


@dataclass(frozen=True)
class MeasuredCosts:
    """The result of a measurement.

    Attributes:
        samples: the loss increase of every priced layer and format.
        rounding_perplexity: the original model's on the rounding sequences.
        regime: the model's regime on the pricing sequences.
        coverage: the tokens that each layer inside the blocks saw.
    """

    samples: Samples
    rounding_perplexity: float
    regime: RegimeRecord
    coverage: dict[str, ExpertCoverage]


def measure(request: MeasurementRequest, folder: Path, progress: Progress) -> MeasuredCosts:
    """Round and price what the program decides; an interrupted run resumes from the cache in ``folder``."""
    structure = find_layers(request.loaded.model)
    task = RoundingTask(request.loaded, structure, request.rounding_ids, request.offered, request.rounding)
    task.require_own_importance()
    decided = [layer for layer in structure.layers if layer.name in request.decided]
    cache = open_resume_cache(folder, request.purpose())
    on = PricingContext(request.loaded, structure, request.pricing_ids, decided, request.draws, progress, cache)
    with ESTIMATORS[request.estimator](on) as estimator:
        rounding = capture(task.loaded.model, structure, task.token_ids, None, progress, "reading rounding text")
        pricing, num_done = _captured_pricing(task, on, estimator)
        samples, coverage = _finished_blocks(on, estimator, num_done)
        for visit in blocks_backward(task.loaded.model, structure, rounding, pricing, progress, num_done):
            priced = estimator.price_block(visit, rounded_block(task, visit))
            squares = torch.tensor(estimator.first_token_squares, dtype=torch.float64)
            counts = _packed_coverage(structure.layers_of(visit.index), visit)
            _keep(cache, visit.index, _packed(priced) | {_FIRST_TOKENS: squares, _COVERAGE: counts}, pricing)
            coverage |= _unpacked_coverage(structure.layers_of(visit.index), counts)
            samples |= priced
        samples |= _priced_ends(task, on, estimator, pricing)
        first_tokens = estimator.first_token_squares
    share = first_tokens[0] / first_tokens[1] if first_tokens and first_tokens[1] else None
    regime = diagnose_regime(request.loaded, request.pricing_ids, share)
    return MeasuredCosts(samples, math.exp(rounding.negative_log_likelihood_nats), regime, coverage)


def _finished_blocks(
    on: PricingContext, estimator: Estimator, num_done: int
) -> tuple[Samples, dict[str, ExpertCoverage]]:
    """Read the samples and the coverage of finished blocks, and give the estimator its sums over first tokens back."""
    samples: Samples = {}
    coverage: dict[str, ExpertCoverage] = {}
    num_blocks = on.structure.num_blocks
    for index in range(num_blocks - num_done, num_blocks):
        piece = on.cache.load(_block(index))
        so_far = piece.pop(_FIRST_TOKENS).tolist()
        if index == num_blocks - num_done:  # the one that was finished last
            estimator.first_token_squares[:] = so_far
        coverage |= _unpacked_coverage(on.structure.layers_of(index), piece.pop(_COVERAGE))
        samples |= _unpacked(piece)
    return samples, coverage


def _ids_sha256(token_ids: Tensor) -> str:
    return hashlib.sha256(str(tuple(token_ids.shape)).encode() + token_ids.numpy().tobytes()).hexdigest()


def rounded_block(task: RoundingTask, visit: BlockVisit) -> RoundingChanges:
    """Round the layers of one block in every format."""
    records: dict[Layer, Mapping[Format, Rounded]] = {}
    for group in visit.groups:
        rounded = round_group(task, group)
        records |= {layer: rounded[layer.name] for layer in group.layers}
    return RoundingChanges(task, records)


def _captured_pricing(task: RoundingTask, on: PricingContext, estimator: Estimator) -> tuple[Capture | None, int]:
    """Run the model over the pricing sequences if gradients are needed; also count the finished blocks."""
    # Blocks are finished from the last one backward. The gradients at the input of the block finished last are read.
    model, num_blocks = task.loaded.model, task.structure.num_blocks
    num_done = 0
    while num_done < num_blocks and on.cache.has(_block(num_blocks - 1 - num_done)):
        num_done += 1
    if not estimator.needs_gradients:
        return None, num_done
    label = "reading pricing text"
    if not num_done:
        return capture(model, task.structure, on.token_ids, on.draws, on.progress, label), 0
    captured = capture(model, task.structure, on.token_ids, None, on.progress, label)
    stored = on.cache.load(_gradients(num_blocks - num_done))["gradients"]
    captured.gradients.extend([[draw.clone() for draw in of_sequence] for of_sequence in stored])
    return captured, num_done


def _keep(cache: ResumeCache, index: int, piece: Mapping[str, Tensor], pricing: Capture | None) -> None:
    """Write a finished block: first the gradients at its input, then its samples, which mark it as finished."""
    if pricing is not None:
        cache.save(_gradients(index), {"gradients": torch.stack([torch.stack(drawn) for drawn in pricing.gradients])})
    cache.save(_block(index), piece)
    cache.remove(_gradients(index + 1))


def _priced_ends(task: RoundingTask, on: PricingContext, estimator: Estimator, pricing: Capture | None) -> Samples:
    """Round and price the embedding and the head where the program decides them."""
    decided = [layer for layer in on.layers if layer.block is None]
    if not decided:
        return {}

    def compute() -> dict[str, Tensor]:
        rounded = round_ends(task, on.progress)
        changes = RoundingChanges(task, {layer: rounded[layer.name] for layer in decided})
        return _packed({layer.name: estimator.price_end(layer, changes, pricing) for layer in decided})

    return _unpacked(on.cache.remember("ends", compute))


def _packed_coverage(layers: Sequence[Layer], visit: BlockVisit) -> Tensor:
    """Put the rounding and pricing tokens that each layer saw into int64 [layers, 2]."""
    rounding = {layer: group.num_tokens or 0 for group in visit.groups for layer in group.layers}
    pricing = visit.num_pricing_tokens
    return torch.tensor([[rounding[layer], pricing.get(layer, _NOT_COUNTED)] for layer in layers])


def _unpacked_coverage(layers: Sequence[Layer], counts: Tensor) -> dict[str, ExpertCoverage]:
    return {
        layer.name: ExpertCoverage(rounding, None if pricing == _NOT_COUNTED else pricing)
        for layer, (rounding, pricing) in zip(layers, counts.tolist(), strict=True)
    }


def _block(index: int) -> str:
    return f"block-{index:05d}"


def _gradients(index: int) -> str:
    return f"gradients-{index:05d}"


def _packed(samples: Samples) -> dict[str, Tensor]:
    return {
        f"{layer}{_SEPARATOR}{target.name}": values
        for layer, of_layer in samples.items()
        for target, values in of_layer.items()
    }


def _unpacked(tensors: Mapping[str, Tensor]) -> Samples:
    samples: Samples = {}
    for key, values in tensors.items():
        layer, _, target = key.rpartition(_SEPARATOR)
        samples.setdefault(layer, {})[parse_format(target)] = values
    return samples
