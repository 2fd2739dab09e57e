"""Rounding a model's layers against the inputs that they have in the original model.

Knows nothing about losses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..common.errors import CalibrationError, InputError, ScantlingError
from ..common.progress import Progress
from ..models.gguf_names import architecture_of, tensor_names
from ..models.layers import Layer, ModelStructure, find_layers, matrix_of, output_head
from ..models.loading import LoadedModel
from ..quantization.formats import FloatFormat, Format, parse_format
from ..quantization.grid import Rounded
from ..quantization.methods import RoundingMethod, round_matrices, rounding_method
from .calibration.backward_pass import InputGroup, blocks_backward
from .calibration.capture import capture
from .estimators.ends import head_hessian
from .input_scaling import scale_inputs
from .profile import Profile

FormatsOfLayer = Mapping[str, Sequence[Format]]
RoundedLayers = dict[str, dict[Format, Rounded]]


@dataclass(frozen=True)
class RoundingTask:
    """What to round, and how.

    Attributes:
        loaded: the model.
        structure: its layers.
        token_ids: the rounding sequences, int64 [sequences, tokens].
        formats: the wanted formats of every layer, by its name.
        method: the rounding method.
    """

    loaded: LoadedModel
    structure: ModelStructure
    token_ids: Tensor
    formats: FormatsOfLayer
    method: RoundingMethod

    def matrix(self, layer: Layer) -> Tensor:
        """Read a layer's original matrix, float32 [out, in]."""
        return matrix_of(self.loaded.model.get_submodule(layer.name))

    @cached_property
    def importance(self) -> Mapping[str, Tensor]:
        """The user's importance matrix: means of squared inputs [in] by layer; empty where the user gave none."""
        given = self.method.given_importance
        if given is None:
            return {}
        structure = self.structure
        names = tensor_names(
            structure.layers, architecture_of(self.loaded.model.config.model_type), structure.num_blocks
        )
        found = {layer.name: given.of(names[layer.name], layer.in_features) for layer in structure.layers}
        missing = [
            names[layer.name] for layer in structure.layers if layer.block is not None and found[layer.name] is None
        ]
        if missing:
            raise InputError(
                f"{given.source} is an importance matrix of another model: it lacks {missing[0]} and "
                f"{len(missing) - 1} more of this model's tensors. Collect one on this model, or leave --imatrix out."
            )
        return {
            layer.name: torch.ones(layer.in_features) if (means := found[layer.name]) is None else means
            for layer in structure.layers
        }

    def require_own_importance(self) -> None:
        """Refuse an importance matrix of another model before any work is done."""
        self.importance.keys()


def validate_groups(layers: Sequence[Layer], formats: FormatsOfLayer) -> None:
    """Refuse formats whose groups or blocks do not divide a layer's input width, naming the layer and legal sizes."""
    for layer in layers:
        for target in formats[layer.name]:
            try:
                target.stored_bytes(layer.out_features, layer.in_features)
            except ScantlingError as error:
                raise InputError(f"{target.name} cannot be used for {layer.name}: {error}") from error


def round_group(task: RoundingTask, group: InputGroup) -> RoundedLayers:
    """Round the layers that share an input, each in its own formats; if the method fails, the error names them."""
    if task.importance and len(group.layers) > 1:
        return {
            name: records
            for layer in group.layers
            for name, records in round_group(task, replace(group, layers=[layer])).items()
        }
    names = [layer.name for layer in group.layers]
    wanted = list(dict.fromkeys(target for name in names for target in task.formats[name]))
    hessian = torch.diag(task.importance[names[0]]) if task.importance else group.hessian
    try:
        rounded = round_matrices(task.method, [task.matrix(layer) for layer in group.layers], hessian, wanted)
    except ScantlingError as error:
        raise CalibrationError(f"cannot round {', '.join(names)}: {error}") from error
    return {
        name: {target: records[target] for target in task.formats[name]}
        for name, records in zip(names, rounded, strict=True)
    }


