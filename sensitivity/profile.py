"""The profile: what every format of every layer costs, and all that solving and rounding again need.

One safetensors file: in its metadata the record as JSON and a digest of everything, and the tensors ``samples``
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
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..common.errors import ScantlingError
from ..common.files import file_sha256, whole_file
from ..common.records import Finite, Record, VersionedRecord
from ..quantization.formats import parse_format
from .calibration.expert_coverage import ExpertCoverage
from .expert_imputation import with_imputed_prices

PROFILE_VERSION: Final = 3
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
        num_rounding_tokens: how many tokens of the rounding sequences reached it; None for a layer that is no expert.
        num_pricing_tokens: of the pricing sequences, likewise; None also where the estimator does not follow tokens.
            Where no token came, the samples are zero: what the layer costs on this text. What it costs on other text is
            not known, and its price is borrowed.
    """

    name: str
    kind: str
    block: int | None
    out_features: int
    in_features: int
    formats: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    read_share: Finite | None = None
    num_rounding_tokens: int | None = None
    num_pricing_tokens: int | None = None

    @property
    def coverage(self) -> ExpertCoverage | None:
        """How many tokens reached the layer; None for one that is no expert."""
        return (
            None
            if self.num_rounding_tokens is None
            else ExpertCoverage(self.num_rounding_tokens, self.num_pricing_tokens)
        )

    @property
    def num_weights(self) -> int:
        """Entries of the matrix."""
        return self.out_features * self.in_features


class DomainRecord(Record):
    """A domain of text on which the loss increase was measured.

    Attributes:
        name: as the user calls it.
        text_source: where its text came from.
        text_sha256: of its documents, evaluation part included.
    """

    name: str
    text_source: str
    text_sha256: str


class RegimeRecord(Record):
    """Whether the model worked as it was trained to while it was measured; see the module regime.

    Attributes:
        perplexity: on some pricing sequences, which begin as the tokenizer begins a text.
        perplexity_with_bos: the same with a BOS token in front; None where the tokenizer has none or puts it there.
        first_token_share: the share of a change's effect, as the estimator measures it, that comes through the first
            token of a sequence; None where the estimator does not tell.
    """

    perplexity: Finite
    perplexity_with_bos: Finite | None
    first_token_share: Finite | None


class ProfileRecord(VersionedRecord):
    """What the profile says beside its tensors.

    Attributes:
        profile_version: of this layout.
        scantling_version: that wrote it.
        model_source: where the model was loaded from.
        model_sha256: of its weights.
        text_source: the calibration text, of the first domain where there are several.
        text_sha256: of its documents, evaluation part included.
        domains: all of them; none in a profile of a single text.
        domain_of_sequence: for each sample the position of its domain; none in a profile of a single text.
        sequence_length: tokens per sequence.
        seed: of sampled labels and probes.
        estimator: its name.
        num_label_draws: labels sampled on every pricing sequence.
        rounding: method and settings.
        calibration_perplexity: of the original model on the rounding sequences.
        regime: the model's regime; None where it was not looked into.
        formats: names of all formats.
        layers: the layers.
        other_bytes: of the parameters outside the layers, in 16 bits.
        config: numbers of the model's config that the KV cache depends on; None in older profiles.
    """

    version_key: ClassVar[str] = "profile_version"
    version: ClassVar[int] = PROFILE_VERSION
    renamed_keys: ClassVar[Mapping[str, str]] = {"load_cases": "domains", "case_of_sequence": "domain_of_sequence"}

    profile_version: Literal[3] = PROFILE_VERSION
    scantling_version: str
    model_source: str
    model_sha256: str
    text_source: str
    text_sha256: str
    domains: tuple[DomainRecord, ...] = ()
    domain_of_sequence: tuple[int, ...] = ()
    sequence_length: int
    seed: int
    estimator: str
    num_label_draws: int = 1
    rounding: dict[str, str | float | bool]
    calibration_perplexity: Finite
    regime: RegimeRecord | None = None
    formats: tuple[str, ...]
    layers: tuple[LayerRecord, ...]
    other_bytes: int
    config: dict[str, int | float | str | bool | tuple[str, ...] | None] | None = None


