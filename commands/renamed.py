"""Commands and options of version 0.1 that were renamed: the error says the new name."""

from typing import Any, Final

from typer.core import TyperGroup

from ..common.errors import InputError

RENAMED_COMMANDS: Final = {"device": "hardware", "devices": "hardware list", "intelligence": "efficiency"}
RENAMED_OPTIONS: Final = {
    "--device": "--hardware",
    "--load-cases": "--domains",
    "--rungs": "--points",
    "--stored": "--checkpoint-size",
    "--unconfirmed": "--predicted-only",
}


class Commands(TyperGroup):
    """The group of commands, which knows what was renamed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Refuse names of version 0.1, as typed in ``args``."""
        for word in args:
            option = word.partition("=")[0]
            if option in RENAMED_OPTIONS:
                raise InputError(f"{option} is now {RENAMED_OPTIONS[option]}. Write that instead.")
        if args and args[0] in RENAMED_COMMANDS:
            raise InputError(f"scantling {args[0]} is now scantling {RENAMED_COMMANDS[args[0]]}. Call that.")
        return super().parse_args(ctx, args)
