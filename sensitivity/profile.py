"""The profile: what every format of every layer costs, and all that solving and rounding again need.

It is one safetensors file: the record as JSON and a digest of everything in its metadata, and the tensors ``samples``
(float64 [layers, formats, samples], NaN where a layer is not offered a format), ``rounding_token_ids`` and
``pricing_token_ids`` (int64 [sequences, tokens]).

Knows nothing about how the samples were measured.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..common.errors import FileFormatError, InputError, ScantlingError, StorageError
from ..common.files import file_sha256, whole_file
from ..quantization.formats import parse_format
from .expert_imputation import with_imputed_prices
from .profile_record import PROFILE_VERSION, LayerRecord, ProfileRecord

_FIELD_OF_TENSOR: Final = {
    "samples": "measured_samples",
    "rounding_token_ids": "rounding_token_ids",
    "pricing_token_ids": "pricing_token_ids",
}


@dataclass(frozen=True)
class ProfileOrigin:
    """The file that holds a profile, and its hash."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Profile:
    """The record and its tensors.

    Attributes:
        record: the model, the text, the settings and the layers.
        measured_samples: the tensor of the file, float64 [layers, formats, samples] in nats per token, NaN where a
            format is not offered. Only for reading, writing and extending profiles: predictions use ``prices``, where
            rarely covered experts are imputed. A layer with a single format is not priced: its samples are zero, and
            its rounding to 16 bits is part of measured losses but not of predicted ones. All domains have the same
            number of samples, so that the mean over all samples weighs them equally.
        rounding_token_ids: what formats are fitted to, int64 [sequences, tokens].
        pricing_token_ids: what their loss increase was measured on, int64 [sequences, tokens].
        origin: the file that it was loaded from or saved to; None for one that no file holds.
    """

    record: ProfileRecord
    measured_samples: NDArray[np.float64]
    rounding_token_ids: NDArray[np.int64]
    pricing_token_ids: NDArray[np.int64]
    origin: ProfileOrigin | None = field(default=None, compare=False, kw_only=True)

    @classmethod
    def load(cls, path: Path | str) -> "Profile":
        """Read a profile from its file."""
        return read_profile(Path(path))

    def save(self, path: Path | str) -> "Profile":
        """Write the profile; what is returned knows its file."""
        write_profile(self, Path(path))
        return replace(self, origin=ProfileOrigin(Path(path), file_sha256(Path(path))))

    def with_samples(self, measured_samples: NDArray[np.float64]) -> "Profile":
        """Give the profile other samples; no file holds the result."""
        return replace(self, measured_samples=measured_samples, origin=None)

    @cached_property
    def layer_index(self) -> dict[str, int]:
        """The position of every layer by its name."""
        return {layer.name: index for index, layer in enumerate(self.record.layers)}

    @cached_property
    def format_index(self) -> dict[str, int]:
        """The position of every format by its name."""
        return {name: index for index, name in enumerate(self.record.formats)}

    @cached_property
    def prices(self) -> NDArray[np.float64]:
        """The basis of all predictions: the measured samples, imputed for rarely covered experts; same shape."""
        return with_imputed_prices(self.record.layers, self.measured_samples)

    @property
    def num_samples(self) -> int:
        """The number of samples of each price, one for every pricing sequence."""
        return int(self.measured_samples.shape[2])

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """The domains in order; ``text`` in a profile of a single unnamed text."""
        return tuple(domain.name for domain in self.record.domains) or ("text",)

    @cached_property
    def domain_of_sample(self) -> NDArray[np.int64]:
        """The position of each sample's domain, int64 [samples]."""
        return np.array(self.record.domain_of_sequence or (0,) * self.num_samples, dtype=np.int64)

    @cached_property
    def prices_by_domain(self) -> dict[str, NDArray[np.float64]]:
        """The prices by domain, float64 [layers, formats, samples of the domain]."""
        if not self.record.domains:
            return {self.domain_names[0]: self.prices}
        return {name: self.prices[:, :, self.domain_of_sample == k] for k, name in enumerate(self.domain_names)}

    def loss_increase_nats(self, layer: int, target: int) -> float:
        """Predict c(l, f), the loss increase of one layer in one format by their positions, in nats per token."""
        return float(self.prices[layer, target].mean())

    def sample_losses_nats(self, formats: Mapping[str, str]) -> NDArray[np.float64]:
        """Predict the loss increase of a whole assignment on every sample.

        All predictions rest on these: layers are summed within a sample before samples are compared, so that what the
        layers of a sample share is in the standard error.

        Args:
            formats: the format of every layer.

        Returns:
            float64 [samples], Σ over layers of the sample of c(l, f), in nats per token.

        Raises:
            InputError: a layer or a format that is not in the profile.
        """
        return np.asarray(np.sum(self._chosen_prices(formats), axis=0), dtype=np.float64)

    def predict(self, formats: Mapping[str, str]) -> tuple[float, float | None]:
        """Predict the loss increase of a whole assignment.

        Args:
            formats: the format of every layer.

        Returns:
            Σ c(l, f) in nats per token, and its standard error over the samples; None with a single one.

        Raises:
            InputError: a layer or a format that is not in the profile.
        """
        chosen = self._chosen_prices(formats)
        total = math.fsum(float(samples.mean()) for samples in chosen)
        return total, mean_and_standard_error(np.sum(chosen, axis=0))[1]

    def difference(self, first: Mapping[str, str], second: Mapping[str, str]) -> tuple[float, float | None]:
        """Predict by how much one assignment loses more than another, sample by sample.

        Args:
            first: the format of every layer.
            second: likewise.

        Returns:
            predict(first) − predict(second) in nats per token, and the standard error of that difference over the
            samples, which share the text; None with a single one.

        Raises:
            InputError: a layer or a format that is not in the profile.
        """
        return mean_and_standard_error(self.sample_losses_nats(first) - self.sample_losses_nats(second))

    def _chosen_prices(self, formats: Mapping[str, str]) -> list[NDArray[np.float64]]:
        """Give each layer's prices in its format, float64 [samples], in the order of the layers."""
        chosen = []
        for layer, index in self.layer_index.items():
            target = self.format_index.get(formats.get(layer, ""))
            if target is None or target not in self.record.layers[index].formats:
                raise InputError(
                    f"the profile has no price for {layer} in {formats.get(layer)!r}. "
                    f"It has: {', '.join(self.record.formats[f] for f in self.record.layers[index].formats)}."
                )
            chosen.append(self.prices[index, target])
        return chosen

    def stored_bytes(self, formats: Mapping[str, str]) -> int:
        """Count the bytes of the checkpoint of a whole assignment."""
        total = self.record.other_bytes
        for layer in self.record.layers:
            total += layer.stored_bytes[layer.formats.index(self.format_index[formats[layer.name]])]
        return total

    def require_same_model(self, model_sha256: str, layer_names: Sequence[str]) -> None:
        """Refuse a model that this profile was not made of."""
        if list(layer_names) != [layer.name for layer in self.record.layers]:
            raise InputError(
                f"the profile is of {self.record.model_source!r}, whose layers are not those of this model. "
                "Name the model that was profiled, or profile this one."
            )
        if model_sha256 != self.record.model_sha256:
            raise InputError(
                f"the profile is of {self.record.model_source!r} with weights {self.record.model_sha256[:12]}…, this "
                f"model has {model_sha256[:12]}…. Name the model that was profiled, or profile this one."
            )


