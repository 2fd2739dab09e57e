"""The measured loss around a plan: its gradient there, and what a further change of a single layer would add.

Let D be the mean KL divergence per token from the original model to the quantized one, h the gradient of Σₜ KLₜ at a
layer's output and x the layer's input, both in the quantized model, and V = W(l, f) − W(l, plan). Then

    D(plan with f in layer l) − D(plan) ≈ Σₜ hₜᵀ V xₜ / T + ½ vec(V)ᵀ F vec(V).

The first term is exact to first order and holds every interaction with what the plan did to the other layers. The
second is the Fisher loss increase of V in its window form (sensitivity/estimators/fisher.py), with labels sampled
from the quantized model. It needs every layer in the formats of interest, rounded as the profile did.

Knows nothing about programs or how steps are chosen.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.progress import Progress
from ..models.install import Candidate, installed, removing
from ..models.layers import ModelStructure, blocks_of, find_layers
from ..models.loading import LoadedModel
from ..quantization.grid import CastMatrix, Rounded
from ..sensitivity.calibration.backward_pass import LayerGradients, blocks_backward
from ..sensitivity.calibration.capture import Capture, LabelDraws, capture, first_tensor, gradients_of_draws
from ..sensitivity.estimators.fisher import first_order_changes, window_form

Records = Mapping[str, Mapping[str, Rounded]]  # by layer and format
Samples = NDArray[np.float64]  # one value a sequence


@dataclass(frozen=True)
class Linearisation:
    """The expansion of the loss around a plan.

    Attributes:
        kl_nats: D of the plan, float64 [sequences].
        changes_nats: what each other format of each layer would add, float64 [sequences] by layer and format.
    """

    kl_nats: Samples
    changes_nats: dict[str, dict[str, Samples]]


def linearise(
    loaded: LoadedModel,
    records: Records,
    formats: Mapping[str, str],
    on: tuple[Tensor, LabelDraws],
    progress: Progress,
) -> Linearisation:
    """Measure a plan's loss, and what a change of each single layer would add.

    Meanwhile the quantized matrices are held in float32 beside the original ones.

    Args:
        loaded: the original model; its values are restored afterwards.
        records: the decided layers in the formats of interest, the plan's own among them.
        formats: the plan's.
        on: the sequences, int64 [sequences, tokens], and the draws of labels.
        progress: shows how far the passes are.

    Returns:
        The linearisation; only layers inside blocks have changes.
    """
    token_ids, draws = on
    structure = find_layers(loaded.model)
    quantized = {name: CastMatrix(of[formats[name]].dequantize()) for name, of in records.items()}
    with installed(loaded.model, quantized):
        captured = capture(loaded.model, structure, token_ids, None, progress, "reading text through the plan")
    kl_nats = _differentiate_loss(loaded.model, structure, quantized, (token_ids, draws, captured), progress)
    changes: dict[str, dict[str, list[Tensor]]] = {}
    with installed(loaded.model, quantized):
        one_sequence = Capture([calls[:1] for calls in captured.calls], [], 0.0)
        for visit in blocks_backward(loaded.model, structure, one_sequence, captured, progress):
            for gradients_by_layer in visit.gradient_batches():
                for layer, layer_gradients in gradients_by_layer.items():
                    if layer.name in records:
                        _price(
                            changes.setdefault(layer.name, {}),
                            layer_gradients,
                            records[layer.name],
                            formats[layer.name],
                        )
    return Linearisation(
        np.array(kl_nats),
        {layer: {name: torch.cat(parts).numpy() for name, parts in of.items()} for layer, of in changes.items()},
    )


def _differentiate_loss(
    model: Any,  # noqa: ANN401
    structure: ModelStructure,
    quantized: Candidate,
    on: tuple[Tensor, LabelDraws, Capture],
    progress: Progress,
) -> list[float]:
    """Put the gradients of Σₜ KLₜ and of the draws of labels into the capture; returns D of every sequence."""
    token_ids, draws, captured = on
    kl_nats: list[float] = []
    ends: list[Tensor] = []

    def start_graph(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
        ends.append(first_tensor(output).detach().requires_grad_())
        return ends[-1] if isinstance(output, Tensor) else (ends[-1], *output[1:])

    for number, sequence in enumerate(progress(list(token_ids), "differentiating the loss")):
        with torch.no_grad():
            original = model(sequence.unsqueeze(0), use_cache=False).logits[0].float().log_softmax(-1)
        with ExitStack() as during:
            during.enter_context(installed(model, quantized))
            during.enter_context(removing(blocks_of(model, structure)[-1].register_forward_hook(start_graph)))
            logits = model(sequence.unsqueeze(0), use_cache=False).logits
        changed = logits[0].float().log_softmax(-1)
        divergence = nn.functional.kl_div(changed, original, reduction="sum", log_target=True)
        of_loss = torch.autograd.grad(divergence, ends[-1], retain_graph=True)[0]
        kl_nats.append(divergence.item() / len(sequence))
        of_draws = gradients_of_draws(logits, changed.detach(), ends.pop(), draws, number)
        captured.gradients.append([of_loss, *of_draws])
    return kl_nats


def _price(
    found: dict[str, list[Tensor]], layer_gradients: LayerGradients, records: Mapping[str, Rounded], own: str
) -> None:
    """Add the changes of one layer on some sequences."""
    current = records[own].dequantize()
    for name, record in records.items():
        if name == own:
            continue
        terms = first_order_changes(layer_gradients.inputs, layer_gradients.gradients, record.dequantize() - current)
        of_sequence = torch.split(terms[0], layer_gradients.rows_per_sequence)
        slope = torch.stack([part.sum() for part in of_sequence]) / layer_gradients.sequence_length
        curvature = window_form(terms[1:], layer_gradients.rows_per_sequence, layer_gradients.sequence_length)
        found.setdefault(name, []).append(slope + curvature)
