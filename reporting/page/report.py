"""The page of a plan, and its pictures and tables as files.

Knows nothing about the command line.
"""

from collections.abc import Sequence
from pathlib import Path

from ...common.files import whole_file
from .allocation_section import allocation_section
from .comparison_section import comparison_section
from .frontier_section import frontier_section
from .limits_section import limits_section
from .material import Material
from .page import page
from .parts import Section
from .provenance_section import provenance_section
from .safety_section import safety_section
from .summary import summary_section


def sections_of(material: Material) -> tuple[Section, ...]:
    """All sections of a page, in order; one whose material is missing says which command makes it."""
    return (
        summary_section(material),
        allocation_section(material.plan),
        frontier_section(material),
        comparison_section(material),
        safety_section(material),
        limits_section(material.plan),
        provenance_section(material),
    )


def write_page(material: Material, sections: Sequence[Section], path: Path) -> None:
    """Write the page, whole or not at all; a file at ``path`` is replaced."""
    name = Path(material.plan.model_source).name
    written = page(f"Bit allocation of {name}", "Which storage format every weight matrix gets, and why.", sections)
    with whole_file(path) as partial:
        partial.write_text(written, encoding="utf-8")
