"""What a checkpoint consists of: every tensor with its type, shape and place before there are values, and every file.

The parts are numbered as they are written: −1 for the parameters that belong to no layer, 0 for the embedding, 1 to n
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

from ..common.errors import ScantlingError
from ..models.experts import Expert
from ..models.layers import ModelStructure
from ..models.loading import LoadedModel
from ..quantization.formats import FloatFormat, Format
from ..quantization.grid import CastMatrix, Rounded
from .base import WEIGHT, Backend, FormattedLayer, TensorSpec, float_specs, pack_float

OTHERS = -1


@dataclass(frozen=True)
class Contents:
    """A checkpoint of a model in a backend's format.

    Attributes:
        loaded: the model.
        structure: of the model.
        formats: of every layer, by name.
        backend: the checkpoint's format.
    """

    loaded: LoadedModel
    structure: ModelStructure
    formats: Mapping[str, Format]
    backend: Backend

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
        """The type of all parameters that are not integers."""
        return self.backend.float_dtype(self.loaded.sixteen_bit_format)

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

    def layers_of(self, part: int) -> list[FormattedLayer]:
        """List the layers of a part.

        Args:
            part: its number.

        Returns:
            The layers; none for the parameters that belong to no layer.
        """
        ends = [formatted for formatted in self.layers if formatted.layer.block is None]
        if part == 0:
            return ends[:1]
        if part == self.structure.num_blocks + 1:
            return ends[1:]
        return [formatted for formatted in self.layers if formatted.layer.block == part - 1 and part > 0]

    @property
    def parts(self) -> list[int]:
        """The numbers of all parts."""
        return list(range(OTHERS, self.structure.num_blocks + 2))

    def specs(self, part: int) -> dict[str, TensorSpec]:
        """Give the tensors of a part without their values.

        Args:
            part: its number.

        Returns:
            Types and shapes by full name.
        """
        if part == OTHERS:
            return {
                self.stored_name(name): TensorSpec(
                    self.dtype if tensor.is_floating_point() else tensor.dtype, tuple(tensor.shape)
                )
                for name, tensor in self.others.items()
            }
        return {
            name: spec
            for formatted in self.layers_of(part)
            for module, suffix, spec in self._layer_specs(formatted)
            for name in [f"{module}.{suffix}"]
        }

    def _layer_specs(self, formatted: FormattedLayer) -> Iterator[tuple[str, str, TensorSpec]]:
        stored_as_float = isinstance(formatted.format, FloatFormat)
        specs = float_specs(formatted, self.dtype) if stored_as_float else self.backend.specs(formatted, self.in_use)
        for module in self._modules(formatted):
            for suffix, spec in specs.items():
                yield module, suffix, spec

    def _modules(self, formatted: FormattedLayer) -> list[str]:
        """Name the modules that a layer's tensors are written for, as checkpoints call them."""
        tied = formatted.layer.tied_name
        names = [formatted.layer.name, *([tied] if tied and self.backend.unties_head else [])]
        return [self.stored_name(f"{name}.{WEIGHT}").removesuffix(f".{WEIGHT}") for name in names]

    def stored_name(self, name: str) -> str:
        """Give the name of a tensor in the checkpoint.

        Args:
            name: in the model.

        Returns:
            The name in the checkpoint.

        Raises:
            ScantlingError: it is no tensor of its own there.
        """
        names = self.loaded.stored_names
        if names is not None and name not in names:
            raise ScantlingError(
                f"checkpoints of {type(self.loaded.model).__name__} have no tensor for {name}: they keep the experts "
                "of a block in one, which apply does not write. Profiles, plans and comparisons of this model are not "
                "concerned."
            )
        return name if names is None or self.backend.keeps_model_names else names[name]

    def all_specs(self) -> dict[str, TensorSpec]:
        """Give all tensors of the checkpoint, in the order of the parts.

        Returns:
            Types and shapes by full name.
        """
        return {name: spec for part in self.parts for name, spec in self.specs(part).items()}

    def pack_others(self) -> dict[str, Tensor]:
        """Give the parameters that belong to no layer, in the checkpoint's type.

        Returns:
            The tensors by their names in the checkpoint.

        Raises:
            ScantlingError: a value does not fit the type.
        """
        packed = {}
        for name, tensor in self.others.items():
            values = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            packed[self.stored_name(name)] = values
            if not bool(torch.isfinite(values).all()):
                raise ScantlingError(
                    f"the parameter {name} has values beyond {str(self.dtype).removeprefix('torch.')}. "
                    "Convert the checkpoint to bfloat16, or use --backend fake."
                )
        return packed

    def pack(self, part: int, records: Mapping[str, Rounded]) -> dict[str, Tensor]:
        """Pack the layers of a part.

        Args:
            part: its number.
            records: by layer.

        Returns:
            The tensors by full name.
        """
        packed: dict[str, Tensor] = {}
        for formatted in self.layers_of(part):
            record = records[formatted.layer.name]
            if isinstance(formatted.format, FloatFormat):
                tensors = pack_float(formatted, record, self.dtype)
            else:
                tensors = self.backend.pack(formatted, record, self.in_use)
            for module in self._modules(formatted):
                packed |= {f"{module}.{suffix}": tensor for suffix, tensor in tensors.items()}
        return packed

    def unpack(self, part: int, tensors: Mapping[str, Tensor]) -> dict[str, Rounded]:
        """Read the layers of a part back.

        Args:
            part: its number.
            tensors: by full name.

        Returns:
            The records by layer.
        """
        records: dict[str, Rounded] = {}
        for formatted in self.layers_of(part):
            prefix = f"{self._modules(formatted)[0]}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            if isinstance(formatted.format, FloatFormat):
                weight = own[WEIGHT]
                records[formatted.layer.name] = CastMatrix(weight.t() if formatted.transposed else weight)
            else:
                records[formatted.layer.name] = self.backend.unpack(formatted, own, self.in_use)
        return records

    def files(self) -> dict[str, bytes]:
        """Write the small files: configurations and tokenizer.

        Returns:
            Contents by file name.
        """
        model = self.loaded.model
        config = copy.deepcopy(model.config)
        config.dtype = self.dtype
        config.architectures = [type(model).__name__]
        entries: dict[str, object] = self.backend.adapt(json.loads(config.to_json_string()))
        quantization = self.backend.configuration(self.layers)
        if quantization is not None:
            entries["quantization_config"] = quantization
        texts = {"config.json": json.dumps(entries, indent=2) + "\n", **self.backend.further_files(quantization)}
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
        settings = files.get("tokenizer_config.json", b"")
        files["tokenizer_config.json"] = settings.replace(b'"TokenizersBackend"', b'"PreTrainedTokenizerFast"')
        return files  # the class's older name, which transformers 4 and engines that rest on it know too


def store_in_sixteen_bits(contents: Contents) -> None:
    """Give the parameters that belong to no layer the values that they will have in the checkpoint.

    Args:
        contents: its model is changed.
    """
    packed = contents.pack_others()
    for name, tensor in contents.others.items():
        tensor.copy_(packed[contents.stored_name(name)])
