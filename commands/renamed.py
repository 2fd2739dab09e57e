"""Commands and options of version 0.1 that were renamed: the error says the new name."""

from typing import Any, Final

from typer.core import TyperGroup

from ..common.errors import InputError

RENAMED_COMMANDS: Final = {
    "device fit": "scantling hardware fit",
    "device measure": "scantling hardware measure",
    "device reference-case": "python benchmarks/reference_case.py",
    "device": "scantling hardware",
    "devices": "scantling hardware list",
    "intelligence": "scantling efficiency",
}
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
        called = next((words for words in (" ".join(args[:2]), *args[:1]) if words in RENAMED_COMMANDS), None)
        if called is not None:
            raise InputError(f"scantling {called} is now {RENAMED_COMMANDS[called]}. Use that instead.")
        return super().parse_args(ctx, args)