def round_ends(task: RoundingTask, progress: Progress) -> RoundedLayers:
    """Round embedding and head, each in its own formats; a tied matrix is rounded against the head's inputs.

    An embedding of its own has no input vectors (each token reads one row): every row is rounded by itself.

    Args:
        task: the formats and the method.
        progress: shows how far the pass over the text is.

    Returns:
        The records by layer and format.
    """
    rounded: RoundedLayers = {}
    head = output_head(task.loaded.model)
    assert head is not None
    for layer in task.structure.layers:
        if layer.block is not None:
            continue
        wanted = list(task.formats[layer.name])
        matrix = task.matrix(layer)
        hessian = torch.eye(layer.in_features)
        is_head = matrix.data_ptr() == matrix_of(head).data_ptr()
        if layer.name in task.importance:
            hessian = torch.diag(task.importance[layer.name])
        elif is_head and not all(isinstance(target, FloatFormat) for target in wanted):
            hessian = head_hessian(task.loaded.model, task.token_ids, progress)
        rounded[layer.name] = round_matrices(task.method, [matrix], hessian, wanted)[0]
    return rounded


def round_layers(task: RoundingTask, progress: Progress) -> RoundedLayers:
    """Round every layer of a model in its wanted formats."""
    validate_groups(task.structure.layers, task.formats)
    model = task.loaded.model
    captured = capture(model, task.structure, task.token_ids, None, progress, "reading rounding text")
    rounded: RoundedLayers = {}
    for visit in blocks_backward(model, task.structure, captured, None, progress):
        for group in visit.groups:
            rounded |= round_group(task, group)
    return rounded | round_ends(task, progress)


def scale_inputs_for(
    method: RoundingMethod,
    loaded: LoadedModel,
    structure: ModelStructure,
    token_ids: Tensor,
    formats: Sequence[Format],
    progress: Progress,
) -> None:
    """Scale a model's inputs if its rounding method does so; the rounding sequences are int64 [sequences, tokens]."""
    if method.input_scaling is not None:
        scale_inputs(loaded, structure, token_ids, method.input_scaling, formats, progress)


def profiled_task(loaded: LoadedModel, profile: Profile, wanted: FormatsOfLayer, progress: Progress) -> RoundingTask:
    """Prepare the rounding of a model as in its profile; inputs are scaled if the method does so."""
    structure = find_layers(loaded.model)
    profile.require_same_model(loaded.sha256, [layer.name for layer in structure.layers])
    method = rounding_method(profile.record.rounding)
    token_ids = torch.from_numpy(profile.rounding_token_ids)
    formats = [parse_format(target) for target in profile.record.formats]
    scale_inputs_for(method, loaded, structure, token_ids, formats, progress)
    return RoundingTask(loaded, structure, token_ids, wanted, method)


def round_as_profiled(
    loaded: LoadedModel, profile: Profile, wanted: FormatsOfLayer, progress: Progress
) -> RoundedLayers:
    """Round a model as in its profile, every layer in its wanted formats."""
    return round_layers(profiled_task(loaded, profile, wanted, progress), progress)


def round_assignments(
    loaded: LoadedModel, profile: Profile, assignments: Mapping[str, Mapping[str, str]], progress: Progress
) -> dict[str, dict[str, Rounded]]:
    """Round a model as in its profile, for several assignments by name in one pass."""
    parsed = {
        name: {layer: parse_format(target) for layer, target in formats.items()}
        for name, formats in assignments.items()
    }
    wanted = {
        layer.name: list(dict.fromkeys(formats[layer.name] for formats in parsed.values()))
        for layer in profile.record.layers
    }
    rounded = round_as_profiled(loaded, profile, wanted, progress)
    return {
        name: {layer: rounded[layer][target] for layer, target in formats.items()} for name, formats in parsed.items()
    }
