"""Draw the boxes and arrows of the documentation as SVG: `python docs/generate.py` writes them.

Drawn here rather than by a script in the page, so that the site shows them without a request to another host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_STYLE: Final = (
    "rect{fill:#f4f6f8;stroke:#546e7a}text{font:13px sans-serif;fill:#1f2d33;text-anchor:middle}"
    "text.small{font-size:11px;fill:#546e7a}path{fill:none;stroke:#78909c;stroke-width:1.5;marker-end:url(#tip)}"
    "#tip path{fill:#78909c;stroke:none;marker-end:none}"
)
_GAP: Final = 3.0


@dataclass(frozen=True)
class Box:
    """A box by its centre, in pixels, with a line of text and a smaller one below."""

    x: float
    y: float
    text: str
    small: str = ""


@dataclass(frozen=True)
class Drawing:
    """Boxes of one size by name, and arrows from one to another."""

    title: str
    width: int
    height: int
    box: tuple[int, int]
    boxes: Mapping[str, Box]
    arrows: Sequence[tuple[str, str]]

    def svg(self) -> str:
        """Write the drawing as a file."""
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}"><title>{escape(self.title)}</title><style>{_STYLE}</style>',
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 10 5 0 10z"/></marker></defs>',
            *(self._arrow(self.boxes[start], self.boxes[end]) for start, end in self.arrows),
            *(self._box(box) for box in self.boxes.values()),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _box(self, box: Box) -> str:
        wide, high = self.box
        found = f'<rect x="{box.x - wide / 2:g}" y="{box.y - high / 2:g}" width="{wide}" height="{high}" rx="5"/>'
        if not box.small:
            return f'{found}<text x="{box.x:g}" y="{box.y + 4:g}">{escape(box.text)}</text>'
        return (
            f'{found}<text x="{box.x:g}" y="{box.y - 3:g}">{escape(box.text)}</text>'
            f'<text class="small" x="{box.x:g}" y="{box.y + 13:g}">{escape(box.small)}</text>'
        )

    def _arrow(self, start: Box, end: Box) -> str:
        """Draw from edge to edge: across within a row, else from the lower edge to the upper one."""
        wide, high = self.box[0] / 2 + _GAP, self.box[1] / 2 + _GAP
        if abs(start.y - end.y) < self.box[1]:
            side = 1 if end.x > start.x else -1
            return f'<path d="M{start.x + side * wide:g} {start.y:g}L{end.x - side * wide:g} {end.y:g}"/>'
        down = 1 if end.y > start.y else -1
        middle = (start.y + end.y) / 2
        return f'<path d="M{start.x:g} {start.y + down * high:g}V{middle:g}H{end.x:g}V{end.y - down * high:g}"/>'


def _row(y: float, *names: str, left: float, step: float) -> dict[str, Box]:
    return {name: Box(left + step * index, y, f"{name}/") for index, name in enumerate(names)}


ROOMS: Final = Drawing(
    "Rooms, and which may import which",
    760,
    350,
    (118, 34),
    {
        **_row(30, "common", left=380, step=0),
        **_row(105, "solver", left=80, step=0),
        **_row(105, "quantization", "models", "sensitivity", left=380, step=150),
        **_row(180, "hardware", left=230, step=0),
        **_row(250, "planning", left=80, step=0),
        **_row(320, "backends", "evaluation", "reporting", "commands", left=80, step=150),
        "main": Box(680, 320, "__main__"),
    },
    (
        ("common", "solver"),
        ("common", "quantization"),
        ("quantization", "models"),
        ("models", "sensitivity"),
        ("solver", "hardware"),
        ("sensitivity", "hardware"),
        ("hardware", "planning"),
        ("planning", "backends"),
        ("backends", "evaluation"),
        ("evaluation", "reporting"),
        ("reporting", "commands"),
        ("commands", "main"),
    ),
)
BUDGET: Final = Drawing(
    "How a budget becomes a checkpoint",
    760,
    330,
    (170, 46),
    {
        "flag": Box(95, 35, "--memory 110MiB", "commands/"),
        "constraint": Box(285, 35, "constraint", "planning/"),
        "lowering": Box(475, 35, "limit on resident bytes", "planning/"),
        "rows": Box(665, 35, "bytes of every format", "quantization/, hardware/"),
        "profile": Box(285, 125, "prices of every format", "sensitivity/"),
        "program": Box(475, 125, "integer program", "solver/"),
        "solution": Box(475, 210, "proven solution, verified", "solver/, solver/milp/"),
        "plan": Box(475, 295, "plan.json, certificate", "planning/"),
        "rounding": Box(285, 295, "rounded block by block", "models/, sensitivity/"),
        "checkpoint": Box(95, 295, "packed, to the byte", "backends/"),
    },
    (
        ("flag", "constraint"),
        ("constraint", "lowering"),
        ("rows", "lowering"),
        ("lowering", "program"),
        ("profile", "program"),
        ("program", "solution"),
        ("solution", "plan"),
        ("plan", "rounding"),
        ("rounding", "checkpoint"),
    ),
)
STAGES: Final = Drawing(
    "Stages, each a command and a file",
    760,
    210,
    (110, 34),
    {
        "model": Box(65, 105, "model"),
        "profile": Box(215, 105, "profile"),
        "solve": Box(365, 105, "solve"),
        "apply": Box(530, 30, "apply"),
        "check": Box(690, 30, "check"),
        "compare": Box(530, 105, "compare"),
        "report": Box(690, 180, "report"),
        "safety": Box(365, 180, "safety"),
    },
    (
        ("model", "profile"),
        ("profile", "solve"),
        ("solve", "compare"),
        ("solve", "apply"),
        ("solve", "safety"),
        ("apply", "check"),
        ("compare", "report"),
        ("safety", "report"),
    ),
)


def drawings() -> dict[str, str]:
    """Every drawing by its file's name."""
    return {"rooms.svg": ROOMS.svg(), "budget.svg": BUDGET.svg(), "stages.svg": STAGES.svg()}
