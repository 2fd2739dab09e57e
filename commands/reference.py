"""Commands that show what can be asked for: rules, schema, engines, devices."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .flags import JsonOption, ProfileArgument

if TYPE_CHECKING:
    from ..hardware.specification import Figure

app = typer.Typer()


@app.command()
def rules(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A constraint file.")],
    profile_path: ProfileArgument,
    as_json: JsonOption = False,
) -> None:
    """Show what every limit and rule of a constraint file matches."""
    from ..planning.program import Program
    from ..reporting.terminal.rules_table import constraint_records, print_rules
    from ..sensitivity.profile import read_profile

    program = Program(read_profile(profile_path)).read(path)
    if as_json:
        typer.echo(json.dumps(constraint_records(program), ensure_ascii=False))
    else:
        print_rules(program, Console(markup=False))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the constraint file."""
    from ..planning.constraints.file import schema_text

    typer.echo(schema_text(), nl=False)


@app.command()
def engines(as_json: JsonOption = False) -> None:
    """List the inference engines whose rules are known, with the versions that they were checked against."""
    from ..planning.constraints.inference_engines import engine_names, load_engine_profile

    profiles = [load_engine_profile(name) for name in engine_names()]
    if as_json:
        typer.echo(json.dumps([found.model_dump() for found in profiles], ensure_ascii=False))
        return
    for found in profiles:
        typer.echo(f"{found.name}: {found.title}\n  {found.version}, checked {found.checked}. {found.how}")
        for why in [rule.why for rule in found.formats] + [tie.why for tie in found.ties]:
            typer.echo(f"  - {why}")
        typer.echo(f"  profile with --formats {found.suggest}")


@app.command()
def devices(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]…", help="Known ones or files, shown whole; default: a list.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the known devices, or show some with the origin of every number."""
    from ..hardware.specification import FIGURES, hardware_names, load_hardware
    from ..reporting.terminal.hardware_table import print_hardware

    known = [load_hardware(name) for name in names or hardware_names()]
    if as_json:
        typer.echo(json.dumps([found.model_dump() for found in known], ensure_ascii=False))
        return
    if not names:
        print_hardware(known, Console(markup=False))
        typer.echo("All numbers of one, with where each comes from: scantling devices NAME")
        return
    for found in known:
        typer.echo(f"{found.name}: {found.note}")
        stated = [(key, getattr(found, key)) for key in FIGURES]
        stated += [(f"efficiency of {entry.formats}", entry.share) for entry in found.efficiency]
        for key, figure in stated:
            words = "not known" if figure is None else _describe_figure(figure)
            typer.echo(f"  {key}: {words}")


def _describe_figure(figure: "Figure") -> str:
    return f"{figure.value} ({figure.origin}{': ' * bool(figure.source)}{figure.source})"
