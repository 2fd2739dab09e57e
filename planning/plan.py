"""The plan: which layer gets which format, what that comes to, and the certificate.

Knows nothing about tensors; layers are names and numbers here.
"""

import difflib
from collections.abc import Callable, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypedDict, Unpack

from ..common.errors import FileFormatError, InputError
from ..common.files import whole_file
from ..common.progress import Progress, silent, unreported
from ..common.records import Finite, VersionedRecord, read_record
from ..sensitivity.profile import Profile
from ..solver.instance import INSTANCE, Instance
from .original_model import load_original
from .plan_parts import (
    Assignment,
    Certificate,
    JointLoss,
    LimitUse,
    Objective,
    RefinementStep,
    SafetyClaim,
    average_bits,
)
from .plan_profile import find_profile, matching_profile, profile_for

if TYPE_CHECKING:
    from ..models.loading import LoadedModel
    from .diagnosis import Diagnosis
    from .verify_plan import Verification

__all__ = [
    "PLAN_VERSION",
    "Assignment",
    "Certificate",
    "JointLoss",
    "LimitUse",
    "Objective",
    "Plan",
    "RefinementStep",
    "SafetyClaim",
    "SearchOptions",
    "average_bits",
    "read_plan",
    "remembering",
    "write_plan",
]
PLAN_VERSION: Final = 3


class SearchOptions(TypedDict, total=False):
    """How the solver searches; see ``Program.solve``."""

    solver: str
    time_limit: float
    threads: int
    seed: int
    gap: float


