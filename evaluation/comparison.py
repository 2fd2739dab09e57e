"""The record of a comparison.

Knows nothing about how it was measured.
"""

from ..solver.plan import Record


class Contender(Record):
    """One row of the comparison.

    Attributes:
        name: of the plan, ``uniform`` and its format, or ``original``.
        stored_bytes: of all tensors, exact.
        average_bits: over the layers that the program decides; scales and zero points not counted.
        predicted_kl_nats: the predicted loss increase per token.
        predicted_kl_standard_error_nats: over the profile's samples; None where there is only one.
        predicted_perplexity: the original's measured perplexity · exp(predicted KL).
        measured_kl_nats: mean KL divergence per token from the original.
        measured_kl_standard_error_nats: over the evaluation sequences; None where there is only one.
        measured_perplexity: on the evaluation sequences.
        measured_kl_nats_by_sequence: the measured KL divergence per token of every evaluation sequence.
    """

    name: str
    stored_bytes: int
    average_bits: float
    predicted_kl_nats: float
    predicted_kl_standard_error_nats: float | None
    predicted_perplexity: float
    measured_kl_nats: float
    measured_kl_standard_error_nats: float | None
    measured_perplexity: float
    measured_kl_nats_by_sequence: tuple[float, ...]


class Comparison(Record):
    """The whole comparison.

    Attributes:
        model_source: the model.
        model_sha256: of its weights.
        text_source: the evaluation text.
        text_sha256: of its documents.
        num_sequences: of evaluation.
        sequence_length: tokens in each.
        rounding_inputs: what layers were rounded against for the measurement. Predictions are for ``original`` inputs.
        contenders: the plans, the uniforms, the original.
    """

    model_source: str
    model_sha256: str
    text_source: str
    text_sha256: str
    num_sequences: int
    sequence_length: int
    rounding_inputs: str
    contenders: tuple[Contender, ...]
