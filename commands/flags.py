"""Flags that several commands share.

Knows nothing about what commands do.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ProfileArgument = Annotated[Path, typer.Argument(metavar="PROFILE", help="Written by: scantling profile")]
PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="Written by: scantling solve")]
ProfileOption = Annotated[
    Path | None, typer.Option("--profile", help="The profile, where it has moved since the plan was solved.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="The model, where it has moved since it was profiled.")
]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")]
DetailsOption = Annotated[
    bool, typer.Option("--details", help="Also print formats, limits, bytes, the cross-fit and the engine's cost.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_LIMITS, _USE, _RULES, _AIM = "Limits", "Hardware and workload", "Rules", "Objective"


def _flag(help_text: str, panel: str, *names: str) -> Any:  # noqa: ANN401 - typer's own type
    return typer.Option(*names, help=help_text, rich_help_panel=panel)


_PROGRAM_FLAGS: dict[str, Any] = {
    "memory": Annotated[
        str | None,
        _flag("Resident bytes at most, such as 60MiB: weights, and the KV cache where --context is given.", _LIMITS),
    ],
    "checkpoint_size": Annotated[str | None, _flag("Bytes of the checkpoint's tensors at most.", _LIMITS)],
    "average_bits": Annotated[
        str | None, _flag("Σ bits · weights / Σ weights at most, scales and zero points not counted.", _LIMITS)
    ],
    "power": Annotated[str | None, _flag("At most, such as 165W: at --rate, else at full speed.", _LIMITS)],
    "energy": Annotated[str | None, _flag("Per token at most, such as 2.5J.", _LIMITS)],
    "speed": Annotated[str | None, _flag("At least, such as '60 tok/s'.", _LIMITS)],
    "max_loss": Annotated[str | None, _flag("Predicted loss increase at most, in nats per token.", _LIMITS)],
    "hardware": Annotated[str | None, _flag("A known machine (scantling hardware list) or a hardware file.", _USE)],
    "context": Annotated[int | None, _flag("Tokens in the KV cache.", _USE)],
    "batch": Annotated[int | None, _flag("Sequences decoded at once.", _USE)],
    "kv_bits": Annotated[float | None, _flag("Bits of a number in the KV cache.", _USE)],
    "rate": Annotated[str | None, _flag("Tokens per second that are needed, such as '26 tok/s'.", _USE)],
    "engine": Annotated[
        str | None,
        _flag("The inference engine that must load the checkpoint (scantling engines); adds its rules.", _RULES),
    ],
    "constraints": Annotated[list[Path] | None, _flag("A constraint file (docs/constraints.md); repeatable.", _RULES)],
    "constraints_py": Annotated[
        str | None, _flag("FILE:FUNCTION. Runs your own Python function on the program.", _RULES, "--constraints-py")
    ],
    "pin_from": Annotated[
        list[str] | None,
        _flag("PLAN:PATTERN. Keep the formats of an earlier plan on these layers; repeatable.", _RULES),
    ],
    "safety_factor": Annotated[
        float | None, _flag("Factor of safety that the plan must reach when measured; see docs/safety.md.", _LIMITS)
    ],
    "minimize": Annotated[
        list[str] | None, _flag("loss_increase (the default), or a row such as memory; one after the other.", _AIM)
    ],
    "robust": Annotated[float | None, _flag("Standard errors added to the predicted loss.", _AIM)],
    "domains": Annotated[str | None, _flag("mean of the domains, or worst of them.", _AIM)],
}
_SOLVER_FLAGS: dict[str, tuple[Any, Any]] = {
    "solver": (Annotated[str, _flag("cpsat, or highs (HiGHS through cvxpy).", "Solver")], "cpsat"),
    "time_limit": (Annotated[float, _flag("Seconds for each solve.", "Solver")], 60.0),
    "threads": (Annotated[int, _flag("Threads of the solver; results with one are reproducible.", "Solver")], 1),
    "seed": (Annotated[int, _flag("Random seed of the solver.", "Solver")], 0),
    "gap": (
        Annotated[float, _flag("Stop at this proven gap, as a share of the objective; 0 for the optimum.", "Solver")],
        0.0,
    ),
}


def with_program_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a program and of a solver.

    Args:
        command: takes ``flags``, the program's flags that were given, and ``search``, the solver's, by name beside
            its own parameters.

    Returns:
        The command with all flags in its signature, for typer.
    """
    own = [
        p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in {"flags", "search"}
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in _PROGRAM_FLAGS.items()]
    added += [
        inspect.Parameter(name, keyword, default=default, annotation=kind)
        for name, (kind, default) in _SOLVER_FLAGS.items()
    ]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:  # noqa: ANN401
        flags = {name: values.pop(name) for name in _PROGRAM_FLAGS}
        search = {name: values.pop(name) for name in _SOLVER_FLAGS}
        given = {name: tuple(v) if isinstance(v, list) else v for name, v in flags.items() if v is not None}
        command(**values, flags=given, search=search)

    parameters = [parameter.replace(kind=keyword) for parameter in own] + added
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del wrapped.__wrapped__
    return wrapped
