"""Accuracies, and accuracy per watt and joule, in the terminal.

Knows nothing about how they were found.
"""

from collections.abc import Sequence

from rich.console import Console

from ...evaluation.bootstrap import Interval
from ...evaluation.tasks.accuracies import Accuracy, AccuracyFile
from ...evaluation.tasks.efficiency import Efficiency
from .tables import fitting_table, name_column, number_columns


def print_accuracies(found: AccuracyFile, console: Console) -> None:
    """Print accuracies."""
    columns = (name_column(""), name_column("task"), *number_columns("accuracy", "chance", "answers"))
    rows = [
        (plan.name, one.task, _share(one.value), _chance(one), f"{one.num_answers:,}")
        for plan in found.plans
        for one in plan.accuracies
    ]
    console.print(fitting_table(columns, rows, console.width))
    console.print(
        f"Measured by {found.origin}; {found.bootstrap.confidence:.0%} intervals by resampling the questions "
        f"{found.bootstrap.num_resamples} times.",
        style="dim",
    )


def print_efficiency(rows: Sequence[Efficiency], console: Console) -> None:
    """Print every figure with what it is made of."""
    for task in dict.fromkeys(row.accuracy.task for row in rows):
        of_task = [row for row in rows if row.accuracy.task == task]
        console.print(f"{task} ({of_task[0].accuracy.metric}), chance {_chance(of_task[0].accuracy)}", style="bold")
        for place in dict.fromkeys((row.power.hardware, row.power.at, row.power.work) for row in of_task):
            chosen = [row for row in of_task if (row.power.hardware, row.power.at, row.power.work) == place]
            columns = number_columns("accuracy", "watts", "tok/s", "joules", "per\nwatt", "per\njoule")
            table = fitting_table((name_column(""), *columns), [_cells(row) for row in chosen], console.width)
            console.print(
                f"{place[0]}, at {place[1]}; joules for {place[2]}" if place[1] != "as measured" else place[0]
            )
            console.print(table)
            console.print(f"Power and throughput: {chosen[0].power.origin}.", style="dim")
    console.print(
        "The intervals of the ratios are those of the accuracies over the same watts and joules.", style="dim"
    )


def _cells(row: Efficiency) -> tuple[str, ...]:
    return (
        row.entry,
        _share(row.accuracy.value),
        f"{row.power.watts:.4g}",
        f"{row.power.tokens_per_second:.4g}",
        f"{row.power.joules:.4g}",
        f"{row.per_watt.estimate:.3g}",
        f"{row.per_joule.estimate:.3g}",
    )


def _share(value: Interval) -> str:
    return f"{value.estimate:.1%} ({value.lower:.1%}–{value.upper:.1%})"


def _chance(accuracy: Accuracy) -> str:
    return accuracy.chance_origin if accuracy.chance is None else f"{accuracy.chance:.2%} ({accuracy.chance_origin})"