class Plan(VersionedRecord):
    """A whole plan, as ``plan.json`` holds it.

    Attributes:
        plan_version: of this layout.
        scantling_version: that wrote it.
        model_source: where the model was loaded from.
        model_sha256: of its weights.
        profile_path: the profile that it was solved from.
        profile_sha256: of that file.
        loss_increase_nats: predicted for the whole plan, the sum of its layers' prices, in nats per token.
        loss_increase_standard_error_nats: over the profile's samples; None where there is only one.
        stored_bytes: of the whole checkpoint's tensors.
        other_bytes: of the parameters outside the program (norms, biases and the like), part of ``stored_bytes``.
        average_bits: Σ bits · weights / Σ weights over the decided layers; scales and zero points not counted.
        limits: the limits and their use.
        certificate: what is proven.
        assignments: one a layer.
        safety: the factor of safety that it was solved for; None where none was required.
        joint: the price of the plan as a whole; None where it was not priced.
        program: the program that the plan answers, its units in the order of the assignments.
    """

    version_key: ClassVar[str] = "plan_version"
    version: ClassVar[int] = PLAN_VERSION
    renamed_keys: ClassVar[Mapping[str, str]] = {
        "engine": "solver",
        "load_cases": "domains",
        "over_cases": "over_domains",
    }

    plan_version: Literal[3] = PLAN_VERSION
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
    safety: SafetyClaim | None = None
    joint: JointLoss | None = None
    program: Instance

    # Access

    @property
    def status(self) -> str:
        """``OPTIMAL``, ``FEASIBLE``, ``EDITED`` or ``REFINED``; see ``Certificate``."""
        return self.certificate.status

    @property
    def loss_increase(self) -> float:
        """Predicted for the whole plan, in nats per token."""
        return self.loss_increase_nats

    @property
    def gap(self) -> float | None:
        """By how much the first objective could be lower at most, in its own measure; None of an unproven plan."""
        return self.certificate.objectives[0].gap if self.certificate.objectives else None

    @property
    def shadow_prices(self) -> dict[str, float]:
        """How much the first objective would fall, by limit, per unit of slack: nats per token per byte of memory.

        Of the linear relaxation, in the measures of ``limits``; limits whose price is not known are left out.
        """
        return {use.name: use.price_per_step / use.step for use in self.limits if use.price_per_step is not None}

    @cached_property
    def _by_layer(self) -> dict[str, Assignment]:
        return {assignment.layer: assignment for assignment in self.assignments}

    def __getitem__(self, layer: str) -> Assignment:
        """Give a layer's assignment: its format, bits, bytes and predicted loss.

        Args:
            layer: its module path.

        Returns:
            The assignment.

        Raises:
            InputError: the plan has no such layer.
        """
        if layer not in self._by_layer:
            near = difflib.get_close_matches(layer, self._by_layer, 1, 0.0)
            raise InputError(f"the plan has no layer {layer!r}. The nearest: {', '.join(near)}.")
        return self._by_layer[layer]

    def __contains__(self, layer: object) -> bool:
        """Tell whether the plan has a layer of this name."""
        return layer in self._by_layer

    # Files

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Plan":
        """Read a plan; it remembers its folder, where its profile is looked for too."""
        return remembering(read_plan(Path(path)), folder=Path(path).parent)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all.

        Args:
            path: the file, replaced where it exists.
        """
        write_plan(self, Path(path))

    @cached_property
    def folder(self) -> Path | None:
        """The folder that the plan was loaded from; None where it was not."""
        return None

    @cached_property
    def profile(self) -> Profile:
        """The profile that the plan was solved from, read from its file unless it is in memory.

        Raises:
            InputError: it is not where the plan says, nor beside the plan, or the file has another hash.
        """
        path = find_profile(self, self.folder)
        if path is None:
            where = f"{self.profile_path} is not there" if self.profile_path else "was never saved"
            raise InputError(f"the plan's profile {where}. Give it as profile.")
        return matching_profile(self, path)

    # What follows from a plan. The modules behind stand on this one or in later rooms, so they are imported late.

    def verify(self, profile: str | PathLike[str] | None = None) -> "Verification":
        """Add up every limit, rule and objective again, without any solver, and hold the plan against its profile.

        Args:
            profile: the profile's file; None where the plan says, or beside the plan.

        Returns:
            What holds and what does not.
        """
        from .verify_plan import verify_plan  # noqa: PLC0415

        return verify_plan(self, find_profile(self, self.folder) if profile is None else Path(profile))

    def diagnose(
        self,
        profile: str | PathLike[str] | Profile | None = None,
        *,
        cross_fit: bool = True,
        engine_cost: bool = True,
        **search: Unpack[SearchOptions],
    ) -> "Diagnosis":
        """Say what the plan saves and how far its prediction can be trusted.

        Args:
            profile: that the plan was solved from; None for the one that it remembers or names.
            cross_fit: also price such plans on sequences that their solve did not see; four more solves.
            engine_cost: also price the inference engine's rules; up to two more solves.
            search: as of ``Program.solve``: solver, time_limit, threads, seed, gap.

        Returns:
            The diagnosis.
        """
        from .diagnose import diagnose_plan  # noqa: PLC0415
        from .solve import search_with  # noqa: PLC0415

        return diagnose_plan(
            self,
            profile_for(self, profile),
            search_with(**search),
            with_cross_fit=cross_fit,
            with_engine_cost=engine_cost,
        )

    def refine(
        self,
        max_steps: int,
        *,
        model: "str | PathLike[str] | LoadedModel | None" = None,
        trust_remote_code: bool = False,
        progress: Progress | None = None,
        report: Callable[[str], None] | None = None,
        **search: Unpack[SearchOptions],
    ) -> "Plan":
        """Try steps to plans that measure better, with the model; see evaluation/refinement.py.

        Args:
            max_steps: steps that are tried.
            model: the original model, loaded or by name or path; None for the one that the plan names.
            trust_remote_code: run code that comes with the model.
            progress: shows how far the passes are; None for silence.
            report: is told what each step did; None for silence.
            search: as of ``Program.solve``.

        Returns:
            The refined plan; this one where no step was kept.
        """
        from ..evaluation.refine_plan import refine_plan  # noqa: PLC0415
        from .solve import search_with  # noqa: PLC0415

        shown = progress or silent

        def load() -> "LoadedModel":
            return load_original(model, self.model_source, shown, trust_remote_code=trust_remote_code)

        return refine_plan(self, self.profile, load, search_with(**search), max_steps, shown, report or unreported)

    def price_jointly(
        self,
        *,
        model: "str | PathLike[str] | LoadedModel | None" = None,
        trust_remote_code: bool = False,
        progress: Progress | None = None,
    ) -> "Plan":
        """Price the plan as a whole, with what the errors of its layers have in common; the result has ``joint``."""
        from .joint_loss import with_joint_loss  # noqa: PLC0415

        shown = progress or silent
        loaded = load_original(model, self.model_source, shown, trust_remote_code=trust_remote_code)
        return with_joint_loss(self, self.profile, loaded, shown)

    def export(
        self,
        output: str | PathLike[str],
        *,
        backend: str,
        inputs: str | None = None,
        shard: str = "4GiB",
        in_memory: bool = False,
        model: "str | PathLike[str] | LoadedModel | None" = None,
        profile: str | PathLike[str] | Profile | None = None,
        trust_remote_code: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Write the model in the plan's formats as a checkpoint; a run that was stopped goes on where it ended.

        Args:
            output: the folder, of ``gguf`` the file; it must not exist yet.
            backend: ``gptq``, ``compressed-tensors``, ``auto-gptq``, ``fake`` or ``gguf``.
            inputs: what layers are rounded against: ``original``, ``quantized`` or ``corrected`` inputs; None for the
                backend's default.
            shard: bytes of tensors in one file at most.
            in_memory: hold all weights in memory rather than in a scratch file beside the output.
            model: the original model, loaded or by name or path; None for the one that the plan names.
            profile: that the plan was solved from; None for the one that it remembers or names.
            trust_remote_code: run code that comes with the model.
            progress: shows how far the work is; None for silence.

        Returns:
            The checkpoint's path.

        Raises:
            ScantlingError: the backend cannot write a format, or model, profile and plan do not belong together.
        """
        from ..backends.write import export_plan  # noqa: PLC0415

        export_plan(
            self,
            Path(output),
            backend=backend,
            inputs=inputs,
            shard=shard,
            in_memory=in_memory,
            model=model,
            profile=profile_for(self, profile),
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
        return Path(output)

    # In the program's terms

    def choice(self) -> tuple[int, ...]:
        """Give the plan in the program's terms.

        Returns:
            The index of the format that each unit takes.

        Raises:
            FileFormatError: the assignments are not of the program's units and formats.
        """
        found = []
        for unit, assignment in zip(self.program.units, self.assignments, strict=False):
            if unit.name != assignment.layer or assignment.format not in unit.formats:
                raise FileFormatError(
                    f"the plan gives {assignment.layer!r} the format {assignment.format!r}, where its program has "
                    f"{unit.name!r} with {', '.join(unit.formats)}. The file was edited: use scantling edit."
                )
            found.append(unit.formats.index(assignment.format))
        if len(self.program.units) != len(self.assignments):
            raise FileFormatError(
                f"the plan has {len(self.assignments)} layers, its program {len(self.program.units)}. The file "
                "was edited."
            )
        return tuple(found)

    def formats(self) -> dict[str, str]:
        """Give the format of every layer, by its name."""
        return {assignment.layer: assignment.format for assignment in self.assignments}


def remembering(plan: Plan, *, profile: Profile | None = None, folder: Path | None = None) -> Plan:
    """Let a plan remember its profile or its folder: kept in its cached properties, so no part of the record."""
    new = plan.model_copy()
    new.__dict__ |= {key: value for key, value in (("profile", profile), ("folder", folder)) if value is not None}
    return new


def write_plan(plan: Plan, path: Path) -> None:
    """Write ``plan.json``, whole or not at all; a file that is there is replaced."""
    readable = plan.model_dump_json(indent=1, exclude={"program"}).removesuffix("\n}")
    with whole_file(path) as partial, partial.open("wb") as written:
        written.write(f'{readable},\n "program": '.encode())
        written.write(INSTANCE.dump_json(plan.program) + b"\n}\n")  # tables of numbers, for verify: one line


def read_plan(path: Path) -> Plan:
    """Read ``plan.json``."""
    return read_record(Plan, path, f"plan of version {PLAN_VERSION}", "scantling solve PROFILE")
