"""The pictures of a page as SVG and PNG, its tables as JSON and CSV.

Numbers in these tables are as exact as in the plan; CSV leaves out what is not a single value, JSON has everything.

Knows nothing about pages.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...common.errors import MissingDependencyError, StorageError
from ...common.files import whole_file
from ...common.records import Record
from .material import Material
from .parts import Section
from .svg import Chart

_ZOOM = 2  # pixels of a PNG for one of the SVG


def require_renderer() -> None:
    """Require what renders PNG files.

    Raises:
        MissingDependencyError: the extra is not installed.
    """
    try:
        import matplotlib  # noqa: F401, PLC0415 - an extra
        import resvg_py  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "--figures needs resvg and matplotlib's fonts: pip install 'scantling[pictures]'"
        ) from error


def write_files(material: Material, sections: Sequence[Section], folder: Path) -> list[str]:
    """Write pictures and tables; files that stand there under the same names are replaced.

    Args:
        material: of the page.
        sections: of the page.
        folder: made where it does not exist.

    Returns:
        The names of the files.

    Raises:
        StorageError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}. Give another --figures.") from error
    contents: dict[str, bytes] = {}
    for chart in (chart for section in sections for chart in section.charts):
        contents[f"{chart.name}.svg"] = chart.standalone().encode()
        contents[f"{chart.name}.png"] = _png(chart)
    for name, records in _tables(material).items():
        rows = [record.model_dump(mode="json") for record in records]
        contents[f"{name}.json"] = (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode()
        contents[f"{name}.csv"] = _csv(rows).encode()
    for name, content in contents.items():
        with whole_file(folder / name) as partial:
            partial.write_bytes(content)
    return list(contents)


def _png(chart: Chart) -> bytes:
    """Render a chart; with matplotlib's own font file, so that the same chart gives the same picture anywhere."""
    import matplotlib as mpl  # noqa: PLC0415 - extras
    import resvg_py  # noqa: PLC0415

    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=chart.standalone(),
            zoom=_ZOOM,
            skip_system_fonts=True,
            font_files=[str(fonts / "DejaVuSans.ttf"), str(fonts / "DejaVuSans-Bold.ttf")],
        )
    )


def _tables(material: Material) -> dict[str, Sequence[Record]]:
    tables: dict[str, Sequence[Record]] = {
        "allocation": material.plan.assignments,
        "limits": material.plan.limits,
    }
    for found in material.frontiers:
        tables[f"frontier-{found.rows[0].name.replace('_', '-')}"] = found.points
    if material.comparison is not None:
        tables |= {
            "entries": material.comparison.entries,
            "differences": material.comparison.differences,
            "format_changes": material.comparison.format_changes,
        }
    if material.safety is not None:
        tables |= {"sweep": material.safety.sweep, "factors": material.safety.plans}
    return tables


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    single = [key for key in (rows[0] if rows else {}) if not any(isinstance(row[key], dict | list) for row in rows)]
    written = io.StringIO()
    writer = csv.DictWriter(written, single, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()
