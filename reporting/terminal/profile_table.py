"""A profile in the terminal: what was measured, and what uniform formats are predicted to cost.

Knows nothing about how it was measured.
"""

from rich.console import Console
from rich.table import Table

from ...quantization.gguf_types import GGUF_FORMATS
from ...sensitivity.profile import Profile, decided_layers, uniform_formats
from .verdicts import render_nats


def print_profile(profile: Profile, console: Console) -> None:
    """Summarise a profile."""
    record = profile.record
    rounding_text = f"{len(profile.rounding_token_ids)} × {record.sequence_length} tokens of {record.text_source}"
    console.print(
        f"{len(record.layers)} layers, {len(decided_layers(profile))} of them in the program, {len(record.formats)} "
        f"formats. Rounded by {record.rounding['method']} on {rounding_text} (perplexity of the original: "
        f"{record.calibration_perplexity:.2f}); priced by {record.estimator} on {len(profile.pricing_token_ids)} other "
        "sequences of it."
    )
    table = Table("uniform", box=None, pad_edge=False)
    for heading in ("bytes", "predicted KL, nats per token"):
        table.add_column(heading, justify="right")
    for name in record.formats:
        formats = uniform_formats(profile, name) if _is_offered_everywhere(profile, name) else None
        if formats:
            table.add_row(name, f"{profile.stored_bytes(formats):,}", render_nats(*profile.predict(formats)))
    console.print(table)
    _print_narrow_types(profile, console)


def _print_narrow_types(profile: Profile, console: Console) -> None:
    """Name the GGUF types that not every layer can have, and those without a code for each weight."""
    from ...quantization.gguf_codes import codes_of  # noqa: PLC0415  loads torch, which printing a plan does not need

    decided = decided_layers(profile)
    for name in [name for name in profile.record.formats if name in GGUF_FORMATS]:
        fitting = [layer for layer in decided if profile.format_index[name] in layer.formats]
        if len(fitting) < len(decided):
            console.print(
                f"{name}: {len(fitting)} of {len(decided)} layers, those whose input width is a multiple of "
                f"{GGUF_FORMATS[name].block_weights}"
            )
        if profile.record.rounding["method"] == "ggml+gptq" and codes_of(GGUF_FORMATS[name]) is None:
            console.print(f"{name}: rounded as by ggml, since one of its codes stands for several weights")


def _is_offered_everywhere(profile: Profile, name: str) -> bool:
    return all(profile.format_index[name] in layer.formats for layer in decided_layers(profile))
