"""The command line. Each command reads files, calls one function and writes files.

Commands import what they run when they run it, so that ``--help`` and ``solve`` do not wait for torch.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from . import __version__
from .commands import checkpoint, compare, demo, efficiency, hardware, profile, reference, report, safety, solve
from .commands.renamed import Commands
from .common.errors import ScantlingError

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Decides how many bits each layer of a language model gets.",
)

for command in (demo, profile, solve, compare, checkpoint, reference, hardware, report, safety, efficiency):
    app.add_typer(command.app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scantling {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Decides how many bits each layer of a language model gets."""


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Turn a ScantlingError into one message on standard error and exit status 1."""
    try:
        yield
    except ScantlingError as error:
        message = Text("error: ", style="bold red") + Text(str(error), style="not bold")
        Console(stderr=True, soft_wrap=True).print(message)
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    with _reported_errors():
        app(prog_name="scantling")


if __name__ == "__main__":
    main()