@dataclass(frozen=True)
class ProfileOrigin:
    """The file that holds a profile, and its hash."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Profile:
    """The record and its tensors.

    Attributes:
        record: see ProfileRecord.
        samples: float64 [layers, formats, samples], in nats per token. A layer with a single format is not priced: its
            samples are zero, and its rounding to 16 bits is part of measured losses but not of predicted ones. Load
            cases have equally many samples, so that a mean over all samples weighs them equally.
        rounding_token_ids: what formats are fitted to, int64 [sequences, tokens].
        pricing_token_ids: what their loss increase was measured on, likewise.
    """

    record: ProfileRecord
    samples: NDArray[np.float64]
    rounding_token_ids: NDArray[np.int64]
    pricing_token_ids: NDArray[np.int64]
    origin: ProfileOrigin | None = field(default=None, compare=False)

    @classmethod
    def load(cls, path: Path | str) -> "Profile":
        """Read a profile from its file."""
        return read_profile(Path(path))

    def save(self, path: Path | str) -> "Profile":
        """Write the profile; what is returned knows its file."""
        write_profile(self, Path(path))
        return replace(self, origin=ProfileOrigin(Path(path), file_sha256(Path(path))))

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
        """The samples that count: measured, but for experts that calibration hardly reached, which borrow theirs."""
        return with_imputed_prices(self.record.layers, self.samples)

    @property
    def num_samples(self) -> int:
        """Samples of every price."""
        return int(self.samples.shape[2])

    def difference(self, first: Mapping[str, str], second: Mapping[str, str]) -> tuple[float, float | None]:
        """Predict by how much one assignment loses more than another, paired by sample; with its standard error."""
        totals = [
            np.sum([self.prices[i, self.format_index[of[name]]] for name, i in self.layer_index.items()], axis=0)
            for of in (first, second)
        ]
        paired = totals[0] - totals[1]
        error = float(paired.std(ddof=1)) / math.sqrt(len(paired)) if len(paired) > 1 else None
        return float(paired.mean()), error

    @property
    def prices_by_domain(self) -> dict[str, NDArray[np.float64]]:
        """The prices by domain."""
        return self.samples_by_domain

    @cached_property
    def samples_by_domain(self) -> dict[str, NDArray[np.float64]]:
        """The samples by domain, float64 [layers, formats, samples of the case]; a nameless one is ``text``."""
        if not self.record.domains:
            return {"text": self.prices}
        position = np.array(self.record.domain_of_sequence)
        return {domain.name: self.prices[:, :, position == k] for k, domain in enumerate(self.record.domains)}

    def loss_increase_nats(self, layer: int, target: int) -> float:
        """Give c(l, f).

        Args:
            layer: position of the layer.
            target: position of the format.

        Returns:
            The mean of the samples.
        """
        return float(self.prices[layer, target].mean())

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
            chosen.append(self.prices[index, target])
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

    def require_same_model(self, model_sha256: str, layer_names: Sequence[str]) -> None:
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
            record = profile.record.model_dump_json()
            stored = json.dumps({"digest": _digest(record, profile), "record": record})  # one key, as order is random
            save_file(tensors, partial, metadata={"scantling_profile": stored})
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
            stored = json.loads(raw)
            record = ProfileRecord.model_validate(json.loads(stored["record"]), strict=False)
            profile = Profile(record, *(opened.get_tensor(name) for name in _TENSORS))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else error
        raise ScantlingError(f"{path} is damaged or not a profile of version {PROFILE_VERSION}: {detail}") from error
    if stored.get("digest") != _digest(stored["record"], profile):
        raise ScantlingError(
            f"{path} is damaged or was edited by hand: it does not match its digest. Profile the model again."
        )
    _validate_consistency(profile, path)
    return replace(profile, origin=ProfileOrigin(path, file_sha256(path)))


def _digest(record: str, profile: Profile) -> str:
    """Hash everything that a profile says."""
    digest = hashlib.sha256(record.encode())
    for name in _TENSORS:
        tensor: NDArray[np.generic] = getattr(profile, name)
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _validate_consistency(profile: Profile, path: Path) -> None:
    record, samples = profile.record, profile.samples
    offered = np.zeros(samples.shape[:2], dtype=bool)
    counts = [record.domain_of_sequence.count(k) for k in range(len(record.domains))]
    if record.domains and (len(set(counts)) != 1 or sum(counts) != samples.shape[-1] or not counts[0]):
        raise ScantlingError(f"{path} is damaged: its domains do not share its samples equally.")
    shape = (len(record.layers), len(record.formats))
    if samples.ndim != 3 or samples.shape[:2] != shape or samples.shape[2] < 1:
        raise ScantlingError(f"{path} is damaged: samples of shape {samples.shape} for {shape} layers and formats.")
    for index, layer in enumerate(record.layers):
        if any(not 0 <= target < shape[1] for target in layer.formats) or len(layer.formats) != len(layer.stored_bytes):
            raise ScantlingError(f"{path} is damaged: the formats of {layer.name} do not match the profile's list.")
        offered[index, list(layer.formats)] = True
    if not bool(np.isfinite(samples[offered]).all()):
        raise ScantlingError(f"{path} is damaged: it has prices that are not numbers. Profile the model again.")


def decided_layers(profile: Profile) -> list[LayerRecord]:
    """List the layers with more than one format.

    Args:
        profile: the profile.

    Returns:
        The layers that the program decides.
    """
    return [layer for layer in profile.record.layers if len(layer.formats) > 1]


def uniform_formats(profile: Profile, target: str) -> dict[str, str]:
    """Give one format to all layers that the program decides; the others keep theirs.

    Args:
        profile: the profile.
        target: a format's name, or a width such as ``3``, which means the first format of that width in the profile.

    Returns:
        The format of every layer.

    Raises:
        ScantlingError: the profile has no such format, or not for every layer.
    """
    available = profile.record.formats
    if target.isdigit():
        matching = [name for name in available if parse_format(name).bits == int(target)]
    else:
        matching = [name for name in available if name == target or name == target.upper()]
    if not matching:
        raise ScantlingError(f"the profile has no uniform {target!r}. It has the formats: {', '.join(available)}.")
    position = available.index(matching[0])
    for layer in profile.record.layers:
        if len(layer.formats) > 1 and position not in layer.formats:
            raise ScantlingError(
                f"no plan is uniform in {matching[0]}: it does not fit {layer.name}, which is {layer.in_features} "
                f"wide. Formats that do: {', '.join(available[index] for index in layer.formats)}."
            )
    return {
        layer.name: matching[0] if len(layer.formats) > 1 else available[layer.formats[0]]
        for layer in profile.record.layers
    }
