"""The loss increase of a whole assignment, with the correlation of its layers' errors.

The prices of a profile are for one layer at a time, and the program adds them up. Let aₜₗ be the contribution of token
t and layer l to the first-order change of the log-probability of sampled labels (module fisher). To second order all
changes together cost ½ E (Σₜ Σₗ aₜₗ)² / T; a sum of prices omits the products of different layers, whose errors add up
where they point the same way. Here layers are summed before squaring:

    joint price  =  ½ Σₜ (Σₗ aₜₗ)² / T  ·  Σₗ window form of l  /  Σₗ token form of l.

The first factor sums over layers but not over tokens, an average of T squares with little noise; the second is the
correlation of neighbouring tokens, estimated on single layers. The window form of the joint sums would cover both, with
an error several times as large (benchmarks/LOG.md).

Embedding, head and experts, which see only a part of the tokens, are added with their own prices.

Knows nothing about programs.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.progress import Progress
from ..models.layers import Layer
from ..models.loading import LoadedModel
from ..quantization.formats import Format, parse_format
from .calibration.backward_pass import LayerGradients, blocks_backward
from .calibration.capture import LabelDraws, capture
from .estimators.activation_rounding import ActivationRounding
from .estimators.fisher import token_form, window_form
from .measure import RoundingChanges, rounded_block
from .profile import Profile
from .round_model import profiled_task

Assignments = Mapping[str, Mapping[str, str]]
PerSequence = NDArray[np.float64]


@dataclass
class JointSamples:
    """Forms of one assignment, float64 [sequences] each, in nats per token.

    Attributes:
        together: the token form of the sums over layers.
        by_token: the sum over layers of their token forms.
        by_window: the sum over layers of their window forms.
        apart: the prices of layers that are not summed before squaring.
    """

    together: PerSequence
    by_token: PerSequence
    by_window: PerSequence
    apart: PerSequence

    def price(self, chosen: NDArray[np.bool_] | None = None) -> float:
        """Compute the joint price in nats per token, over the chosen sequences or all."""
        of = slice(None) if chosen is None else chosen
        together, token, window, apart = (
            float(one[of].mean()) for one in (self.together, self.by_token, self.by_window, self.apart)
        )
        return (together * window / token if token else 0.0) + apart

    def standard_error(self) -> float | None:
        """Compute the jackknife standard error over the sequences (Tukey 1958); None with a single sequence."""
        number = len(self.together)
        if number == 1:
            return None
        without = np.array([self.price(np.arange(number) != left_out) for left_out in range(number)])
        return float(np.sqrt((number - 1) / number * np.square(without - without.mean()).sum()))


@dataclass
class _Sums:
    """Sums over layers for one assignment, by batch of sequences; ``forms`` are token, window and apart."""

    together: dict[int, Tensor] = field(default_factory=dict)
    forms: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(lambda: [torch.zeros(())] * 3))

    def add(self, batch: int, changes: Tensor, layer_gradients: LayerGradients) -> None:
        forms = self.forms[batch]
        window = window_form(changes, layer_gradients.rows_per_sequence, layer_gradients.sequence_length)
        if any(rows != layer_gradients.sequence_length for rows in layer_gradients.rows_per_sequence):
            forms[2] = forms[2] + window
            return
        forms[0] = forms[0] + token_form(changes, layer_gradients.rows_per_sequence, layer_gradients.sequence_length)
        forms[1] = forms[1] + window
        self.together[batch] = self.together.get(batch, 0) + changes


def joint_samples(
    loaded: LoadedModel, profile: Profile, assignments: Assignments, progress: Progress
) -> dict[str, JointSamples]:
    """Price whole assignments by name, all in one pass over the model."""
    sums: dict[str, _Sums] = {name: _Sums() for name in assignments}
    lengths: dict[int, tuple[Sequence[int], int]] = {}
    for layer, batch, layer_gradients, changes in _changes(loaded, profile, assignments, progress):
        lengths[batch] = (
            [layer_gradients.sequence_length] * len(layer_gradients.rows_per_sequence),
            layer_gradients.sequence_length,
        )
        for name, formats in assignments.items():
            sums[name].add(batch, changes[parse_format(formats[layer.name])], layer_gradients)
    return {name: _collected(profile, assignments[name], of, lengths) for name, of in sums.items()}


def _changes(
    loaded: LoadedModel, profile: Profile, assignments: Assignments, progress: Progress
) -> Iterator[tuple[Layer, int, LayerGradients, dict[Format, Tensor]]]:
    """Go through layers and batches of sequences, with aₜ of every wanted format."""
    record = profile.record
    wanted = {
        layer.name: list(dict.fromkeys(parse_format(formats[layer.name]) for formats in assignments.values()))
        for layer in record.layers
    }
    task = profiled_task(loaded, profile, wanted, progress)
    structure, draws = task.structure, LabelDraws(record.seed, record.num_label_draws)
    rounding = capture(loaded.model, structure, task.token_ids, None, progress, "reading rounding text")
    pricing_ids = torch.from_numpy(profile.pricing_token_ids)
    pricing = capture(loaded.model, structure, pricing_ids, draws, progress, "reading pricing text")
    for visit in blocks_backward(loaded.model, structure, rounding, pricing, progress):
        rounded = rounded_block(task, visit)
        for batch, gradients_by_layer in enumerate(visit.gradient_batches()):
            for layer in rounded.layers:
                yield layer, batch, gradients_by_layer[layer], _of_formats(rounded, layer, gradients_by_layer[layer])


def _of_formats(rounded: RoundingChanges, layer: Layer, layer_gradients: LayerGradients) -> dict[Format, Tensor]:
    entering = ActivationRounding(layer_gradients.inputs, layer_gradients.gradients, lambda: rounded.matrix(layer))
    return {target: entering.changes(target, delta) for target, delta in rounded.deltas(layer)}


def _collected(
    profile: Profile, formats: Mapping[str, str], sums: _Sums, lengths: Mapping[int, tuple[Sequence[int], int]]
) -> JointSamples:
    """Concatenate the batches of one assignment, and add embedding and head."""
    together, by_token, by_window, apart = [], [], [], []
    for batch, (rows, length) in sorted(lengths.items()):
        nothing = torch.zeros(len(rows), dtype=torch.float64)
        token, window, alone = (nothing + form for form in sums.forms[batch])
        by_token.append(token)
        by_window.append(window)
        apart.append(alone)
        together.append(token_form(sums.together[batch], rows, length) if batch in sums.together else nothing)
    values = [torch.cat(parts).numpy() for parts in (together, by_token, by_window, apart)]
    samples = JointSamples(*values)
    for layer, index in profile.layer_index.items():
        if profile.record.layers[index].block is None:
            samples.apart = samples.apart + profile.loss_increase_nats(index, profile.format_index[formats[layer]])
    return samples
