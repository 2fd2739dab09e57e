"""Charts as SVG: scales, ticks, axes, marks. Every text is escaped here.

One chart serves the page, where the page's style colours it for light and dark, and a file of its own, which carries
the light style with it.

Knows nothing about what is drawn.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LIGHT = {
    "ink": "#1b1b1b",
    "faint": "#6b6b6b",
    "grid": "#e3e3e3",
    "plan": "#b3400a",
    "baseline": "#0a5fa5",
    "line": "#444444",
}
DARK = {
    "ink": "#ececec",
    "faint": "#a5a5a5",
    "grid": "#3a3a3a",
    "plan": "#ff9a4d",
    "baseline": "#6cb8f5",
    "line": "#c4c4c4",
}


def chart_style(colours: dict[str, str]) -> str:
    """CSS rules of all charts, for colours by role."""
    ink, faint, plan, baseline, line = (colours[role] for role in ("ink", "faint", "plan", "baseline", "line"))
    return (
        f".chart text{{fill:{ink};font-family:{FONT};font-size:12px}}"
        f".chart .faint{{fill:{faint}}}.chart .axis{{stroke:{faint};fill:none}}.chart .grid{{stroke:{colours['grid']}}}"
        f".chart .curve{{stroke:{line};fill:none;stroke-width:1.5}}.chart .dot{{fill:{line}}}"
        f".chart .band{{fill:{line};opacity:.13}}.chart .guide{{stroke:{faint};stroke-dasharray:4 3;fill:none}}"
        f".chart .plan{{fill:{plan};stroke:{plan}}}.chart .baseline{{fill:{baseline};stroke:{baseline}}}"
        f".chart .open{{fill:none;stroke-width:1.5}}.chart text.plan{{stroke:none;font-weight:600}}"
        ".chart text.baseline{stroke:none}"
        ".chart .cell text{font-size:11px;text-anchor:middle}"
    )


_MARGIN = 76  # pixels on the right of the axes, for words


def number(value: float) -> str:
    """Write a coordinate in pixels.

    Returns:
        At most one decimal.

    >>> number(3.14159), number(5.0)
    ('3.1', '5')
    """
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    """Write words at a place.

    Args:
        x: in pixels.
        y: of their base line.
        words: anything; they are escaped.
        css: classes.
        anchor: ``start``, ``middle`` or ``end``.

    Returns:
        The element.

    >>> text(1, 2, "<b>")
    '<text x="1" y="2">&lt;b&gt;</text>'
    """
    classes = f' class="{css}"' if css else ""
    anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{number(x)}" y="{number(y)}"{classes}{anchored}>{escape(words)}</text>'


def titled(mark: str, title: str) -> str:
    """Group a mark with a title, which is shown when the pointer rests on it; the title is escaped."""
    return f"<g><title>{escape(title)}</title>{mark}</g>"


@dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        low: the smallest value shown.
        high: the largest.
        start: the pixel of ``low``.
        end: the pixel of ``high``.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Place a value.

        Returns:
            Its pixel.

        >>> Scale(1, 100, 0, 200, log=True)(10)
        100.0
        """
        low, high, here = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Choose round values.

        Returns:
            Three to ten of them between ``low`` and ``high``.

        >>> Scale(0, 10, 0, 100).ticks()
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        >>> Scale(0.01, 5, 0, 100, log=True).ticks()
        [0.01, 0.1, 1.0]
        """
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
                found = [float(f"{step * 10.0**decade:.6g}") for decade in decades for step in steps]
                found = [tick for tick in found if self.low <= tick <= self.high]
                if len(found) >= 3:
                    return found
        step = _round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{index * step:.9g}") for index in range(first, last + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def spanning(values: list[float], start: float, end: float, *, log: bool = False) -> Scale:
    """Make a scale from pixel ``start`` to ``end`` with some room around the values, which ``log`` needs positive."""
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** 0.06 * 1.03
        return Scale(low / room, high * room, start, end, log=True)
    room = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)


@dataclass(frozen=True)
class Chart:
    """A finished picture.

    Attributes:
        name: of its file, without ending.
        title: what it shows, for those who do not see it.
        width: in pixels.
        height: in pixels.
        body: its elements.
    """

    name: str
    title: str
    width: float
    height: float
    body: str

    def inline(self) -> Markup:
        """The element for a page whose style has the chart's rules; what is shown in it is escaped already."""
        return Markup(self._wrapped(f"<title>{escape(self.title)}</title>"))  # noqa: S704

    def standalone(self) -> str:
        """A whole SVG document, on white."""
        style = f"<title>{escape(self.title)}</title><style>{chart_style(LIGHT)}</style>"
        return self._wrapped(f'{style}<rect width="100%" height="100%" fill="#ffffff"/>') + "\n"

    def _wrapped(self, head: str) -> str:
        width, height = number(self.width), number(self.height)
        attributes = f'class="chart {self.name}" role="group" aria-label="{escape(self.title)}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {attributes} viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}">{head}{self.body}</svg>'
        )


