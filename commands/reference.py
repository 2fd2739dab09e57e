"""Reference commands: rules, schema, engines."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .flags import JsonOption, ProfileArgument

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
