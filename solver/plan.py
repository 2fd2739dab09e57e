"""The plan: which layer gets which format, what that comes to, and the certificate.

Knows nothing about tensors; layers are names and numbers here.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .atomic import whole_file
from .errors import ScantlingError

PLAN_VERSION: Final = 1
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """A piece of a file: unknown keys are refused and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Assignment(Record):
    """One layer's format.

    Attributes:
        layer: the layer's module path.
        kind: its path inside its block, or ``embedding``, ``head``.
        block: the index of its block; None outside the blocks.
        format: the name of its format.
        bits: the width of one weight's code.
        num_weights: how many weights it has.
        stored_bytes: what it takes in the checkpoint, scales and zero points included.
        loss_increase_nats: its predicted share of the loss increase, in nats per token.
        decided: whether the program had a choice here.
    """

    layer: str
    kind: str
    block: int | None
    format: str
    bits: int
    num_weights: int
    stored_bytes: int
    loss_increase_nats: Finite
    decided: bool


class LimitUse(Record):
    """A limit and how much of it the plan uses.

    Attributes:
        name: what is limited.
        at_most: the bound.
        used: what the plan comes to.
    """

    name: str
    at_most: int
    used: int


class Certificate(Record):
    """What is proven about the plan.

    Attributes:
        status: ``OPTIMAL`` or ``FEASIBLE``.
        objective_nats: the predicted loss increase that was minimised, added up again without the engine.
        bound_nats: no plan within the limits has a smaller one.
        resolution_nats: how far the engine's integers may be from the costs over a whole plan.
        solve_seconds: wall time in the engine.
        engine: its name and version.
        seed: of its random choices.
        num_units: decisions with more than one format.
        num_options: binaries of the program.
    """

    status: Literal["OPTIMAL", "FEASIBLE"]
    objective_nats: Finite
    bound_nats: Finite
    resolution_nats: Finite
    solve_seconds: Finite
    engine: str
    seed: int
    num_units: int
    num_options: int

    @property
    def gap_nats(self) -> float:
        """Objective minus bound: by how much a better plan could be better, at most."""
        return self.objective_nats - self.bound_nats


class Plan(Record):
    """A whole plan, as ``plan.json`` holds it.

    Attributes:
        plan_version: of this layout.
        scantling_version: that wrote it.
        model_source: where the model was loaded from.
        model_sha256: of its weights.
        profile_path: the profile that it was solved from.
        profile_sha256: of that file.
        loss_increase_nats: predicted for the whole plan, in nats per token.
        loss_increase_standard_error_nats: over the profile's samples; None where there is only one.
        stored_bytes: of the whole checkpoint's tensors.
        other_bytes: of the parameters outside the program (norms, biases and the like), part of ``stored_bytes``.
        average_bits: Σ bits · weights / Σ weights over the decided layers; scales and zero points not counted.
        limits: the limits and their use.
        certificate: what is proven.
        assignments: one a layer.
    """

    plan_version: Literal[1] = PLAN_VERSION
    scantling_version: str
    model_source: str
    model_sha256: str
    profile_path: str
    profile_sha256: str
    loss_increase_nats: Finite
    loss_increase_standard_error_nats: Finite | None
    stored_bytes: int
    other_bytes: int
    average_bits: Finite
    limits: tuple[LimitUse, ...]
    certificate: Certificate
    assignments: tuple[Assignment, ...]

    def formats(self) -> dict[str, str]:
        """Give the format of every layer.

        Returns:
            Layer names and format names.
        """
        return {assignment.layer: assignment.format for assignment in self.assignments}


def average_bits(bits_and_weights: Sequence[tuple[int, int]]) -> float:
    """Average a width over weights: Σ bits · weights / Σ weights.

    Args:
        bits_and_weights: the width and the number of weights of every layer.

    Returns:
        Bits per weight; 0 where there are no layers.

    >>> average_bits([(2, 100), (8, 50)])
    4.0
    """
    num_weights = sum(weights for _, weights in bits_and_weights)
    return sum(bits * weights for bits, weights in bits_and_weights) / num_weights if num_weights else 0.0


def write_plan(plan: Plan, path: Path) -> None:
    """Write ``plan.json``, whole or not at all.

    Args:
        plan: the plan.
        path: the file, replaced where it exists.
    """
    with whole_file(path) as partial:
        partial.write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """Read ``plan.json``.

    Args:
        path: the file.

    Returns:
        The plan.

    Raises:
        ScantlingError: there is no such file, or it is not a plan of this version.
    """
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ScantlingError(f"there is no plan {path}. Write one with: scantling solve PROFILE -o {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ScantlingError(f"cannot read the plan {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ScantlingError(
            f"{path} is not a plan of version {PLAN_VERSION}: {where}: {first['msg']}. "
            "Solve again with: scantling solve"
        ) from error


def file_sha256(path: Path) -> str:
    """Hash a file.

    Args:
        path: the file.

    Returns:
        Its SHA-256 in hexadecimal.
    """
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
