"""A cache of measurements: one small file for every plan and domain, found again by what determines its values.

A run that is killed loses at most the measurements in progress.

Knows nothing about sweeps or factors.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from pydantic import AliasChoices, Field, ValidationError

from ..common.errors import FileFormatError, InputError, StorageError
from ..common.files import whole_file
from ..common.progress import Progress
from ..common.records import Finite, Record
from ..models.loading import LoadedModel
from ..sensitivity.profile import Profile
from ..sensitivity.sequential_rounding import round_as_shipped
from .quality import Quality, measure_candidates
from .text import EvaluationDomain

ORIGINAL: Final = "original"
_AT_ONCE = 5  # plans measured together share one run of the original; killed together they are lost together

Formats = Mapping[str, str]
QualityOf = dict[str, dict[str, Quality]]


class CachedQuality(Record):
    """One measurement, as its file holds it; see Quality. Version 0.1 called the domain ``load_case``; that is read.

    Attributes:
        key: a hash of what determines the values.
        name: of the plan, for people who look into the file.
        domain: likewise.
        kl_nats: by sequence.
        negative_log_likelihood_nats: likewise.
        top1_agreement: likewise.
        next_token_accuracy: likewise.
        flips: likewise.
    """

    key: str
    name: str
    domain: str = Field(validation_alias=AliasChoices("domain", "load_case"))
    kl_nats: tuple[Finite, ...]
    negative_log_likelihood_nats: tuple[Finite, ...]
    top1_agreement: tuple[Finite, ...]
    next_token_accuracy: tuple[Finite, ...]
    flips: tuple[Finite, ...]

    def quality(self) -> Quality:
        """Give the measured values by sequence."""
        return Quality(
            self.kl_nats, self.negative_log_likelihood_nats, self.top1_agreement, self.next_token_accuracy, self.flips
        )


def formats_sha256(formats: Formats) -> str:
    """Hash the format of every layer: SHA-256 in hexadecimal, whatever the order of the layers."""
    return hashlib.sha256(json.dumps(sorted(formats.items())).encode()).hexdigest()


@dataclass(frozen=True)
class MeasurementCache:
    """Measures plans of one profile, each only once.

    Attributes:
        loaded: the model.
        profile: of this model.
        domains: the text to measure on.
        inputs: what layers are rounded against; see sensitivity/sequential_rounding.py.
        folder: of the cache; created when needed.
        progress: shows how far the work is.
    """

    loaded: LoadedModel
    profile: Profile
    domains: tuple[EvaluationDomain, ...]
    inputs: str
    folder: Path
    progress: Progress

    def measure(self, plans: Mapping[str, Formats]) -> QualityOf:
        """Measure plans and the original, except what is in the cache.

        Args:
            plans: the format of every layer, by the plan's name.

        Returns:
            For every plan and for ``original`` the quality on every domain.

        Raises:
            InputError: a plan is called ``original``.
        """
        if ORIGINAL in plans:
            raise InputError("a plan cannot be called 'original'. Rename its file.")
        different = {formats_sha256(formats): name for name, formats in reversed(list(plans.items()))}
        missing = {name: plans[name] for name in different.values() if not self._has(plans[name])}
        if missing or not self._has(None):
            self._measure(missing)
        found = {name: self._found(name, formats) for name, formats in plans.items()}
        return {ORIGINAL: self._found(ORIGINAL, None), **found}

    def _measure(self, missing: Mapping[str, Formats]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot create the folder {self.folder} for measurements: {error.strerror}. Name another with --cache."
            ) from error
        rounded = round_as_shipped(self.loaded, self.profile, missing, self.inputs, self.progress) if missing else {}
        names = list(missing)
        groups = [names[start : start + _AT_ONCE] for start in range(0, max(len(names), 1), _AT_ONCE)]
        for domain in self.domains:
            for group in groups:
                candidates = {name: rounded[name] for name in group}
                measured = measure_candidates(self.loaded.model, candidates, domain.token_ids, self.progress)
                self._store(ORIGINAL, None, domain, measured[ORIGINAL])
                for name in group:
                    self._store(name, missing[name], domain, measured[name])

    def _store(self, name: str, formats: Formats | None, domain: EvaluationDomain, quality: Quality) -> None:
        key = self._key(formats, domain)
        cached = CachedQuality(key=key, name=name, domain=domain.name, **asdict(quality))
        with whole_file(self._file(key)) as partial:
            partial.write_text(cached.model_dump_json(), encoding="utf-8")

    def _has(self, formats: Formats | None) -> bool:
        return all(self._file(self._key(formats, domain)).is_file() for domain in self.domains)

    def _found(self, name: str, formats: Formats | None) -> dict[str, Quality]:
        return {
            domain.name: self._read(name, self._key(formats, domain), len(domain.token_ids)) for domain in self.domains
        }

    def _read(self, name: str, key: str, num_sequences: int) -> Quality:
        path = self._file(key)
        try:
            cached = CachedQuality.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise FileFormatError(
                f"the measurement {path} of {name} is damaged. Remove it and measure again."
            ) from error
        quality = cached.quality()
        if cached.key != key or any(len(values) != num_sequences for values in asdict(quality).values()):
            raise FileFormatError(f"{path} is the measurement of something else than {name}. Remove it.")
        return quality

    def _file(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.json"

    def _key(self, formats: Formats | None, domain: EvaluationDomain) -> str:
        record = self.profile.record
        determined_by = {
            "model": record.model_sha256,
            "tokens": domain.tokens_sha256,
            "torch": torch.__version__.split("+")[0],
        }
        if formats is not None:
            determined_by |= {
                "formats": formats_sha256(formats),
                "rounding": json.dumps(record.rounding, sort_keys=True),
                "fitted_to": hashlib.sha256(self.profile.rounding_token_ids.tobytes()).hexdigest(),
                "offered": ",".join(record.formats),
                "inputs": self.inputs,
            }
        return hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()
