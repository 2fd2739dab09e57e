"""Extending a profile by formats, pricing sequences or domains, without pricing anything again.

Prices are kept. Rounding is repeated, which is deterministic since the rounding sequences stay the same. The stopping
rule is built on this: price more sequences until predictions are accurate enough.

Knows nothing about how prices are measured.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..common.errors import CalibrationError, InputError
from ..common.progress import Progress
from ..models.layers import Layer, find_layers
from ..models.loading import LoadedModel
from ..quantization.formats import Format, parse_format
from ..quantization.methods import rounding_method
from .calibration.capture import LabelDraws
from .calibration.resume_cache import resume_cache_folder
from .domains import Domain, domain_records, further_sequences
from .measure import MeasuredCosts, MeasurementRequest, measure
from .profile import Profile, decided_layers, uniform_formats
from .profile_record import DomainRecord, LayerRecord
from .profiling import ProfileSettings, as_array, layer_record, with_coverage
from .round_model import validate_groups

_MOST_ROUNDS = 4
_MARGIN = 1.05


@dataclass(frozen=True)
class Extension:
    """Extends profiles of one model; the resume cache lies beside ``output``, where the profile will be written."""

    loaded: LoadedModel
    output: Path
    progress: Progress

    def require_same_settings(self, profile: Profile, settings: ProfileSettings) -> None:
        """Refuse settings under which new prices would not be comparable to those of the profile."""
        record = profile.record
        if settings.rounding.input_scaling is not None:
            raise InputError(
                f"a profile rounded by {record.rounding['method']} cannot be extended: its scales depend on all "
                "of its formats and sequences. Make a new profile."
            )
        pairs = {
            "estimator": (record.estimator, settings.estimator),
            "length": (record.sequence_length, settings.sequence_length),
            "seed": (record.seed, settings.seed),
            "label-draws": (record.num_label_draws, settings.num_label_draws),
            "sequences": (len(profile.rounding_token_ids), settings.num_rounding_sequences),
            "rounding": (record.rounding, settings.rounding.describe()),
        }
        for option, (was, now) in pairs.items():
            if was != now:
                raise InputError(
                    f"the profile was made with --{option} {was}, and {now} was asked for now: their prices are not "
                    "comparable. Use the same value, or make a new profile."
                )

    def by_formats(self, profile: Profile, names: Sequence[str]) -> Profile:
        """Price further formats on the sequences of a profile; those that it has already are kept as they are."""
        wanted = dict.fromkeys(parse_format(name) for name in names)
        new = [target for target in wanted if target.name not in profile.format_index]
        if not new:
            return profile
        layers = self._layers(profile)
        decided = {layer.name for layer in decided_layers(profile)}
        validate_groups([layer for layer in layers if layer.name in decided], dict.fromkeys(decided, new))
        offered = {layer.name: new if layer.name in decided else self._formats(profile, layer.name) for layer in layers}
        pricing_ids = torch.from_numpy(profile.pricing_token_ids)
        measured = self._measure(profile, pricing_ids, offered, 0)
        all_names = [*profile.record.formats, *(target.name for target in new)]
        records = [
            layer_record(
                layer, [*self._formats(profile, layer.name), *(new if layer.name in decided else [])], all_names
            )
            for layer in layers
        ]
        counted = with_coverage(records, measured.coverage, (profile.rounding_token_ids.size, pricing_ids.numel()))
        record = profile.record.model_copy(update={"formats": tuple(all_names), "layers": counted})
        grown = as_array(record, measured.samples)
        grown[:, : len(profile.record.formats)] = profile.measured_samples
        return replace(profile, record=record, measured_samples=grown, origin=None)

    def by_sequences(self, profile: Profile, domains: Sequence[Domain], num_sequences: int) -> Profile:
        """Price all formats on further sequences, up to a number for every domain; domains may be added.

        Args:
            profile: the profile.
            domains: all domains, those of the profile first and with the same texts.
            num_sequences: of every domain.

        Returns:
            The larger profile.

        Raises:
            InputError: a domain is missing or has another text, or has more sequences already.
        """
        counts = self._counts(profile, domains)
        if max(counts) > num_sequences:
            raise InputError(
                f"the profile has {max(counts)} pricing sequences in a domain already, and none are removed; "
                f"{num_sequences} were asked for. Ask for at least {max(counts)}."
            )
        missing = [num_sequences - count for count in counts]
        if not any(missing):
            return profile
        token_ids = self._further_sequences(profile, domains, missing)
        offered = {layer.name: self._formats(profile, layer.name) for layer in profile.record.layers}
        measured = self._measure(profile, token_ids, offered, profile.num_samples)
        positions = [k for k, number in enumerate(missing) for _ in range(number)]
        several = len(domains) > 1
        record = profile.record.model_copy(
            update={
                "domains": domain_records(domains) if several else (),
                "domain_of_sequence": (*profile.domain_of_sample.tolist(), *positions) if several else (),
                "layers": _with_further_coverage(profile, measured, token_ids),
            }
        )
        new = as_array(record, measured.samples)
        return replace(
            profile,
            record=record,
            measured_samples=np.concatenate([profile.measured_samples, new], axis=2),
            pricing_token_ids=np.concatenate([profile.pricing_token_ids, token_ids.numpy()]),
            origin=None,
        )

    def _further_sequences(self, profile: Profile, domains: Sequence[Domain], missing: Sequence[int]) -> torch.Tensor:
        """Cut the missing sequences of every domain, none of them used before."""
        used = torch.from_numpy(np.concatenate([profile.rounding_token_ids, profile.pricing_token_ids]))
        length = profile.record.sequence_length
        return torch.cat([
            further_sequences(self.loaded.tokenizer, domain, used, number, length)
            for domain, number in zip(domains, missing, strict=True)
            if number
        ])

    def until(
        self, profile: Profile, domains: Sequence[Domain], target: float, report: Callable[[str], None]
    ) -> Profile:
        """Price further sequences until uniform plans are predicted accurately.

        Args:
            profile: the profile.
            domains: its domains.
            target: the relative standard error to reach, such as 0.05.
            report: is told how the error falls.

        Returns:
            The larger profile.

        Raises:
            InputError: the target is not between 0 and 1.
        """
        if not 0 < target < 1:
            raise InputError(
                f"the relative error to reach must be between 0% and 100%, got {target:.0%}. Give one such as 5%."
            )
        for _ in range(_MOST_ROUNDS):
            error, per_domain = relative_error(profile), profile.num_samples // len(domains)
            wanted = math.ceil(per_domain * (error / target) ** 2 * _MARGIN)
            report(
                f"{per_domain} pricing sequences: uniform plans are predicted to ±{error:.1%}"
                + ("" if error <= target else f"; ±{target:.1%} takes about {wanted}.")
            )
            if error <= target:
                return profile
            profile = self.by_sequences(profile, domains, min(wanted, 4 * per_domain))
        report(f"stopped at ±{relative_error(profile):.1%} after {_MOST_ROUNDS} rounds.")
        return profile

    def _layers(self, profile: Profile) -> list[Layer]:
        layers = list(find_layers(self.loaded.model).layers)
        profile.require_same_model(self.loaded.sha256, [layer.name for layer in layers])
        return layers

    def _formats(self, profile: Profile, layer: str) -> list[Format]:
        record = profile.record.layers[profile.layer_index[layer]]
        return [parse_format(profile.record.formats[position]) for position in record.formats]

    def _counts(self, profile: Profile, domains: Sequence[Domain]) -> list[int]:
        """Count each domain's sequences; refuse domains that do not begin with those of the profile."""
        known = profile.record.domains or (
            DomainRecord(
                name=domains[0].name, text_source=profile.record.text_source, text_sha256=profile.record.text_sha256
            ),
        )
        positions = profile.domain_of_sample.tolist()
        for k, record in enumerate(known):
            if k >= len(domains) or (record.name, record.text_sha256) != (domains[k].name, domains[k].text.sha256):
                raise InputError(
                    f"the profile's domain {record.name!r} is text from {record.text_source} "
                    f"({record.text_sha256[:12]}…), which was not given, or not in its place. Give the profile's texts "
                    "first, in their order, then new ones."
                )
        return [positions.count(k) for k in range(len(domains))]

    def _measure(
        self, profile: Profile, token_ids: torch.Tensor, offered: dict[str, list[Format]], first: int
    ) -> MeasuredCosts:
        record = profile.record
        self._layers(profile)
        request = MeasurementRequest(
            loaded=self.loaded,
            rounding_ids=torch.from_numpy(profile.rounding_token_ids),
            pricing_ids=token_ids,
            offered=offered,
            decided=tuple(layer.name for layer in record.layers if layer.is_decided),
            estimator=record.estimator,
            rounding=rounding_method(record.rounding),
            draws=LabelDraws(record.seed, record.num_label_draws, first),
        )
        return measure(request, resume_cache_folder(self.output) / f"from-{first}-{len(token_ids)}", self.progress)


