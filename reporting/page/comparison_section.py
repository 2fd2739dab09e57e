"""Plan, uniforms and original, predicted and measured; and which layers changed.

Knows nothing about how they were measured.
"""

from ...evaluation.comparison import Comparison, ComparisonEntry
from ..terminal.comparison_tables import largest_changes
from ..terminal.verdicts import comparison_verdict, render_difference, render_nats, render_signed, render_size
from .material import Material
from .parts import Figure, Missing, Paragraph, Part, Section, Table, TableColumn, columns, notes
from .svg import Chart, Plot, spanning

_WIDTH, _HEIGHT = 480, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 398, 34, 370
_MOST_CHANGES = 15
TITLE = "Predicted against measured"


def comparison_section(material: Material) -> Section:
    """A plan beside its baselines, predicted and measured."""
    found = material.comparison
    if found is None:
        words = (
            "No comparison was given. Measure the plan beside uniform formats, then pass the file with --comparison:"
        )
        return Section("comparison", TITLE, (Missing(words, "scantling compare PLAN -o comparison.json"),))
    inputs = "the same" if found.rounding_inputs == "original" else f"{found.rounding_inputs} ones"
    caption = (
        f"Measured on {found.num_sequences} × {found.sequence_length} tokens of {found.text_source} that were not "
        f"calibrated on, from {found.num_documents} documents. On the dashed line a prediction is exact; bars: ± one "
        "standard error. Predictions are for rounding against original inputs; measured was rounding against "
        f"{inputs}. Both axes are logarithmic."
    )
    baselines = [row for row in found.entries if row.role == "baseline"]
    parts: list[Part] = [
        Paragraph(comparison_verdict(found), "verdict"),
        _entries(found),
        *notes([f"{row.name}: {row.says}." for row in baselines]),
        *notes([f"Left out, {reason}" for reason in found.left_out]),
        Figure(agreement_chart(found), caption),
        _kinds(found),
    ]
    if found.format_changes:
        parts.append(_format_changes(found))
    return Section("comparison", TITLE, tuple(parts))


def _entries(found: Comparison) -> Table:
    differences = {one.other: render_difference(one) for one in found.differences}
    rows = tuple(
        (
            row.name,
            render_size(row.stored_bytes),
            f"{row.average_bits:.2f}",
            render_nats(row.predicted_kl_nats, row.predicted_kl_standard_error_nats) if row.formats else "0",
            render_nats(row.measured_kl_nats, row.measured_kl_standard_error_nats) if row.formats else "0",
            f"{row.measured_perplexity:.2f}",
            f"{row.measured_top1_agreement:.1%}",
            differences.get(row.name, ""),
        )
        for row in found.entries
    )
    headings = columns(
        "", "size#", "bits#", "predicted KL#", "measured KL#", "perplexity#", "same top token#", "plan better by#",
    )  # fmt: skip
    caption = (
        "KL divergence from the original in nats per token, ± one standard error. The last column is paired by "
        f"sequence, with its {found.bootstrap.confidence:.0%} interval by {found.bootstrap.num_resamples:,} resamples "
        "of whole documents where there are enough of them, else ± one standard error."
    )
    return Table("entries", headings, rows, caption)


def _kinds(found: Comparison) -> Table:
    rows = [row for row in found.entries if row.formats]
    cells = tuple((kind, *(f"{row.bits_by_kind[kind]:.2f}" for row in rows)) for kind in rows[0].bits_by_kind)
    headings = (TableColumn(""), *(TableColumn(row.name, is_numeric=True) for row in rows))
    return Table("kinds", headings, cells, "Average bits by kind of layer")


def _format_changes(found: Comparison) -> Table:
    rows = tuple(
        (
            change.layer,
            f"{change.before} → {change.after}",
            f"{change.stored_bytes:+,}",
            f"{change.share_of_plan_loss:.1%}",
            f"{change.share_of_other_loss:.1%}",
            render_signed(change.saved_nats),
            render_signed(change.paid_nats),
            render_signed(change.net_nats),
        )
        for change in largest_changes(found.format_changes, _MOST_CHANGES)
    )
    headings = columns(
        "layer", "change", "bytes#", "share of plan's loss#", "share before#",
        "saved, nats#", "paid, nats#", "net, nats#",
    )  # fmt: skip
    caption = (
        f"Layers that changed against {found.changes_from}: the {len(rows)} of {len(found.format_changes)} with the "
        "most to lose if put back. Saved: predicted loss of the layer alone. Paid: what its bytes and bits are worth "
        "in other layers, at the shadow prices of the plan's limits. Net: the difference, the reduced cost of the old "
        "format."
    )
    return Table("format_changes", headings, rows, caption)


def agreement_chart(found: Comparison) -> Chart:
    """Draw predicted against measured KL divergence."""
    rows = [row for row in found.entries if row.predicted_kl_nats > 0 and row.measured_kl_nats > 0]
    values = [end for row in rows for pair in _bars(row) for end in pair] or [0.1, 1.0]
    plot = Plot(spanning(values, _LEFT, _RIGHT, log=True), spanning(values, _BOTTOM, _TOP, log=True), rising=True)
    plot.axes("predicted KL, nats per token", "measured KL, nats per token", "{:g}".format, "{:g}".format)
    plot.path([(plot.x.low, plot.x.low), (plot.x.high, plot.x.high)], "guide")
    for row in rows:
        css = "plan" if row.role == "plan" else "baseline"
        at = (row.predicted_kl_nats, row.measured_kl_nats)
        across, along = _bars(row)
        plot.line((plot.x(across[0]), plot.y(at[1])), (plot.x(across[1]), plot.y(at[1])), "axis")
        plot.line((plot.x(at[0]), plot.y(along[0])), (plot.x(at[0]), plot.y(along[1])), "axis")
        predicted = render_nats(at[0], row.predicted_kl_standard_error_nats)
        measured = render_nats(at[1], row.measured_kl_standard_error_nats)
        plot.mark(at, css, f"{row.name}: predicted {predicted}, measured {measured} nats per token")
        plot.words(at, row.name.removeprefix("uniform "), css)
    return Chart("predicted-measured", "Predicted against measured KL divergence", _WIDTH, _HEIGHT, "".join(plot.parts))


def _bars(row: ComparisonEntry) -> tuple[tuple[float, float], tuple[float, float]]:
    """Give both error bars, kept above zero for the logarithm."""
    pairs = (
        (row.predicted_kl_nats, row.predicted_kl_standard_error_nats or 0.0),
        (row.measured_kl_nats, row.measured_kl_standard_error_nats or 0.0),
    )
    across, along = ((max(value - error, value / 10), value + error) for value, error in pairs)
    return across, along
