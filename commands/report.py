"""The page of a plan."""

from pathlib import Path
from typing import Annotated

import typer

from .files import plan_and_profile, profile_path_of
from .flags import PlanArgument, ProfileOption
from .loading import progress

app = typer.Typer()


@app.command()
def report(
    plan_path: PlanArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("report.html"),
    comparison: Annotated[
        Path | None, typer.Option(help="What scantling compare -o wrote: predicted against measured.")
    ] = None,
    safety: Annotated[Path | None, typer.Option(help="What scantling safety wrote: the load-deflection curve.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write the pictures as SVG and PNG, the tables as JSON and CSV, here.")
    ] = None,
    points: Annotated[int, typer.Option(min=0, help="Of each frontier; 0 for none.")] = 40,
    profile_path: ProfileOption = None,
) -> None:
    """Write a plan as one page that opens offline in a browser."""
    from ..common.files import file_sha256, require_writable
    from ..planning.diagnose import naive_of
    from ..planning.plan_frontiers import frontiers_of
    from ..reporting.page.files import require_renderer, write_files
    from ..reporting.page.material import Material, Source, read_measurements
    from ..reporting.page.report import sections_of, write_page
    from ..solver.milp.base import SolverSettings
    from ..solver.milp.registry import solver_named

    require_writable(output, 1 << 20)
    if figures is not None:
        require_renderer()
    plan, profile = plan_and_profile(plan_path, profile_path)
    measured = read_measurements(plan, comparison, safety)
    profile_at = profile_path_of(plan, plan_path, profile_path)
    sources = (
        Source("plan", str(plan_path), file_sha256(plan_path)),
        Source("profile", str(profile_at), plan.profile_sha256),
        *measured.sources,
    )
    frontiers = frontiers_of(plan, profile, points, (solver_named("cpsat"), SolverSettings()), progress())
    naive = naive_of(plan, profile)
    material = Material(plan, profile, naive, measured.comparison, measured.safety, frontiers, sources)
    sections = sections_of(material)
    if figures is not None:
        written = write_files(material, sections, figures)
        typer.echo(f"Wrote {len(written)} files to {figures}.")
    write_page(material, sections, output)
    typer.echo(f"Wrote {output}: {output.stat().st_size:,} bytes, nothing in it is loaded from elsewhere.")
