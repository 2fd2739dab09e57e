"""The profile: what every format of every layer costs, and all that solving and rounding again need.

One safetensors file: the record as JSON in its metadata, and the tensors ``samples`` (float64 [layers, formats,
samples], NaN where a layer is not offered a format), ``rounding_token_ids`` and ``pricing_token_ids`` (int64
[sequences, tokens]).

Knows nothing about how the samples were measured.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..solver.atomic import whole_file
from ..solver.errors import ScantlingError
from ..solver.plan import Finite, Record

PROFILE_VERSION: Final = 1
_TENSORS = ("samples", "rounding_token_ids", "pricing_token_ids")


class LayerRecord(Record):
    """One layer.

    Attributes:
        name: its module's path.
        kind: the path inside its block, or ``embedding``, ``head``.
        block: the index of its block; None outside the blocks.
        out_features: rows of its matrix.
        in_features: columns.
        formats: the formats offered, as positions in the profile's list.
        stored_bytes: what each of them takes, in the same order.
        read_share: of the tokens that it is read for, below 1 for a routed expert; None where it was not measured.
    """

    name: str
    kind: str
    block: int | None
    out_features: int
    in_features: int
    formats: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    read_share: Finite | None = None

    @property
    def num_weights(self) -> int:
        """Entries of the matrix."""
        return self.out_features * self.in_features


class ProfileRecord(Record):
    """What the profile says beside its tensors.

    Attributes:
        profile_version: of this layout.
        scantling_version: that wrote it.
        model_source: where the model was loaded from.
        model_sha256: of its weights.
        text_source: the calibration text.
        text_sha256: of its documents, evaluation part included.
        sequence_length: tokens per sequence.
        seed: of sampled labels and probes.
        estimator: its name.
        rounding: method and settings.
        calibration_perplexity: of the original model on the rounding sequences.
        formats: names of all formats.
        layers: the layers.
        other_bytes: of the parameters outside the layers, in 16 bits.
        config: numbers of the model's config that the KV cache depends on; None in older profiles.
    """

    profile_version: Literal[1] = PROFILE_VERSION
    scantling_version: str
    model_source: str
    model_sha256: str
    text_source: str
    text_sha256: str
    sequence_length: int
    seed: int
    estimator: str
    rounding: dict[str, str | float | bool]
    calibration_perplexity: Finite
    formats: tuple[str, ...]
    layers: tuple[LayerRecord, ...]
    other_bytes: int
    config: dict[str, int | float | str | bool | tuple[str, ...] | None] | None = None


@dataclass(frozen=True)
class Profile:
    """The record and its tensors.

    Attributes:
        record: see ProfileRecord.
        samples: float64 [layers, formats, samples], in nats per token. A layer with a single format is not priced: its
            samples are zero, and its rounding to 16 bits is part of measured losses but not of predicted ones.
        rounding_token_ids: what formats are fitted to, int64 [sequences, tokens].
        pricing_token_ids: what their loss increase was measured on, likewise.
    """

    record: ProfileRecord
    samples: NDArray[np.float64]
    rounding_token_ids: NDArray[np.int64]
    pricing_token_ids: NDArray[np.int64]

    @cached_property
    def layer_index(self) -> dict[str, int]:
        """The position of every layer by its name."""
        return {layer.name: index for index, layer in enumerate(self.record.layers)}

    @cached_property
    def format_index(self) -> dict[str, int]:
        """The position of every format by its name."""
        return {name: index for index, name in enumerate(self.record.formats)}

    def loss_increase_nats(self, layer: int, target: int) -> float:
        """Give c(l, f).

        Args:
            layer: position of the layer.
            target: position of the format.

        Returns:
            The mean of the samples.
        """
        return float(self.samples[layer, target].mean())

    def predict(self, formats: dict[str, str]) -> tuple[float, float | None]:
        """Predict the loss increase of a whole assignment.

        Args:
            formats: the format of every layer.

        Returns:
            Σ c(l, f) in nats per token, and its standard error over the samples (None with a single one). Layers are
            summed within a sample before samples are compared, so that what they share is in the error.

        Raises:
            ScantlingError: a layer or a format that is not in the profile.
        """
        chosen = []
        for layer, index in self.layer_index.items():
            target = self.format_index.get(formats.get(layer, ""))
            if target is None or target not in self.record.layers[index].formats:
                raise ScantlingError(
                    f"the profile has no price for {layer} in {formats.get(layer)!r}. "
                    f"It has: {', '.join(self.record.formats[f] for f in self.record.layers[index].formats)}."
                )
            chosen.append(self.samples[index, target])
        totals = np.sum(chosen, axis=0)
        error = float(totals.std(ddof=1)) / math.sqrt(len(totals)) if len(totals) > 1 else None
        return math.fsum(float(samples.mean()) for samples in chosen), error

    def stored_bytes(self, formats: dict[str, str]) -> int:
        """Count the bytes of a whole assignment.

        Args:
            formats: the format of every layer.

        Returns:
            Bytes of all tensors of the checkpoint.
        """
        total = self.record.other_bytes
        for layer in self.record.layers:
            total += layer.stored_bytes[layer.formats.index(self.format_index[formats[layer.name]])]
        return total

    def refuse_other_model(self, model_sha256: str, layer_names: Sequence[str]) -> None:
        """Refuse a model that this profile was not made of.

        Args:
            model_sha256: of the model's weights.
            layer_names: of the model's layers.

        Raises:
            ScantlingError: it is another model.
        """
        if list(layer_names) != [layer.name for layer in self.record.layers]:
            raise ScantlingError(
                f"the profile is of {self.record.model_source!r}, whose layers are not those of this model. "
                "Name the model that was profiled, or profile this one."
            )
        if model_sha256 != self.record.model_sha256:
            raise ScantlingError(
                f"the profile is of {self.record.model_source!r} with weights {self.record.model_sha256[:12]}…, this "
                f"model has {model_sha256[:12]}…. Name the model that was profiled, or profile this one."
            )


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all; the same profile gives the same bytes.

    Args:
        profile: the profile.
        path: the file, replaced where it exists.

    Raises:
        ScantlingError: the disk refused the write.
    """
    tensors = {name: getattr(profile, name) for name in _TENSORS}
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata={"scantling_profile": profile.record.model_dump_json()})
    except SafetensorError as error:
        raise ScantlingError(f"cannot write {path}: {error}. No half-written file was left.") from error


