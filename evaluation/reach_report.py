"""What a person is told about experts that calibration reached rarely or never.

Knows nothing about how tokens are counted.
"""

from rich.console import Console

from ..sensitivity.profile import LayerRecord, Profile
from ..sensitivity.reach import FEWEST_TOKENS, expert_of

_NAMED = 50


def print_rarely_reached(profile: Profile, console: Console) -> None:
    """Name the experts whose price is not known, and say what becomes of them; nothing where there are none.

    Args:
        profile: the profile.
        console: where.
    """
    experts = rare_experts(profile)
    if not experts:
        return
    named = [f"{expert} ({tokens})" for expert, tokens in list(experts.items())[:_NAMED]]
    more = f" and {len(experts) - _NAMED} more" if len(experts) > _NAMED else ""
    total = len({_expert(layer) for layer in profile.record.layers if layer.reach is not None})
    console.print(
        f"Warning: {len(experts)} of {total} experts were reached by fewer than {FEWEST_TOKENS} calibration tokens (in "
        f"brackets), so what their formats cost is not known: {', '.join(named)}{more}. Each is priced as the "
        "dearest sibling that was measured, in the predicted loss too; where none was, it keeps the finest format. "
        "More text, or more varied text, reaches more of them.",
        style="bold red",
        soft_wrap=True,
    )


def rare_experts(profile: Profile) -> dict[str, int]:
    """List the experts whose price is not known.

    Args:
        profile: the profile.

    Returns:
        How many tokens reached each, by its path, in the order of the model.
    """
    found: dict[str, int] = {}
    for layer in profile.record.layers:
        reach = layer.reach
        if reach is not None and reach.is_rare and len(layer.formats) > 1:
            counted = reach.num_rounding_tokens if reach.num_pricing_tokens is None else reach.num_pricing_tokens
            found[_expert(layer)] = min(counted, found.get(_expert(layer), counted))
    return found


def _expert(layer: LayerRecord) -> str:
    return layer.name.removesuffix(layer.kind) + (expert_of(layer.kind) or "")
