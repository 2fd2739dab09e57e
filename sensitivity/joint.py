"""What a whole assignment costs, with what the errors of its layers have in common.

The prices of a profile are of one layer at a time, and the program adds them up. Let aₜₗ be the part of token t and
layer l in the first-order change of the log-probability of sampled labels (module fisher). To second order all changes
together cost ½ E (Σₜ Σₗ aₜₗ)² / T; a sum of prices leaves out the products of different layers, whose errors add up
where they point the same way. Here layers are summed before anything is squared:

    joint price  =  ½ Σₜ (Σₗ aₜₗ)² / T  ·  Σₗ window form of l  /  Σₗ token form of l.

The first factor takes the layers together and the tokens apart, an average of T squares with little noise; the second
is what neighbouring tokens have in common, seen on single layers. The window form of the joint sums would hold both at
once, with an error several times as large (benchmarks/LOG.md).

Embedding and head, and experts, which see a part of the tokens, are added with prices of their own.

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
        together: token form of the sums over layers.
        by_token: sum over layers of their token forms.
        by_window: sum over layers of their window forms.
        apart: prices of what is not taken together.
    """

    together: PerSequence
    by_token: PerSequence
    by_window: PerSequence
    apart: PerSequence

    def price(self, chosen: NDArray[np.bool_] | None = None) -> float:
        """Compute the joint price.

        Args:
            chosen: which sequences; None for all.

        Returns:
            Nats per token.
        """
        of = slice(None) if chosen is None else chosen
        together, token, window, apart = (
            float(one[of].mean()) for one in (self.together, self.by_token, self.by_window, self.apart)
        )
        return (together * window / token if token else 0.0) + apart

    def standard_error(self) -> float | None:
        """Compute its standard error over the sequences, by leaving out each in turn (jackknife, Tukey 1958).

        Returns:
            Nats per token; None with a single sequence.
        """
        number = len(self.together)
        if number == 1:
            return None
        without = np.array([self.price(np.arange(number) != left_out) for left_out in range(number)])
        return float(np.sqrt((number - 1) / number * np.square(without - without.mean()).sum()))


@dataclass
class _Sums:
    """What is summed over layers for one assignment, batch of sequences by batch."""

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
    """Price whole assignments, in one pass over the model for all of them."""
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
    """Go through layers and batches of sequences, with aₜ of every format that is wanted."""
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
    """Put the batches of one assignment together, and add the ends."""
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
