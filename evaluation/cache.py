"""Measurements that are kept: one small file for every plan and domain, found again by what decides its values.

A run that is killed at any moment loses at most the measurements that it was in the middle of.

Knows nothing about ladders or factors.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError

from ..common.errors import ScantlingError
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
    """One measurement, as its file holds it; see Quality.

    Attributes:
        key: a hash of what decides the values.
        name: of the plan, for a person who looks.
        domain: likewise.
        kl_nats: by sequence.
        negative_log_likelihood_nats: likewise.
        top1_agreement: likewise.
        next_token_accuracy: likewise.
        flips: likewise.
    """

    key: str
    name: str
    domain: str
    kl_nats: tuple[Finite, ...]
    negative_log_likelihood_nats: tuple[Finite, ...]
    top1_agreement: tuple[Finite, ...]
    next_token_accuracy: tuple[Finite, ...]
    flips: tuple[Finite, ...]

    def quality(self) -> Quality:
        """Give the measurement.

        Returns:
            The values by sequence.
        """
        return Quality(
            self.kl_nats, self.negative_log_likelihood_nats, self.top1_agreement, self.next_token_accuracy, self.flips
        )


def formats_sha256(formats: Formats) -> str:
    """Hash the format of every layer.

    Args:
        formats: by layer.

    Returns:
        SHA-256 in hexadecimal; the order of the layers does not matter.
    """
    return hashlib.sha256(json.dumps(sorted(formats.items())).encode()).hexdigest()


@dataclass(frozen=True)
class MeasurementCache:
    """Measures plans of one profile, and keeps what was measured.

    Attributes:
        loaded: the model.
        profile: of this model.
        domains: what is measured on.
        inputs: what layers are rounded against; see final_rounding.
        folder: where measurements are kept; made when it is needed.
        progress: shows how far the work is.
    """

    loaded: LoadedModel
    profile: Profile
    domains: tuple[EvaluationDomain, ...]
    inputs: str
    folder: Path
    progress: Progress

    def measure(self, plans: Mapping[str, Formats]) -> QualityOf:
        """Measure plans, and the original, or find what was measured before.

        Args:
            plans: the format of every layer, by the plan's name.

        Returns:
            For every plan and for ``original`` the quality on every domain.

        Raises:
            ScantlingError: a plan is called ``original``.
        """
        if ORIGINAL in plans:
            raise ScantlingError("a plan cannot be called 'original'. Rename its file.")
        different = {formats_sha256(formats): name for name, formats in reversed(list(plans.items()))}
        missing = {name: plans[name] for name in different.values() if not self._stand_there(plans[name])}
        if missing or not self._stand_there(None):
            self._measure(missing)
        found = {name: self._found(name, formats) for name, formats in plans.items()}
        return {ORIGINAL: self._found(ORIGINAL, None), **found}

    def _measure(self, missing: Mapping[str, Formats]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ScantlingError(
                f"cannot make the folder {self.folder} for measurements: {error.strerror}. Name another with --cache."
            ) from error
        rounded = round_as_shipped(self.loaded, self.profile, missing, self.inputs, self.progress) if missing else {}
        names = list(missing)
        groups = [names[start : start + _AT_ONCE] for start in range(0, max(len(names), 1), _AT_ONCE)]
        for domain in self.domains:
            for group in groups:
                candidates = {name: rounded[name] for name in group}
                measured = measure_candidates(self.loaded.model, candidates, domain.token_ids, self.progress)
                self._keep(ORIGINAL, None, domain, measured[ORIGINAL])
                for name in group:
                    self._keep(name, missing[name], domain, measured[name])

    def _keep(self, name: str, formats: Formats | None, domain: EvaluationDomain, quality: Quality) -> None:
        key = self._key(formats, domain)
        kept = CachedQuality(key=key, name=name, domain=domain.name, **asdict(quality))
        with whole_file(self._file(key)) as partial:
            partial.write_text(kept.model_dump_json(), encoding="utf-8")

    def _stand_there(self, formats: Formats | None) -> bool:
        return all(self._file(self._key(formats, domain)).is_file() for domain in self.domains)

    def _found(self, name: str, formats: Formats | None) -> dict[str, Quality]:
        return {
            domain.name: self._read(name, self._key(formats, domain), len(domain.token_ids)) for domain in self.domains
        }

    def _read(self, name: str, key: str, num_sequences: int) -> Quality:
        path = self._file(key)
        try:
            kept = CachedQuality.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise ScantlingError(
                f"the measurement {path} of {name} is damaged. Remove it and measure again."
            ) from error
        quality = kept.quality()
        if kept.key != key or any(len(values) != num_sequences for values in asdict(quality).values()):
            raise ScantlingError(f"{path} is the measurement of something else than {name}. Remove it.")
        return quality

    def _file(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.json"

    def _key(self, formats: Formats | None, domain: EvaluationDomain) -> str:
        record = self.profile.record
        decides = {
            "model": record.model_sha256,
            "tokens": domain.tokens_sha256,
            "torch": torch.__version__.split("+")[0],
        }
        if formats is not None:
            decides |= {
                "formats": formats_sha256(formats),
                "rounding": json.dumps(record.rounding, sort_keys=True),
                "fitted_to": hashlib.sha256(self.profile.rounding_token_ids.tobytes()).hexdigest(),
                "offered": ",".join(record.formats),
                "inputs": self.inputs,
            }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
