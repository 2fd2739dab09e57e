"""The reference case as a page: the article's numbers beside ours, and what they can and cannot show.

Knows nothing about how the case is worked out.
"""

from reference_case_model import (
    ARTICLE_BYTES,
    ARTICLE_SPEEDS,
    ARTICLE_WATTS,
    FORMAT,
    HARDWARE,
    PUBLISHED_HARDWARE,
    ReferenceCase,
)
from scantling.common.units import BYTES_PER_UNIT
from scantling.evaluation.prediction import PredictedEntry

_GIB = BYTES_PER_UNIT["GiB"]


def reference_page(case: ReferenceCase) -> str:
    """Write the page.

    Args:
        case: the case.

    Returns:
        Markdown.
    """
    return "\n".join([
        "# The reference case",
        "",
        "Shapes of Qwen2.5-32B (64 blocks, hidden 5120, intermediate 27648, 40 heads, 8 of keys and values, "
        f"vocabulary 152064, untied), no weights. The plan is uniform {FORMAT} with embedding and head in 16 bits; no "
        f"loss is predicted here. Hardware file: {HARDWARE}.",
        "",
        *_table(case),
        "",
        *_fitted(case),
        "",
        *_power(case),
    ])


def _table(case: ReferenceCase) -> list[str]:
    small, large = case.prediction.entries
    lines = ["| | article | ours | error | |", "|---|---|---|---|---|"]
    lines += [
        _line(f"memory, {name}", f"{asked / _GIB:.0f} GB", f"{ours / _GIB:.2f} GiB", ours / asked, "exact")
        for name, asked, ours in zip(("16 bits", FORMAT), ARTICLE_BYTES, case.stored_bytes, strict=True)
    ]
    for name, asked, row in zip(("16 bits", FORMAT), ARTICLE_SPEEDS, (large, small), strict=True):
        assert row.tokens_per_second is not None
        speed = row.tokens_per_second
        lines.append(_line(f"speed, {name}", f"{asked:.0f} tok/s", f"{speed:.2f} tok/s", speed / asked, "predicted"))
    for name, watts, row in zip(("16 bits", FORMAT), ARTICLE_WATTS, (large, small), strict=True):
        assert row.same_rate is not None
        ours_watts = row.same_rate.watts
        label = f"power at {ARTICLE_SPEEDS[0]:.0f} tok/s, {name}"
        lines.append(_line(label, f"{watts:.0f} W", f"{ours_watts:.1f} W", ours_watts / watts, "predicted"))
    return lines


def _line(label: str, article: str, ours: str, ratio: float, word: str) -> str:
    return f"| {label} | {article} | {ours} | {ratio - 1:+.2%} | {word} |"


def _fitted(case: ReferenceCase) -> list[str]:
    fitted = case.fitted
    small, large = case.published.entries
    return [
        f"Memory is exact arithmetic and the article's GB are read as GiB ({case.stored_bytes[0] / 1e9:.1f} and "
        f"{case.stored_bytes[1] / 1e9:.1f} GB of 10⁹ bytes). A token reads {case.read_bytes[0] / 1e9:.2f} and "
        f"{case.read_bytes[1] / 1e9:.2f} GB, all but the input embedding.",
        "",
        f"Fitted to the case: η = {fitted.efficiency:.3f} and t0 = {fitted.overhead_seconds * 1e3:.2f} ms (to the two "
        f"speeds), P0 = {fitted.base_watts:.0f} W and c = {fitted.traffic_watts:.0f} W (to the two powers at equal "
        "throughput). Four parameters from four numbers: that speeds and powers are met shows nothing but that the "
        "laws can take these values.",
        "",
        "This η is above those published for the card under vLLM (0.87 and 0.83). By the hardware file "
        f"{PUBLISHED_HARDWARE}, whose η and t0 are fitted to published speeds of a 7B model and not to the case, it "
        f"would run at {large.tokens_per_second:.1f} and {small.tokens_per_second:.1f} tok/s ({_error(large, 0)} and "
        f"{_error(small, 1)} against the article).",
    ]


def _error(row: PredictedEntry, which: int) -> str:
    assert row.tokens_per_second is not None
    return f"{row.tokens_per_second / ARTICLE_SPEEDS[which] - 1:+.1%}"


def _power(case: ReferenceCase) -> list[str]:
    small, large = case.prediction.entries
    points = (large.same_rate, small.same_rate, large.full_speed, small.full_speed)
    assert all(point is not None for point in points)
    equal_large, equal_small, full_large, full_small = (point for point in points if point is not None)
    fitted = case.fitted
    lines = ["| | tok/s | W | J/token |", "|---|---|---|---|"]
    for name, point in (
        ("16 bits, equal throughput", equal_large),
        (f"{FORMAT}, equal throughput", equal_small),
        ("16 bits, full speed", full_large),
        (f"{FORMAT}, full speed", full_small),
    ):
        lines.append(f"| {name} | {point.tokens_per_second:.1f} | {point.watts:.1f} | {point.joules_per_token:.2f} |")
    return [
        *lines,
        "",
        "**The pair 295 → 165 W is consistent at equal throughput only**, 26 tokens per second for both. Read as two "
        f"full speeds it would need P0 = {fitted.base_watts_at_full_speeds:.0f} W, a negative power at no traffic, and "
        f"c = {fitted.traffic_watts_at_full_speeds:.0f} W. At its own full speed the plan draws {full_small.watts:.0f} "
        "W by the same law, not 165.",
        "",
        "Intelligence per watt, **if accuracy is unchanged, which is an assumption here and not measured**: "
        f"{equal_large.watts / equal_small.watts:.2f} × at equal throughput, "
        f"{full_large.watts / full_small.watts:.2f} × with each at full speed. Intelligence per joule, under the same "
        f"assumption: {equal_large.joules_per_token / equal_small.joules_per_token:.2f} × at equal throughput, "
        f"{full_large.joules_per_token / full_small.joules_per_token:.2f} × with each at full speed. All predicted, "
        "from fitted parameters.",
    ]
