"""Rounding and pricing a whole model, block by block, each finished block kept.

From the last block to the first: round its layers in every format, price every change, write the samples. After a kill
the walk goes on below the last block that was written; what is repeated is the forward pass over the texts.

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
from .estimators.base import Estimator, Measurement, Samples
from .estimators.registry import ESTIMATORS
from .profile_record import RegimeRecord
from .regime import diagnose_regime
from .round_model import FormatsOfLayer, RoundingTask, round_ends, round_group

_SEPARATOR = "|"
_FIRST_TOKENS = "first token squares"
_COVERAGE = "tokens seen"
_NOT_COUNTED = -1


@dataclass(frozen=True)
class RoundedLayers:
    """Layers in their formats, as estimators want them.

    Attributes:
        task: has the original matrices.
        records: of every layer.
    """

    task: RoundingTask
    records: Mapping[Layer, Mapping[Format, Rounded]]

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers that were rounded."""
        return list(self.records)

    def matrix(self, layer: Layer) -> Tensor:
        """Give a layer's original matrix.

        Args:
            layer: the layer.

        Returns:
            float32 [out, in].
        """
        return self.task.matrix(layer)

    def deltas(self, layer: Layer) -> Iterator[tuple[Format, Tensor]]:
        """Go through a layer's formats."""
        for target, record in self.records[layer].items():
            yield target, record.dequantize() - self.task.matrix(layer)


@dataclass(frozen=True)
class MeasurementRequest:
    """What shall be measured.

    Attributes:
        loaded: the model.
        rounding_ids: what formats are fitted to, int64 [sequences, tokens].
        pricing_ids: what their loss increase is measured on, likewise.
        offered: the formats of every layer, by its name.
        decided: names of the layers that are priced.
        estimator: its name.
        rounding: the method that will ship.
        draws: of labels.
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
        """Give everything that decides the values, so that finished pieces are used for nothing else."""
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
    """What was measured.

    Attributes:
        samples: of every priced layer and format.
        rounding_perplexity: of the original on the rounding sequences.
        regime: the model's regime on the pricing sequences.
        coverage: how many tokens each layer inside the blocks saw.
    """

    samples: Samples
    rounding_perplexity: float
    regime: RegimeRecord
    coverage: dict[str, ExpertCoverage]


def measure(request: MeasurementRequest, folder: Path, progress: Progress) -> MeasuredCosts:
    """Round and price what the program decides."""
    structure = find_layers(request.loaded.model)
    task = RoundingTask(request.loaded, structure, request.rounding_ids, request.offered, request.rounding)
    task.require_own_importance()
    decided = [layer for layer in structure.layers if layer.name in request.decided]
    parts = open_resume_cache(folder, request.purpose())
    on = Measurement(request.loaded, structure, request.pricing_ids, decided, request.draws, progress, parts)
    with ESTIMATORS[request.estimator](on) as pricer:
        rounding = capture(task.loaded.model, structure, task.token_ids, None, progress, "reading rounding text")
        pricing, num_done = _captured_pricing(task, on, pricer)
        samples: Samples = {}
        coverage: dict[str, ExpertCoverage] = {}
        for index in range(structure.num_blocks - num_done, structure.num_blocks):
            piece = parts.load(_block(index))
            so_far = piece.pop(_FIRST_TOKENS).tolist()
            if index == structure.num_blocks - num_done:  # the one that was finished last
                pricer.first_token_squares[:] = so_far
            coverage |= _unpacked_coverage(structure.layers_of(index), piece.pop(_COVERAGE))
            samples |= _unpacked(piece)
        for visit in blocks_backward(task.loaded.model, structure, rounding, pricing, progress, num_done):
            priced = pricer.price_block(visit, rounded_block(task, visit))
            squares = torch.tensor(pricer.first_token_squares, dtype=torch.float64)
            counts = _packed_coverage(structure.layers_of(visit.index), visit)
            _keep(parts, visit.index, _packed(priced) | {_FIRST_TOKENS: squares, _COVERAGE: counts}, pricing)
            coverage |= _unpacked_coverage(structure.layers_of(visit.index), counts)
            samples |= priced
        samples |= _priced_ends(task, on, pricer, pricing)
        first_tokens = pricer.first_token_squares
    share = first_tokens[0] / first_tokens[1] if first_tokens and first_tokens[1] else None
    regime = diagnose_regime(request.loaded, request.pricing_ids, share)
    return MeasuredCosts(samples, math.exp(rounding.negative_log_likelihood_nats), regime, coverage)


def _ids_sha256(token_ids: Tensor) -> str:
    return hashlib.sha256(str(tuple(token_ids.shape)).encode() + token_ids.numpy().tobytes()).hexdigest()


def rounded_block(task: RoundingTask, visit: BlockVisit) -> RoundedLayers:
    """Round the layers of one block in every format."""
    records: dict[Layer, Mapping[Format, Rounded]] = {}
    for group in visit.groups:
        rounded = round_group(task, group)
        records |= {layer: rounded[layer.name] for layer in group.layers}
    return RoundedLayers(task, records)


def _captured_pricing(task: RoundingTask, on: Measurement, pricer: Estimator) -> tuple[Capture | None, int]:
    """Run the model over the pricing sequences where gradients are needed; say how many blocks are finished."""
    # Blocks are finished from the last on. The gradients where the last finished one begins are read, not computed.
    model, num_blocks = task.loaded.model, task.structure.num_blocks
    num_done = 0
    while num_done < num_blocks and on.parts.has(_block(num_blocks - 1 - num_done)):
        num_done += 1
    if not pricer.needs_gradients:
        return None, num_done
    label = "reading pricing text"
    if not num_done:
        return capture(model, task.structure, on.token_ids, on.draws, on.progress, label), 0
    captured = capture(model, task.structure, on.token_ids, None, on.progress, label)
    stored = on.parts.load(_gradients(num_blocks - num_done))["gradients"]
    captured.gradients.extend([[draw.clone() for draw in of_sequence] for of_sequence in stored])
    return captured, num_done


def _keep(parts: ResumeCache, index: int, piece: Mapping[str, Tensor], pricing: Capture | None) -> None:
    """Write a finished block; the gradients where it begins come first, since the samples say that it is finished."""
    if pricing is not None:
        parts.save(_gradients(index), {"gradients": torch.stack([torch.stack(drawn) for drawn in pricing.gradients])})
    parts.save(_block(index), piece)
    parts.remove(_gradients(index + 1))


def _priced_ends(task: RoundingTask, on: Measurement, pricer: Estimator, pricing: Capture | None) -> Samples:
    """Round and price the embedding and the head where the program decides them."""
    decided = [layer for layer in on.layers if layer.block is None]
    if not decided:
        return {}

    def compute() -> dict[str, Tensor]:
        rounded = round_ends(task, on.progress)
        changes = RoundedLayers(task, {layer: rounded[layer.name] for layer in decided})
        return _packed({layer.name: pricer.price_end(layer, changes, pricing) for layer in decided})

    return _unpacked(on.parts.remember("ends", compute))


def _packed_coverage(layers: Sequence[Layer], visit: BlockVisit) -> Tensor:
    """Put the tokens that each layer saw, of the rounding and of the pricing sequences, into int64 [layers, 2]."""
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