def mean_and_standard_error(losses: NDArray[np.float64]) -> tuple[float, float | None]:
    """Give the mean of float64 [samples] and its standard error, None with a single sample."""
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else None
    return float(losses.mean()), error


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all, replacing the file; the same profile gives the same bytes."""
    tensors = {name: getattr(profile, attribute) for name, attribute in _FIELD_OF_TENSOR.items()}
    try:
        with whole_file(path) as partial:
            record = profile.record.model_dump_json()
            stored = json.dumps({"digest": _digest(record, profile), "record": record})  # one key, as order is random
            save_file(tensors, partial, metadata={"scantling_profile": stored})
    except SafetensorError as error:
        raise StorageError(f"cannot write {path}: {error}. No half-written file was left.") from error


def write_or_rescue_profile(profile: Profile, path: Path) -> Profile:
    """Save a profile; if that fails, rescue the finished work to a temporary folder and say so in the error."""
    try:
        return profile.save(path)
    except ScantlingError as error:
        rescued = Path(tempfile.mkdtemp(prefix="scantling-")) / path.name
        write_profile(profile, rescued)
        raise StorageError(f"{error} The finished profile was kept as {rescued}.") from error


def read_profile(path: Path) -> Profile:
    """Read a profile; refuse a file that is missing, damaged, or not a profile of this version."""
    if not path.is_file():
        raise FileFormatError(f"there is no profile {path}. Write one with: scantling profile MODEL -o {path}")
    try:
        with safe_open(path, framework="np") as opened:
            raw = (opened.metadata() or {}).get("scantling_profile")
            if raw is None:
                raise FileFormatError(
                    f"{path} is a safetensors file but not a profile. Write one with: scantling profile"
                )
            stored = json.loads(raw)
            record = ProfileRecord.model_validate(json.loads(stored["record"]), strict=False)
            profile = Profile(record, *(opened.get_tensor(name) for name in _FIELD_OF_TENSOR))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else error
        raise FileFormatError(f"{path} is damaged or not a profile of version {PROFILE_VERSION}: {detail}") from error
    if stored.get("digest") != _digest(stored["record"], profile):
        raise FileFormatError(
            f"{path} is damaged or was edited by hand: it does not match its digest. Profile the model again."
        )
    _validate_consistency(profile, path)
    return replace(profile, origin=ProfileOrigin(path, file_sha256(path)))


def _digest(record: str, profile: Profile) -> str:
    """Hash the record and the tensors."""
    digest = hashlib.sha256(record.encode())
    for name, attribute in _FIELD_OF_TENSOR.items():
        tensor: NDArray[np.generic] = getattr(profile, attribute)
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _validate_consistency(profile: Profile, path: Path) -> None:
    record, samples = profile.record, profile.measured_samples
    offered = np.zeros(samples.shape[:2], dtype=bool)
    counts = [record.domain_of_sequence.count(k) for k in range(len(record.domains))]
    if record.domains and (len(set(counts)) != 1 or sum(counts) != samples.shape[-1] or not counts[0]):
        raise FileFormatError(f"{path} is damaged: its domains have different numbers of samples.")
    shape = (len(record.layers), len(record.formats))
    if samples.ndim != 3 or samples.shape[:2] != shape or samples.shape[2] < 1:
        raise FileFormatError(f"{path} is damaged: samples of shape {samples.shape} for {shape} layers and formats.")
    for index, layer in enumerate(record.layers):
        if any(not 0 <= target < shape[1] for target in layer.formats) or len(layer.formats) != len(layer.stored_bytes):
            raise FileFormatError(f"{path} is damaged: the formats of {layer.name} do not match the profile's list.")
        offered[index, list(layer.formats)] = True
    if not bool(np.isfinite(samples[offered]).all()):
        raise FileFormatError(f"{path} is damaged: some of its prices are not finite. Profile the model again.")


def decided_layers(profile: Profile) -> list[LayerRecord]:
    """List the layers that the program decides."""
    return [layer for layer in profile.record.layers if layer.is_decided]


def uniform_formats(profile: Profile, target: str) -> dict[str, str]:
    """Give one format to all layers that the program decides; the others keep theirs.

    Args:
        profile: the profile.
        target: a format's name, or a width such as ``3`` for the first format of that width in the profile.

    Returns:
        The format of every layer.

    Raises:
        InputError: the profile does not offer that format to every decided layer.
    """
    available = profile.record.formats
    if target.isdigit():
        matching = [name for name in available if parse_format(name).bits == int(target)]
    else:
        matching = [name for name in available if name == target or name == target.upper()]
    if not matching:
        raise InputError(f"the profile has no uniform {target!r}. It has the formats: {', '.join(available)}.")
    position = available.index(matching[0])
    for layer in profile.record.layers:
        if layer.is_decided and position not in layer.formats:
            raise InputError(
                f"no plan is uniform in {matching[0]}: it does not fit {layer.name}, which is {layer.in_features} "
                f"wide. Formats that do: {', '.join(available[index] for index in layer.formats)}."
            )
    return {
        layer.name: matching[0] if layer.is_decided else available[layer.formats[0]] for layer in profile.record.layers
    }