@dataclass
class Plot:
    """A picture with two axes in the making.

    Attributes:
        x: the horizontal scale.
        y: the vertical scale, upwards.
        rising: whether what is drawn rises from left to right, so that words stand off the diagonal.
        parts: what has been drawn.
    """

    x: Scale
    y: Scale
    rising: bool = False
    parts: list[str] = field(default_factory=list)

    def axes(
        self, x_label: str, y_label: str, x_words: Callable[[float], str], y_words: Callable[[float], str]
    ) -> None:
        """Draw grid, ticks and labels; ``x_words`` and ``y_words`` write a tick."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        for tick in self.y.ticks():
            y = self.y(tick)
            self.line((left, y), (right, y), "grid")
            self.parts.append(text(left - 7, y + 4, y_words(tick), "faint", "end"))
        for tick in self.x.ticks():
            x = self.x(tick)
            self.line((x, bottom), (x, bottom + 5), "axis")
            self.parts.append(text(x, bottom + 19, x_words(tick), "faint", "middle"))
        self.line((left, bottom), (right, bottom), "axis")
        self.parts.append(text((left + right) / 2, bottom + 38, x_label, "", "middle"))
        self.parts.append(text(left - 44, top - 12, y_label))

    def line(self, first: tuple[float, float], second: tuple[float, float], css: str) -> None:
        """Draw a line between pixels."""
        ends = " ".join(
            f'{axis}{index}="{number(value)}"'
            for index, end in ((1, first), (2, second))
            for axis, value in zip("xy", end, strict=True)
        )
        self.parts.append(f'<line class="{css}" {ends}/>')

    def path(self, points: list[tuple[float, float]], css: str) -> None:
        """Draw a line through values of both axes."""
        coordinates = " ".join(f"{number(self.x(x))},{number(self.y(y))}" for x, y in points)
        self.parts.append(f'<polyline class="{css}" points="{coordinates}"/>')

    def band(self, points: list[tuple[float, float, float]], css: str = "band") -> None:
        """Fill between two curves; a point is a horizontal value, a lower and an upper vertical one."""
        around = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
        coordinates = " ".join(f"{number(self.x(x))},{number(self.y(y))}" for x, y in around)
        self.parts.append(f'<polygon class="{css}" points="{coordinates}"/>')

    def mark(self, at: tuple[float, float], css: str, title: str) -> None:
        """Draw a mark at values of both axes: a diamond for the class ``plan``, a circle for all else."""
        x, y = self.x(at[0]), self.y(at[1])
        shape = f'<circle class="{css}" cx="{number(x)}" cy="{number(y)}" r="{"3" if css == "dot" else "4.5"}"/>'
        if "plan" in css.split():
            corners = " ".join(f"{number(x + dx)},{number(y + dy)}" for dx, dy in ((0, -7), (7, 0), (0, 7), (-7, 0)))
            shape = f'<polygon class="{css}" points="{corners}"/>'
        self.parts.append(titled(shape, title))

    def words(self, at: tuple[float, float], words: str, css: str) -> None:
        """Write beside a mark: what has the class ``plan`` on the left, all else on the right where there is room."""
        x, y, width = self.x(at[0]), self.y(at[1]), 7.0 * len(words)
        left = "plan" in css.split() and x - width > self.x.start
        above, below = -9, 17
        if left or x + width + 9 > self.x.end + _MARGIN:
            self.parts.append(text(x - 7, y + (above if self.rising or not left else below), words, css, "end"))
        else:
            self.parts.append(text(x + 9, y + (below if self.rising else above), words, css))
