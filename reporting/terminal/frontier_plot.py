"""A frontier as a picture.

Knows nothing about how it was solved.
"""

from pathlib import Path

from ...common.errors import OutOfRangeError
from ...planning.pareto import Frontier, FrontierAxis
from .pictures import figure_class, save_picture

_MIB = 2**20


def draw_frontier(found: Frontier, path: Path) -> None:
    """Draw predicted loss against the swept limit, or as a map over two.

    Args:
        found: the frontier.
        path: a .png, .svg or .pdf file.

    Raises:
        OutOfRangeError: there is no plan at any of the limits.
    """
    figure_type = figure_class(path)
    solved = [point for point in found.points if point.used and point.predicted_loss_nats is not None]
    if not solved:
        raise OutOfRangeError("no limit of this frontier has a plan, so there is nothing to draw. Loosen --to.")
    figure = figure_type(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    labels, scales = zip(*(_axis(row) for row in found.rows), strict=True)
    bounds = [[point.bounds[k] * scales[k] for point in solved] for k in range(len(found.rows))]
    losses = [point.predicted_loss_nats or 0.0 for point in solved]
    if len(found.rows) == 1:
        errors = [point.predicted_loss_standard_error_nats or 0.0 for point in solved]
        axes.errorbar(bounds[0], losses, yerr=errors, marker=".", capsize=2, label="predicted, ± one standard error")
        axes.set(xlabel=f"{labels[0]}, at most", ylabel="predicted loss increase, nats per token", yscale="log")
        axes.legend()
    else:
        drawn = axes.scatter(bounds[0], bounds[1], c=losses, marker="s", s=60, norm="log", cmap="viridis_r")
        figure.colorbar(drawn, label="predicted loss increase, nats per token")
        axes.set(xlabel=f"{labels[0]}, at most", ylabel=f"{labels[1]}, at most")
    axes.set_title(f"{found.model_source}: every point a proven optimum", fontsize=9)
    axes.grid(alpha=0.3)
    save_picture(figure, path)


def _axis(row: FrontierAxis) -> tuple[str, float]:
    if row.measure.startswith("bytes"):
        return f"{row.name}, MiB", row.step / _MIB
    return f"{row.name}, {row.measure}", row.step