def write_or_rescue_profile(profile: Profile, path: Path) -> None:
    """Write a profile; where that fails, keep the finished work in the system's folder for temporary files.

    Args:
        profile: the profile.
        path: the file, replaced where it exists.

    Raises:
        ScantlingError: the profile could not be written there; the message says where it was kept, if anywhere.
    """
    try:
        write_profile(profile, path)
    except ScantlingError as error:
        rescued = Path(tempfile.mkdtemp(prefix="scantling-")) / path.name
        write_profile(profile, rescued)
        raise ScantlingError(f"{error} The finished profile was kept as {rescued}.") from error


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Args:
        path: the file.

    Returns:
        The profile.

    Raises:
        ScantlingError: there is no such file, or it is damaged, or not a profile of this version.
    """
    if not path.is_file():
        raise ScantlingError(f"there is no profile {path}. Write one with: scantling profile MODEL -o {path}")
    try:
        with safe_open(path, framework="np") as opened:
            raw = (opened.metadata() or {}).get("scantling_profile")
            if raw is None:
                raise ScantlingError(
                    f"{path} is a safetensors file but not a profile. Write one with: scantling profile"
                )
            record = ProfileRecord.model_validate(json.loads(raw), strict=False)
            profile = Profile(record, *(opened.get_tensor(name) for name in _TENSORS))
    except (SafetensorError, OSError, ValueError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else error
        raise ScantlingError(f"{path} is damaged or not a profile of version {PROFILE_VERSION}: {detail}") from error
    _refuse_inconsistent(profile, path)
    return profile


def _refuse_inconsistent(profile: Profile, path: Path) -> None:
    record, samples = profile.record, profile.samples
    offered = np.zeros(samples.shape[:2], dtype=bool)
    shape = (len(record.layers), len(record.formats))
    if samples.ndim != 3 or samples.shape[:2] != shape or samples.shape[2] < 1:
        raise ScantlingError(f"{path} is damaged: samples of shape {samples.shape} for {shape} layers and formats.")
    for index, layer in enumerate(record.layers):
        if any(not 0 <= target < shape[1] for target in layer.formats) or len(layer.formats) != len(layer.stored_bytes):
            raise ScantlingError(f"{path} is damaged: the formats of {layer.name} do not match the profile's list.")
        offered[index, list(layer.formats)] = True
    if not bool(np.isfinite(samples[offered]).all()):
        raise ScantlingError(f"{path} is damaged: it has prices that are not numbers. Profile the model again.")
