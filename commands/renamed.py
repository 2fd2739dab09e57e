"""Commands and options of version 0.1 that have another name now: an old one is refused with the new one."""

from typing import Any, Final

from typer.core import TyperGroup

from ..common.errors import ScantlingError

RENAMED_COMMANDS: Final = {"device": "hardware", "devices": "hardware list", "intelligence": "efficiency"}
RENAMED_OPTIONS: Final = {
    "--device": "--hardware",
    "--load-cases": "--domains",
    "--rungs": "--points",
    "--stored": "--checkpoint-size",
    "--unconfirmed": "--predicted-only",
}


class Commands(TyperGroup):
    """The commands, which tell the new name of what was renamed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Refuse names of version 0.1.

        Args:
            ctx: of the command line.
            args: as typed.

        Returns:
            What the group leaves to its commands.

        Raises:
            ScantlingError: a command or an option has another name now.
        """
        for word in args:
            option = word.partition("=")[0]
            if option in RENAMED_OPTIONS:
                raise ScantlingError(f"{option} is now {RENAMED_OPTIONS[option]}. Write that instead.")
        if args and args[0] in RENAMED_COMMANDS:
            raise ScantlingError(f"scantling {args[0]} is now scantling {RENAMED_COMMANDS[args[0]]}. Call that.")
        return super().parse_args(ctx, args)
