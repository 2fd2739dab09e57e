"""One page with everything in it: no other file, no network. Templates write it and escape whatever is shown.

Knows nothing about what sections say.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .parts import Section
from .svg import DARK, FONT, LIGHT, chart_style

_TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Make the environment of the page's templates, which escapes in all of them."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Write sections, in their order, as a whole HTML document."""
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            font=FONT,
            light_charts=chart_style(LIGHT),
            dark_charts=chart_style(DARK),
        )
    )
