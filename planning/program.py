"""What a user asks of a plan, put together call by call, and solved.

A Program never changes: every method returns a new one with one constraint more, so that programs can branch.

    program = Program(profile).limit(memory="18 GiB").min_bits("*.v_proj", 4).engine("vllm")
    plan = program.solve(time_limit=60)

Knows nothing about how constraints become rows and rules, nor how those are solved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack

from ..common.errors import InputError
from ..hardware.resources import Rows
from ..hardware.specification import Hardware, load_hardware
from ..hardware.workload import Workload
from ..sensitivity.profile import Profile
from ..solver.instance import Instance, LossMeasure, write_instance
from .constraint import Constraint, LoweredConstraint, PinToPlan, PlanLimit, Request, make_record, with_origin
from .constraints.file import read_constraints
from .constraints.inference_engines import EngineProfile, load_engine_profile
from .constraints.limits import Limits, PlanLimits, Robust
from .constraints.rules import (
    AllowRule,
    DevicesRule,
    DistinctRule,
    LinearRule,
    OrderRule,
    Per,
    Safety,
    SumRule,
    Term,
    TieRule,
)
from .layer_table import LayerTable
from .lowering import Aim, build_instance, lower_constraints
from .plan import Plan
from .power_ratio import lower_with_least_power
from .safety_factor import SafetyOptions, solve_with_safety
from .solve import search_with
from .solve import solve as solve_instance

Names = str | Sequence[str]
Number = str | float
CALL = "Python"


@dataclass(frozen=True)
class Program:
    """Limits, rules and objectives for the plan of one profile.

    Attributes:
        profile: what formats cost.
        constraints: limits and rules in their order.
        work: how the model is used.
        on_hardware: where it runs; None where that was not said.
        for_engine: the inference engine that must load the checkpoint; None where that was not said.
        objectives: minimised one after the other; empty for the loss.
        loss: how domains and uncertainty become one loss; None for the mean.
        objectives_origin: where the objectives were given.
        safety_factor: that the plan must reach; None where none was given. It becomes a limit on the loss when it is
            known what the model bears, which takes a measurement.
        safety_origin: where it was given.
    """

    profile: Profile
    constraints: tuple[Constraint, ...] = ()
    work: Workload = field(default_factory=Workload)
    on_hardware: Hardware | None = None
    for_engine: EngineProfile | None = None
    objectives: tuple[str, ...] = ()
    loss: LossMeasure | None = None
    objectives_origin: str = ""
    safety_factor: float | None = None
    safety_origin: str = ""

    # Limits

    def limit(
        self,
        row: str | None = None,
        *,
        at_most: Number | None = None,
        at_least: Number | None = None,
        layers: Names | None = None,
        name: str | None = None,
        origin: str = CALL,
        **limits: Unpack[PlanLimits],
    ) -> "Program":
        """Limit rows: ``limit(memory="110 MiB")``, or one in detail: ``limit("speed", at_least="20 tok/s")``.

        Args:
            row: a key of ``PlanLimits``, a row's name, or the name of a row of your own.
            at_most: its upper bound with its unit.
            at_least: its lower bound with its unit.
            layers: patterns of the layers that are summed; None for the whole plan.
            name: what messages call it.
            origin: where it was given.
            limits: whole-plan limits by key; all are upper bounds but ``speed``.

        Returns:
            The program with these limits.

        Raises:
            InputError: no limit, an unknown key, or a bound that is no quantity of the row's measure.
        """
        if row is None:
            if at_most is not None or at_least is not None or layers is not None or not limits:
                raise InputError(f"{origin}: limit what? Write limit(memory='60 MiB'), or limit('memory', at_most=…).")
            made = make_record(Limits, limits, origin).bounds()
            return replace(
                self, constraints=(*self.constraints, *(Constraint(PlanLimit(k, b), origin) for k, b in made.items()))
            )
        if limits:
            raise InputError(f"{origin}: give limits by keyword or one row by name, not both.")
        bounds = {"at_most": at_most, "at_least": at_least, "name": name}
        if layers is None and row in Limits.model_fields:
            return self.add(PlanLimit(row, make_record(Limits, {row: bounds}, origin).bounds()[row]), origin)
        return self.add(make_record(SumRule, {"sum": row, "layers": _tuple(layers), **bounds}, origin), origin)

    def memory(self, at_most: Number, origin: str = CALL) -> "Program":
        """Limit resident bytes: weights, what lies outside the program, and at a context KV cache and activations."""
        return self.limit("memory", at_most=at_most, origin=origin)

    def row(
        self,
        name: str,
        coefficients: Sequence[Mapping[str, Any]],
        *,
        at_most: Number | None = None,
        at_least: Number | None = None,
        origin: str = CALL,
    ) -> "Program":
        """Add a linear row, which limits and objectives may name; of terms with layers, formats, bits and add."""
        terms = tuple(
            make_record(Term, {**term, "layers": _tuple(term.get("layers"))}, origin) for term in coefficients
        )
        values = {"name": name, "linear": terms, "at_most": at_most, "at_least": at_least}
        return self.add(make_record(LinearRule, values, origin), origin)

    def devices(self, parts: Sequence[Mapping[str, Any]], *, name: str | None = None, origin: str = CALL) -> "Program":
        """Limit resident bytes on each of several devices; parts have the keys of ``Part``: name, blocks, at_most."""
        return self.add(make_record(DevicesRule, {"devices": tuple(parts), "name": name}, origin), origin)

    # Rules about choices; layers are given by patterns

    def allow(self, layers: Names, formats: Names, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Restrict layers to some formats, by pattern."""
        return self._allow(layers, origin, formats=_tuple(formats), name=name)

    def pin(self, layers: Names, format_name: str, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Give layers one format."""
        return self._allow(layers, origin, format=format_name, name=name)

    def min_bits(self, layers: Names, bits: float, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Bound the bits of layers from below."""
        return self._allow(layers, origin, min_bits=bits, name=name)

    def max_bits(self, layers: Names, bits: float, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Bound the bits of layers from above."""
        return self._allow(layers, origin, max_bits=bits, name=name)

    def _allow(self, layers: Names, origin: str, **values: object) -> "Program":
        return self.add(make_record(AllowRule, {"layers": _tuple(layers), **values}, origin), origin)

    def pin_from(
        self, plan: Plan | str | PathLike[str], layers: Names, *, plan_name: str | None = None, origin: str = CALL
    ) -> "Program":
        """Keep another plan's formats on some layers; messages call that plan ``plan_name``."""
        name = plan_name or ("the plan" if isinstance(plan, Plan) else str(plan))
        earlier = plan if isinstance(plan, Plan) else Plan.load(plan)
        return self.add(PinToPlan(_tuple(layers) or (), earlier.formats(), name), origin)

    def tie(self, layers: Names, *, per: Per = "all", name: str | None = None, origin: str = CALL) -> "Program":
        """Give layers the same format: all alike, or those of each ``block``, ``kind`` or ``parent`` module."""
        values = {"layers": _tuple(layers), "same": True, "per": per, "name": name}
        return self.add(make_record(TieRule, values, origin), origin)

    def order(
        self,
        finer: Names,
        coarser: Names,
        *,
        per: Literal["all", "block", "parent"] = "all",
        name: str | None = None,
        origin: str = CALL,
    ) -> "Program":
        """Give finer layers at least the bits of coarser ones: of all, or within each block or parent module."""
        values = {"layers": _tuple(finer), "at_least_as_fine_as": _tuple(coarser), "per": per, "name": name}
        return self.add(make_record(OrderRule, values, origin), origin)

    def distinct(
        self,
        at_most: int,
        *,
        layers: Names | None = None,
        per: Literal["all", "block", "kind"] = "all",
        name: str | None = None,
        origin: str = CALL,
    ) -> "Program":
        """Bound the number of different formats: among all layers, or in each block or kind."""
        values = {"distinct_formats": at_most, "layers": _tuple(layers), "per": per, "name": name}
        return self.add(make_record(DistinctRule, values, origin), origin)

    # What there is one of

    def engine(self, name: str, origin: str = CALL) -> "Program":
        """Require that an inference engine loads the checkpoint; raises InputError where another one is named."""
        engine = with_origin(origin, load_engine_profile, name)
        if self.for_engine is not None and self.for_engine.name != name:
            raise InputError(f"{origin}: two engines are given, {self.for_engine.name} and {name}. Give one.")
        return replace(self, for_engine=engine)

    def hardware(self, hardware: str | Hardware, origin: str = CALL, beside: Path | None = None) -> "Program":
        """Say which machine the model runs on; its memory becomes a limit.

        Args:
            hardware: a known name, the path of a hardware file, or the record.
            origin: where it was given.
            beside: the folder that a relative path is looked for in first.

        Returns:
            The program for this machine.

        Raises:
            InputError: there is no such machine, or another one is given.
        """
        found = with_origin(origin, load_hardware, hardware, beside) if isinstance(hardware, str) else hardware
        if self.on_hardware is not None and self.on_hardware != found:
            raise InputError(f"{origin}: two machines are given, {self.on_hardware.name} and {found.name}. Give one.")
        return replace(self, on_hardware=found)

    def workload(self, origin: str = CALL, **values: object) -> "Program":
        """Say how the model is used, by keys of ``Workload`` such as context, batch, kv_bits and rate."""
        before = self.work.model_dump(exclude_none=True)
        new = {key: value for key, value in values.items() if value is not None}
        for key in before.keys() & new.keys():
            if before[key] != new[key]:
                raise InputError(f"{origin}: {key} is given twice, as {before[key]} and {new[key]}. Give one.")
        return replace(self, work=make_record(Workload, {**before, **new}, origin))

    def minimize(self, *objectives: str, origin: str = CALL) -> "Program":
        """Minimise ``loss_increase`` or rows such as ``power``; each among the optima of those before."""
        if self.objectives and self.objectives != objectives:
            raise InputError(
                f"{origin}: it was said already to minimise {', '.join(self.objectives)}. Say it once, as a list."
            )
        if not objectives or len(set(objectives)) < len(objectives):
            raise InputError(f"{origin}: minimise {', '.join(objectives) or 'nothing'}? Name each objective once.")
        return replace(self, objectives=objectives, objectives_origin=origin)

    def robust(
        self, standard_errors: float = 0.0, domains: Literal["mean", "worst"] = "mean", origin: str = CALL
    ) -> "Program":
        """Add k standard errors to the predicted loss, and take the mean or the worst of the domains."""
        measure = make_record(Robust, {"standard_errors": standard_errors, "domains": domains}, origin)
        loss = LossMeasure(measure.domains, measure.standard_errors)
        if self.loss is not None and self.loss != loss:
            raise InputError(f"{origin}: it was said twice how uncertainty enters the loss. Say it once.")
        return replace(self, loss=loss)

    def safety(self, factor: float, origin: str = CALL) -> "Program":
        """Require a factor of safety: its lower bound at yield, which ``solve`` confirms by measurement."""
        required = make_record(Safety, {"factor": float(factor)}, origin).factor
        if self.safety_factor is not None and self.safety_factor != required:
            raise InputError(
                f"{origin}: two factors of safety are given, {self.safety_factor:g} and {required:g}. Give one."
            )
        return replace(self, safety_factor=required, safety_origin=origin)

    def without_safety(self) -> "Program":
        """Leave the factor of safety out."""
        return replace(self, safety_factor=None, safety_origin="")

    def safe_below(self, loss_nats: float) -> "Program":
        """Replace the factor of safety by a limit on the predicted loss increase, in nats per token."""
        if self.safety_factor is None:
            raise InputError("no factor of safety was given. Call safety first.")
        name = f"factor of safety {self.safety_factor:g}"
        limited = self.limit("loss_increase", at_most=loss_nats, name=name, origin=self.safety_origin)
        return limited.without_safety()

    def read(self, path: str | PathLike[str]) -> "Program":
        """Add everything in a constraint file."""
        file = read_constraints(Path(path))
        content, program = file.constraints, self
        if content.engine is not None:
            program = program.engine(content.engine, file.where("engine"))
        if content.hardware is not None:
            program = program.hardware(content.hardware, file.where("hardware"), Path(path).parent)
        if content.workload is not None:
            program = program.workload(file.where("workload"), **content.workload.model_dump(exclude_none=True))
        for key, bound in content.limits.bounds().items():
            program = program.add(PlanLimit(key, bound), file.where("limits", key))
        for index, rule in enumerate(content.rules):
            program = program.add(rule, file.where("rules", index))
        if content.minimize is not None:
            program = program.minimize(*content.minimize, origin=file.where("minimize"))
        if content.robust is not None:
            program = program.robust(**content.robust.model_dump(), origin=file.where("robust"))
        if content.safety is not None:
            program = program.safety(content.safety.factor, file.where("safety"))
        return program

    def add(self, request: Request, origin: str = CALL) -> "Program":
        """Add a limit or rule that is a record already."""
        return replace(self, constraints=(*self.constraints, Constraint(request, origin)))

    # The solver's instance

    @cached_property
    def layers(self) -> LayerTable:
        """The profile's layers."""
        return LayerTable(self.profile)

    @cached_property
    def rows(self) -> Rows:
        """The rows of the profile for this workload and hardware."""
        return Rows(self.profile, self.work, self.on_hardware)

    @cached_property
    def lowered(self) -> tuple[LoweredConstraint, ...]:
        """Every limit and rule, what it matched and what it became."""
        return lower_constraints(self.layers, self.rows, self.constraints, self.for_engine)

    def instance(self, full_speed_watts: Fraction | None = None) -> Instance:
        """Make the solver's instance.

        Args:
            full_speed_watts: what power at full speed is counted from where it is minimised; see power_ratio.py.

        Returns:
            The instance; its units are the profile's layers in their order.

        Raises:
            InputError: a constraint matches nothing, has no effect, contradicts an engine, or needs a number that
                was not given; or a factor of safety is required, which takes a measurement.
        """
        if self.safety_factor is not None:
            raise InputError(
                f"{self.safety_origin}: a factor of safety of {self.safety_factor:g} is no limit of the program before "
                "it is measured what the model bears. solve does that; elsewhere limit loss_increase."
            )
        aim = Aim(self.objectives, self.objectives_origin, self.loss or LossMeasure(), full_speed_watts)
        return build_instance(self.layers, self.rows, self.lowered, aim)

    def solve(
        self,
        *,
        solver: str = "cpsat",
        time_limit: float = 60.0,
        threads: int = 1,
        seed: int = 0,
        gap: float = 0.0,
        save_program: str | PathLike[str] | None = None,
        **safety: Unpack[SafetyOptions],
    ) -> Plan:
        """Find the best plan, with its proof.

        Power at full speed and a factor of safety take several solves.

        Args:
            solver: ``cpsat``, or ``highs``.
            time_limit: seconds for each solve.
            threads: for the solver; one repeats exactly.
            seed: of the solver.
            gap: stop at this proven gap, as a share of the objective; 0 for a proven optimum.
            save_program: also write the solver's instance here as JSON, before it is solved.
            safety: how a factor of safety is found out: safety_file, predicted_only, model, trust_remote_code,
                progress, report; see ``SafetyOptions``.

        Returns:
            The plan.

        Raises:
            InfeasibleError: it is proven that there is no plan; ``conflict`` says why, ``mends`` what would help.
            SolverTimeout: no plan was found in time; there may be one.
            InputError: a constraint or a setting makes no sense, or there is no limit.
        """
        search = search_with(solver, time_limit, threads, seed, gap)

        def solve_once(program: "Program") -> Plan:
            instance = lower_with_least_power(program, search)
            if save_program is not None:
                write_instance(instance, Path(save_program))
            return solve_instance(program.profile, program.profile.origin, instance, search.solver, search.settings)

        return solve_with_safety(self, solve_once, safety)


def _tuple(names: Names | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)
