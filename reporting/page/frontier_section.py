"""The least predicted loss at every size, and where the plan and the uniforms stand beside it.

Knows nothing about how points are solved.
"""

from dataclasses import dataclass

from ...common.units import BYTES_PER_UNIT
from ...hardware.resources import POWER, STORED_BYTES
from ...planning.pareto import Frontier, FrontierPoint
from ...planning.plan import Plan
from ...planning.plan_frontiers import integer_uniforms
from ...sensitivity.profile import uniform_formats
from ...solver.instance import LOSS
from ..terminal.verdicts import byte_unit, render_nats
from .material import Material
from .parts import Figure, Missing, Paragraph, Part, Section
from .svg import Chart, Plot, spanning

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 640, 34, 350
_FILES = {STORED_BYTES: "frontier-bytes", POWER: "frontier-watts"}


def frontier_section(material: Material) -> Section:
    """The frontiers, with the certificate of the plan."""
    title = "Loss against size and power"
    if not material.frontiers:
        words = "No frontier was solved. Make one with:"
        return Section("frontier", title, (Missing(words, "scantling report PLAN --points 40"),))
    charts = [_FrontierChart(material, found) for found in material.frontiers]
    parts: list[Part] = [Paragraph(_certificate(material.plan))]
    parts += [Figure(chart.draw(), chart.caption()) for chart in charts]
    if all(chart.row != POWER for chart in charts):
        words = "The plan's program knows no watts. State hardware and rate when it is solved:"
        parts.append(Missing(words, 'scantling solve PROFILE --hardware NAME --rate "26 tok/s"'))
    return Section("frontier", title, tuple(parts))


def _certificate(plan: Plan) -> str:
    for objective in plan.certificate.objectives:
        if objective.name == LOSS:
            return (
                f"The certificate: the plan's objective is {objective.value:.6f} nats per token, and no plan within "
                f"its limits and rules has less than {objective.bound:.6f} (gap {objective.gap:.1e}; "
                f"{plan.certificate.solver})."
            )
    return "The plan minimises something else than the loss, or was edited: there is no bound on its loss."


@dataclass(frozen=True)
class _Mark:
    """One set of formats in the picture: where it stands, what is written beside it, and its details."""

    x: float
    y: float
    name: str
    css: str
    title: str


@dataclass(frozen=True)
class _FrontierChart:
    """One frontier beside plan and uniforms."""

    material: Material
    frontier: Frontier

    @property
    def row(self) -> str:
        """The row that is swept."""
        return self.frontier.rows[0].name

    @property
    def label(self) -> str:
        """What the axis shows."""
        if self.row == STORED_BYTES:
            return f"bytes in all tensors, {byte_unit(self.material.plan.stored_bytes)}"
        return "power at the workload's rate, watts"

    @property
    def unit(self) -> float:
        """One step of the row in what the axis shows."""
        step = self.frontier.rows[0].step
        if self.row == STORED_BYTES:
            return step / BYTES_PER_UNIT[byte_unit(self.material.plan.stored_bytes)]
        return step

    @property
    def points(self) -> list[tuple[float, FrontierPoint]]:
        """The points with a plan whose loss is not 0, by what they use."""
        found = [(point.used[0] * self.unit, point) for point in self.frontier.points if point.predicted_loss_nats]
        return sorted(found, key=lambda pair: pair[0])

    def caption(self) -> str:
        """Say what is to be seen."""
        proven = sum(point.status == "OPTIMAL" for _, point in self.points)
        measured = "" if not self._measured() else " Open marks: measured on held-out text."
        return (
            f"The curve: {len(self.points)} plans of least predicted loss at their size under the plan's rules, "
            f"{proven} of them proven optimal; band: ± one standard error. Filled marks: predicted.{measured} The "
            "vertical axis is logarithmic."
        )

    def draw(self) -> Chart:
        """Draw it."""
        marks = [*self._predicted(), *self._measured()]
        curve = [(x, point.predicted_loss_nats or 0.0, point) for x, point in self.points]
        plot = Plot(
            spanning([mark.x for mark in marks] + [x for x, *_ in curve], _LEFT, _RIGHT),
            spanning([mark.y for mark in marks] + [y for _, y, _ in curve], _BOTTOM, _TOP, log=True),
        )
        plot.axes(self.label, "loss increase, nats per token", "{:g}".format, "{:g}".format)
        errors = [(x, y, point.predicted_loss_standard_error_nats or 0.0) for x, y, point in curve]
        plot.band([(x, max(y - error, y / 10), y + error) for x, y, error in errors])
        plot.path([(x, y) for x, y, _ in curve], "curve")
        for x, y, point in curve:
            loss = render_nats(y, point.predicted_loss_standard_error_nats)
            plot.mark((x, y), "dot", f"{x:,.2f}; predicted {loss} nats per token; {point.status.lower()}")
        for mark in marks:
            plot.mark((mark.x, mark.y), mark.css, mark.title)
            if "open" not in mark.css:
                plot.words((mark.x, mark.y), mark.name, mark.css)
        title = f"Predicted loss increase against {self.label}"
        return Chart(_FILES[self.row], title, _WIDTH, _HEIGHT, "".join(plot.parts))

    def _mark(self, formats: dict[str, str], name: str, css: str, loss: tuple[float, float | None], how: str) -> _Mark:
        program = self.material.plan.program
        amount = program.amount(self.row, [unit.formats.index(formats[unit.name]) for unit in program.units])
        x = amount * self.unit
        title = f"{name}: {x:,.2f} {self.label.rpartition(', ')[2]}; {how} {render_nats(*loss)} nats per token"
        return _Mark(x, loss[0], name.removeprefix("uniform "), css, title)

    def _predicted(self) -> list[_Mark]:
        plan, profile = self.material.plan, self.material.profile
        sets = {f"uniform {name}": uniform_formats(profile, name) for name in integer_uniforms(profile)}
        marks = [
            self._mark(formats, name, "baseline", profile.predict(formats), "predicted")
            for name, formats in sets.items()
        ]
        marks.append(self._mark(plan.formats(), "plan", "plan", profile.predict(plan.formats()), "predicted"))
        return [mark for mark in marks if mark.y > 0]

    def _measured(self) -> list[_Mark]:
        found = self.material.comparison
        if found is None:
            return []
        return [
            self._mark(
                dict(zip(found.layers, row.formats, strict=True)),
                row.name,
                f"{row.role} open",
                (row.measured_kl_nats, row.measured_kl_standard_error_nats),
                "measured",
            )
            for row in found.entries
            if row.role != "original" and row.measured_kl_nats > 0
        ]
