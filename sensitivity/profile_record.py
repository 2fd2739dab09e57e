"""What a profile says beside its tensors: the model, the text, the settings and the layers.

Knows nothing about prices.
"""

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

from ..common.records import Finite, Record, VersionedRecord
from .calibration.expert_coverage import ExpertCoverage

PROFILE_VERSION: Final = 3


class LayerRecord(Record):
    """One layer.

    Attributes:
        name: its module's path.
        kind: the path inside its block, or ``embedding``, ``head``.
        block: the index of its block; None outside the blocks.
        out_features: rows of its matrix.
        in_features: columns.
        formats: the formats offered, as positions in the profile's list.
        stored_bytes: the size of the layer in each of them, in the same order.
        read_share: the share of tokens that it is read for, below 1 for a routed expert; None if not measured.
        num_rounding_tokens: tokens of the rounding sequences that reached it; None for a layer that is no expert.
        num_pricing_tokens: tokens of the pricing sequences that reached it; None also where the estimator does not
            follow tokens. Without tokens its samples are zero, which is what it costs on this text; its cost on other
            text is unknown, and its prices are imputed.
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
    def is_decided(self) -> bool:
        """Whether the program decides its format: it is offered more than one."""
        return len(self.formats) > 1

    @property
    def coverage(self) -> ExpertCoverage | None:
        """Tokens that reached the layer; None for one that is no expert."""
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
    """A domain of text on which the loss increase was measured; the hash covers its evaluation part too."""

    name: str
    text_source: str
    text_sha256: str


class RegimeRecord(Record):
    """Whether the model worked in its normal regime while it was measured; see the module regime.

    Attributes:
        perplexity: on some pricing sequences, which begin as the tokenizer begins a text.
        perplexity_with_bos: the same with a BOS token in front; None where the tokenizer has none or adds it itself.
        first_token_share: the share of the estimated effect of a change that comes through the first token of a
            sequence; None where the estimator cannot tell.
    """

    perplexity: Finite
    perplexity_with_bos: Finite | None
    first_token_share: Finite | None


class ProfileRecord(VersionedRecord):
    """What the profile says beside its tensors.

    Attributes:
        profile_version: the version of this layout.
        scantling_version: the version that wrote it.
        model_source: where the model was loaded from.
        model_sha256: the hash of its weights.
        text_source: the calibration text, of the first domain where there are several.
        text_sha256: the hash of its documents, evaluation part included.
        domains: all of them; empty in a profile of a single text.
        domain_of_sequence: for each sample the position of its domain; empty in a profile of a single text.
        sequence_length: tokens per sequence.
        seed: the seed of sampled labels and probes.
        estimator: the estimator's name.
        num_label_draws: labels sampled on every pricing sequence.
        rounding: the rounding method and its settings.
        calibration_perplexity: the original model's on the rounding sequences.
        regime: the model's regime; None where it was not diagnosed.
        formats: the names of all formats.
        layers: the layers.
        other_bytes: bytes of the parameters outside the layers.
        config: the numbers of the model's config that the KV cache depends on; None in older profiles.
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