def _with_further_coverage(
    profile: Profile, measured: MeasuredCosts, token_ids: torch.Tensor
) -> tuple[LayerRecord, ...]:
    """Add the tokens of further sequences to the coverage of each expert."""
    before = {layer.name: layer.coverage for layer in profile.record.layers}
    coverage = {
        name: was.plus(further) for name, further in measured.coverage.items() if (was := before[name]) is not None
    }
    num_pricing_tokens = profile.pricing_token_ids.size + token_ids.numel()
    return with_coverage(profile.record.layers, coverage, (profile.rounding_token_ids.size, num_pricing_tokens))


def parse_share(text: str) -> float:
    """Parse a percentage.

    Args:
        text: such as ``5%``.

    Returns:
        The number.

    Raises:
        InputError: it is not a percentage.

    >>> parse_share("2.5%")
    0.025
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if found is None:
        raise InputError(f"{text!r} is not a percentage. Write one such as 5%.")
    return float(found.group(1)) / 100


def relative_error(profile: Profile) -> float:
    """Give the largest relative standard error of a prediction for a uniform plan below 16 bits.

    Args:
        profile: the profile.

    Returns:
        The largest over all formats that every decided layer is offered.

    Raises:
        CalibrationError: there is only one pricing sequence.
    """
    if profile.num_samples < 2:
        raise CalibrationError("one pricing sequence has no standard error. Ask for --pricing-sequences 8 or more.")
    errors = [0.0]
    for target, name in enumerate(profile.record.formats):
        if parse_format(name).bits < 16 and all(target in layer.formats for layer in decided_layers(profile)):
            predicted, error = profile.predict(uniform_formats(profile, name))
            if error is not None and predicted > 0:
                errors.append(error / predicted)
    return max(errors)
