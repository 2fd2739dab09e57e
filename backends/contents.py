"""What a checkpoint folder consists of: every tensor with its type, shape and place before there are values.

The pieces are numbered as they are written: −1 for the parameters that belong to no layer, 0 for the embedding, 1 to n
for the blocks, n + 1 for a head of its own.

Knows nothing about plans or how layers are rounded.
"""

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ..common.errors import UnsupportedModelError
from ..models.experts import Expert
from ..models.layers import ModelStructure
from ..models.loading import LoadedModel
from ..quantization.formats import FloatFormat, Format
from ..quantization.grid import CastMatrix, Rounded
from .folder_format import FLOAT_DTYPES, WEIGHT, FolderFormat, FormattedLayer, TensorSpec, float_specs, pack_float

OTHERS = -1


@dataclass(frozen=True)
class Contents:
    """A checkpoint of a model in a folder format.

    Attributes:
        loaded: the model.
        structure: of the model.
        formats: of every layer, by name.
        folder_format: the checkpoint's.
    """

    loaded: LoadedModel
    structure: ModelStructure
    formats: Mapping[str, Format]
    folder_format: FolderFormat

    @cached_property
    def layers(self) -> list[FormattedLayer]:
        """All layers with their formats."""
        modules = self.loaded.model
        return [
            FormattedLayer(
                layer,
                self.formats[layer.name],
                transposed=isinstance(modules.get_submodule(layer.name), Conv1D),
                stacked=isinstance(modules.get_submodule(layer.name.rpartition(".")[0]), Expert),
            )
            for layer in self.structure.layers
        ]

    @cached_property
    def in_use(self) -> frozenset[Format]:
        """All formats of the plan."""
        return frozenset(formatted.format for formatted in self.layers)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of every parameter that is not an integer."""
        return FLOAT_DTYPES[self.folder_format.traits.float_dtype or self.loaded.sixteen_bit_format]

    @cached_property
    def others(self) -> dict[str, Tensor]:
        """The parameters and buffers that belong to no layer, by name; what is tied appears once."""
        in_layers = {
            f"{name}.{WEIGHT}" for layer in self.structure.layers for name in (layer.name, layer.tied_name) if name
        }
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in self.loaded.model.state_dict().items():
            if name not in in_layers and tensor.data_ptr() not in seen:
                found[name] = tensor
                seen.add(tensor.data_ptr())
        return found

    def layers_of(self, piece: int) -> list[FormattedLayer]:
        """List the layers of a piece; none for the parameters that belong to no layer."""
        ends = [formatted for formatted in self.layers if formatted.layer.block is None]
        if piece == 0:
            return ends[:1]
        if piece == self.structure.num_blocks + 1:
            return ends[1:]
        return [formatted for formatted in self.layers if formatted.layer.block == piece - 1 and piece > 0]

    @property
    def pieces(self) -> list[int]:
        """The numbers of all pieces."""
        return list(range(OTHERS, self.structure.num_blocks + 2))

    def specs(self, piece: int) -> dict[str, TensorSpec]:
        """Give the tensors of a piece without their values, by full name."""
        if piece == OTHERS:
            return {
                self.stored_name(name): TensorSpec(
                    self.dtype if tensor.is_floating_point() else tensor.dtype, tuple(tensor.shape)
                )
                for name, tensor in self.others.items()
            }
        return {
            name: spec
            for formatted in self.layers_of(piece)
            for module, suffix, spec in self._layer_specs(formatted)
            for name in [f"{module}.{suffix}"]
        }

    def _layer_specs(self, formatted: FormattedLayer) -> Iterator[tuple[str, str, TensorSpec]]:
        stored_as_float = isinstance(formatted.format, FloatFormat)
        specs = (
            float_specs(formatted, self.dtype) if stored_as_float else self.folder_format.specs(formatted, self.in_use)
        )
        for module in self._modules(formatted):
            for suffix, spec in specs.items():
                yield module, suffix, spec

    def _modules(self, formatted: FormattedLayer) -> list[str]:
        """Name the modules that a layer's tensors are written for, as in checkpoints."""
        tied = formatted.layer.tied_name
        names = [formatted.layer.name, *([tied] if tied and self.folder_format.traits.unties_head else [])]
        return [self.stored_name(f"{name}.{WEIGHT}").removesuffix(f".{WEIGHT}") for name in names]

    def stored_name(self, name: str) -> str:
        """Find what the checkpoint calls one of the model's tensors.

        Returns:
            Its name in the checkpoint.

        Raises:
            UnsupportedModelError: the checkpoint has no tensor of its own for it.
        """
        names = self.loaded.stored_names
        if names is not None and name not in names:
            raise UnsupportedModelError(
                f"checkpoints of {type(self.loaded.model).__name__} have no tensor for {name}: they keep the experts "
                "of a block in one, which apply cannot write. Profiles, plans and comparisons of this model still work."
            )
        return name if names is None or self.folder_format.traits.keeps_model_names else names[name]

    def all_specs(self) -> dict[str, TensorSpec]:
        """Give all tensors of the checkpoint by full name, in the order of the pieces."""
        return {name: spec for piece in self.pieces for name, spec in self.specs(piece).items()}

    def pack_others(self) -> dict[str, Tensor]:
        """Convert the parameters that belong to no layer to the checkpoint's type.

        Returns:
            The tensors by their names in the checkpoint.

        Raises:
            UnsupportedModelError: a value does not fit the type.
        """
        packed = {}
        for name, tensor in self.others.items():
            values = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            packed[self.stored_name(name)] = values
            if not bool(torch.isfinite(values).all()):
                raise UnsupportedModelError(
                    f"the parameter {name} has values beyond the range of {str(self.dtype).removeprefix('torch.')}. "
                    "Convert the checkpoint to bfloat16, or use --backend fake."
                )
        return packed

    def pack(self, piece: int, records: Mapping[str, Rounded]) -> dict[str, Tensor]:
        """Pack the layers of a piece from their records by layer: the tensors by full name."""
        packed: dict[str, Tensor] = {}
        for formatted in self.layers_of(piece):
            record = records[formatted.layer.name]
            if isinstance(formatted.format, FloatFormat):
                tensors = pack_float(formatted, record, self.dtype)
            else:
                tensors = self.folder_format.pack(formatted, record, self.in_use)
            for module in self._modules(formatted):
                packed |= {f"{module}.{suffix}": tensor for suffix, tensor in tensors.items()}
        return packed

    def unpack(self, piece: int, tensors: Mapping[str, Tensor]) -> dict[str, Rounded]:
        """Read the layers of a piece back from its tensors by full name: the records by layer."""
        records: dict[str, Rounded] = {}
        for formatted in self.layers_of(piece):
            prefix = f"{self._modules(formatted)[0]}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            if isinstance(formatted.format, FloatFormat):
                weight = own[WEIGHT]
                records[formatted.layer.name] = CastMatrix(weight.t() if formatted.transposed else weight)
            else:
                records[formatted.layer.name] = self.folder_format.unpack(formatted, own, self.in_use)
        return records

    def files(self) -> dict[str, bytes]:
        """Give the small files, by name: configurations and tokenizer."""
        model = self.loaded.model
        config = copy.deepcopy(model.config)
        config.dtype = self.dtype
        config.architectures = [type(model).__name__]
        json_files = self.folder_format.json_files(json.loads(config.to_json_string()), self.layers)
        texts = {name: json.dumps(content, indent=2) + "\n" for name, content in json_files.items()}
        if model.generation_config is not None:
            texts["generation_config.json"] = model.generation_config.to_json_string()
        return {name: text.encode() for name, text in texts.items()} | self._tokenizer_files()

    def _tokenizer_files(self) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            self.loaded.tokenizer.save_pretrained(folder)
            files = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(Path(folder).rglob("*"))
                if path.is_file()
            }
        # the class's older name, which transformers 4, and engines that rest on it, know too
        settings = files.get("tokenizer_config.json", b"")
        files["tokenizer_config.json"] = settings.replace(b'"TokenizersBackend"', b'"PreTrainedTokenizerFast"')
        return files


def store_in_sixteen_bits(contents: Contents) -> None:
    """Give the model's parameters that belong to no layer the values that they will have in the checkpoint."""
    packed = contents.pack_others()
    for name, tensor in contents.others.items():
        tensor.copy_(packed[contents.stored_name(name)])
