"""The integer program of a profile, put together wish by wish.

A Program never changes: every method gives a new one with one wish more, so that programs can branch.

    program = Program(profile).memory("18 GiB").min_bits("*.v_proj", 4).engine("vllm-gptq")
    instance = program.instance()

Knows nothing about how programs are solved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from ..common.errors import ScantlingError
from ..hardware.resources import POWER, ROW_OF, Rows
from ..hardware.specification import Hardware, load_hardware
from ..hardware.workload import Workload
from ..sensitivity.profile import Profile
from ..solver.instance import LOSS, DomainCosts, Instance, LossMeasure, Row, Unit
from .constraint import Constraint, LoweredConstraint, PinToPlan, PlanLimit, RuleRequest
from .constraints.file import read_constraints
from .constraints.inference_engines import EngineProfile, load_engine_profile
from .constraints.limits import Limits, Robust
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
from .engine_rules import lower_engine_rules
from .layer_table import LayerTable
from .lowering import Lowering, lower_coverage
from .plan import Plan

Names = str | Sequence[str]
Number = str | float
CALL = "Python"
_Made = TypeVar("_Made", bound=BaseModel)
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class ProgramState:
    """Wishes about the plan of one profile.

    Attributes:
        profile: what formats cost.
        wishes: limits and rules, in the order of their statement.
        work: how the model is used.
        on_hardware: where; None where nothing was said.
        for_engine: what must load the checkpoint; None where nothing was said.
        objectives: what is minimised, one after the other; empty where nothing was said.
        loss: how domains and uncertainty become one loss; None where nothing was said.
        objectives_origin: where the objectives were stated.
        safety_factor: that the plan must reach; None where nothing was said. It becomes a limit on the loss when it is
            known what the model bears, which only a measurement tells.
        safety_origin: where it was stated.
    """

    profile: Profile
    wishes: tuple[Constraint, ...] = ()
    work: Workload = field(default_factory=Workload)
    on_hardware: Hardware | None = None
    for_engine: EngineProfile | None = None
    objectives: tuple[str, ...] = ()
    loss: LossMeasure | None = None
    objectives_origin: str = ""
    safety_factor: float | None = None
    safety_origin: str = ""

    @cached_property
    def layers(self) -> LayerTable:
        """The profile's layers."""
        return LayerTable(self.profile)

    @cached_property
    def rows(self) -> Rows:
        """The rows of the profile, this workload and this machine."""
        return Rows(self.profile, self.work, self.on_hardware)

    @cached_property
    def statements(self) -> tuple[LoweredConstraint, ...]:
        """Every limit and rule, what it matched and what it became."""
        named = self.rows.available()
        lowering = Lowering(self.layers, self.rows, named)
        made: dict[int, LoweredConstraint] = {}
        for index, wish in enumerate(self.wishes):  # rows of one's own come first: other wishes may name them
            if isinstance(wish.asked, LinearRule | DevicesRule):
                made[index] = lowering.state(wish)
                for row in made[index].rows:
                    if row.name in named:
                        raise ScantlingError(f"{wish.origin}: two rows are called {row.name!r}. Rename one.")
                    named[row.name] = row
        for index, wish in enumerate(self.wishes):
            if index not in made:
                made[index] = lowering.state(wish)
        engine = [] if self.for_engine is None else lower_engine_rules(lowering, self.for_engine)
        brought = [lowering.state(wish) for wish in self._brought()]
        coverage = lower_coverage(self.layers)
        return (*engine, *brought, *coverage, *(made[index] for index in range(len(self.wishes))))

    def _brought(self) -> list[Constraint]:
        """Say what machine and workload bring: the hardware's memory, and the demanded rate as a least speed."""
        wishes = []
        dealt_out = any(isinstance(wish.asked, DevicesRule) for wish in self.wishes)
        if self.on_hardware is not None and self.on_hardware.memory is not None and not dealt_out:
            origin = f"machine {self.on_hardware.name}"
            bound = {"at_most": self.on_hardware.memory.value, "name": f"memory of {self.on_hardware.name}"}
            wishes.append(
                Constraint(PlanLimit("memory", Limits.model_validate({"memory": bound}).stated()["memory"]), origin)
            )
        if self.work.rate is not None:
            bound = {"at_least": self.work.rate, "name": "rate of the workload"}
            wishes.append(
                Constraint(PlanLimit("speed", Limits.model_validate({"speed": bound}).stated()["speed"]), "workload")
            )
        return wishes

    def instance(self, full_speed_watts: Fraction | None = None) -> Instance:
        """State the integer program.

        Args:
            full_speed_watts: what power at full speed is counted from where it is minimised; see ``full_speed``.

        Returns:
            The instance; its units are the profile's layers in their order.

        Raises:
            ScantlingError: a wish matches nothing, has no effect, contradicts an engine, or needs a number that is
                not there; or a factor of safety is asked for, which is not known without measuring.
        """
        if self.safety_factor is not None:
            raise ScantlingError(
                f"{self.safety_origin}: a factor of safety of {self.safety_factor:g} is no limit of the program before "
                "it is measured what the model bears. scantling solve does that; elsewhere limit loss_increase."
            )
        rows: dict[str, Row] = self.rows.available()
        for statement in self.statements:
            for row in statement.rows:
                rows[row.name] = row
        objectives = self.objectives
        if full_speed_watts is not None:
            row = self.rows.full_speed_power(
                f"power at full speed over {float(full_speed_watts):.7g} W", full_speed_watts
            )
            rows[row.name] = row
            objectives = tuple(row.name if ROW_OF.get(name, name) == POWER else name for name in objectives)
        units = tuple(
            Unit(name, formats, tuple(self.layers.bits_of[offer] for offer in formats))
            for name, formats in zip(self.layers.names, self.layers.formats, strict=True)
        )
        loss = self.loss or LossMeasure()
        return Instance(
            units,
            tuple(rows.values()),
            domains(self.profile, with_deviations=loss.standard_errors > 0),
            tuple(rule for statement in self.statements for rule in statement.rules),
            loss,
            tuple(self._objective(name, rows) for name in objectives) or (LOSS,),
        )

    def _objective(self, name: str, rows: Mapping[str, Row]) -> str:
        if name == LOSS or name in rows:
            return name
        row_name = ROW_OF.get(name, name)
        if row_name not in rows:
            known = sorted({LOSS, *rows, *(key for key, row in ROW_OF.items() if row in rows)})
            why = f"cannot minimise {name!r}. What can be: {', '.join(known)}."
            if name == "speed":
                why = "cannot minimise 'speed': more of it is better. For the fastest plan minimise seconds_per_token."
            if name in ROW_OF:
                try:
                    self.rows.row(row_name)
                except ScantlingError as error:  # says what it lacks
                    why = f"cannot minimise {name}: {error}"
            raise ScantlingError(f"{self.objectives_origin}: {why}")
        return row_name


def domains(profile: Profile, *, with_deviations: bool) -> tuple[DomainCosts, ...]:
    """State what formats cost on each of the profile's domains.

    The standard error of a sum of means over S samples is √(Σ_s (Σ_u d(u, f, s))²) with
    d(u, f, s) = (sample − mean) / √(S (S − 1)).

    Args:
        profile: the profile.
        with_deviations: whether the samples are needed too.

    Returns:
        Costs, and deviations where they are needed and there are at least two samples.
    """
    return tuple(
        _domain_costs(profile, name, samples, with_deviations=with_deviations)
        for name, samples in profile.prices_by_domain.items()
    )


def _domain_costs(profile: Profile, name: str, samples: NDArray[np.float64], *, with_deviations: bool) -> DomainCosts:
    num_samples = samples.shape[2]
    costs, deviations = [], []
    for index, layer in enumerate(profile.record.layers):
        offered = samples[index, list(layer.formats)]
        means = offered.mean(axis=1)
        costs.append(tuple(means.tolist()))
        if with_deviations and num_samples > 1:
            spread = (offered - means[:, None]) / (num_samples * (num_samples - 1)) ** 0.5
            deviations.append(tuple(map(tuple, spread.tolist())))
    return DomainCosts(name, tuple(costs), tuple(deviations))


@dataclass(frozen=True)
class Program(ProgramState):
    """Wishes about the plan of one profile, stated one after the other; see ``ProgramState`` for what it holds."""

    # Limits

    def limit(
        self,
        row: str,
        *,
        at_most: Number | None = None,
        at_least: Number | None = None,
        layers: Names | None = None,
        name: str | None = None,
        origin: str = CALL,
    ) -> "Program":
        """Limit a row, or the predicted loss.

        Args:
            row: a key of ``Limits``, a row's name, or the name of a row of your own.
            at_most: upper bound with its unit.
            at_least: lower bound with its unit.
            layers: patterns of the layers that are summed; None for the whole plan.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this limit.
        """
        bounds = {"at_most": at_most, "at_least": at_least, "name": name}
        if layers is None and row in Limits.model_fields:
            limits = _made(Limits, {row: bounds}, origin)
            return self.wish(PlanLimit(row, limits.stated()[row]), origin)
        return self.wish(_made(SumRule, {"sum": row, "layers": _many(layers), **bounds}, origin), origin)

    def memory(self, at_most: Number, origin: str = CALL) -> "Program":
        """Limit resident bytes: weights, what lies outside the program, and at a context KV cache and activations.

        Args:
            at_most: such as ``18 GiB``.
            origin: where it was stated.

        Returns:
            The program with this limit.
        """
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
        """Add a linear row by number.

        Args:
            name: of the row, which later limits and the objective may use.
            coefficients: terms with the keys of ``Term``: layers, formats, bits, add.
            at_most: upper bound.
            at_least: lower bound.
            origin: where it was stated.

        Returns:
            The program with this row.
        """
        terms = tuple(_made(Term, {**term, "layers": _many(term.get("layers"))}, origin) for term in coefficients)
        asked = {"name": name, "linear": terms, "at_most": at_most, "at_least": at_least}
        return self.wish(_made(LinearRule, asked, origin), origin)

    def devices(self, parts: Sequence[Mapping[str, Any]], *, name: str | None = None, origin: str = CALL) -> "Program":
        """Limit resident bytes on each of several devices.

        Args:
            parts: with the keys of ``Part``: name, blocks, at_most.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with these limits.
        """
        return self.wish(_made(DevicesRule, {"devices": tuple(parts), "name": name}, origin), origin)

    # Rules about choices

    def allow(self, layers: Names, formats: Names, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Let layers take only some formats.

        Args:
            layers: patterns.
            formats: patterns of formats.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        return self._allow({"layers": layers, "formats": _many(formats), "name": name}, origin)

    def pin(self, layers: Names, format_name: str, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Give layers a format.

        Args:
            layers: patterns.
            format_name: the format.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        return self._allow({"layers": layers, "format": format_name, "name": name}, origin)

    def min_bits(self, layers: Names, bits: float, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Bound the bits of layers from below.

        Args:
            layers: patterns.
            bits: the fewest.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        return self._allow({"layers": layers, "min_bits": bits, "name": name}, origin)

    def max_bits(self, layers: Names, bits: float, *, name: str | None = None, origin: str = CALL) -> "Program":
        """Bound the bits of layers from above.

        Args:
            layers: patterns.
            bits: the most.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        return self._allow({"layers": layers, "max_bits": bits, "name": name}, origin)

    def tie(self, layers: Names, *, per: Per = "all", name: str | None = None, origin: str = CALL) -> "Program":
        """Let layers take the same format.

        Args:
            layers: patterns.
            per: all alike, or those of each block, kind or parent module.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        return self.wish(
            _made(TieRule, {"layers": _many(layers), "same": True, "per": per, "name": name}, origin), origin
        )

    def order(
        self,
        finer: Names,
        coarser: Names,
        *,
        per: Literal["all", "block", "parent"] = "all",
        name: str | None = None,
        origin: str = CALL,
    ) -> "Program":
        """Give some layers at least as many bits as others.

        Args:
            finer: patterns.
            coarser: patterns.
            per: every finer with every coarser one, or within each block or parent module.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        asked = {"layers": _many(finer), "at_least_as_fine_as": _many(coarser), "per": per, "name": name}
        return self.wish(_made(OrderRule, asked, origin), origin)

    def distinct(
        self,
        at_most: int,
        *,
        layers: Names | None = None,
        per: Literal["all", "block", "kind"] = "all",
        name: str | None = None,
        origin: str = CALL,
    ) -> "Program":
        """Bound the number of different formats.

        Args:
            at_most: so many.
            layers: patterns; None for all decided layers.
            per: among all of them, or in each block or kind.
            name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        asked = {"distinct_formats": at_most, "layers": _many(layers), "per": per, "name": name}
        return self.wish(_made(DistinctRule, asked, origin), origin)

    def pin_from(self, plan: Plan, layers: Names, *, plan_name: str = "the plan", origin: str = CALL) -> "Program":
        """Keep another plan's formats on some layers.

        Args:
            plan: the plan.
            layers: patterns.
            plan_name: what messages call it.
            origin: where it was stated.

        Returns:
            The program with this rule.
        """
        return self.wish(PinToPlan(_many(layers) or (), plan.formats(), plan_name), origin)

    # What there is one of

    def engine(self, name: str, origin: str = CALL) -> "Program":
        """Respect what an inference engine asks.

        Args:
            name: of an engine profile.
            origin: where it was stated.

        Returns:
            The program with the engine's rules.

        Raises:
            ScantlingError: there is no such engine, or another one is stated.
        """
        engine = _located(origin, load_engine_profile, name)
        if self.for_engine is not None and self.for_engine.name != name:
            raise ScantlingError(f"{origin}: two engines are stated, {self.for_engine.name} and {name}. State one.")
        return replace(self, for_engine=engine)

    def hardware(self, hardware: str | Hardware, origin: str = CALL, beside: Path | None = None) -> "Program":
        """Say which machine the model runs on.

        Args:
            hardware: a known name, the path of a hardware file, or the machine.
            origin: where it was stated.
            beside: the folder that a relative path is looked for in first.

        Returns:
            The program with the machine, whose memory is a limit.

        Raises:
            ScantlingError: there is no such machine, or another one is stated.
        """
        found = _located(origin, load_hardware, hardware, beside) if isinstance(hardware, str) else hardware
        if self.on_hardware is not None and self.on_hardware != found:
            raise ScantlingError(
                f"{origin}: two machines are stated, {self.on_hardware.name} and {found.name}. State one."
            )
        return replace(self, on_hardware=found)

    def workload(self, origin: str = CALL, **values: object) -> "Program":
        """Say how the model is used.

        Args:
            origin: where it was stated.
            values: keys of ``Workload``: context, prompt, answer, batch, kv_bits, rate and others.

        Returns:
            The program with the workload; what was said before stays.

        Raises:
            ScantlingError: a value is stated twice.
        """
        stated = self.work.model_dump(exclude_none=True)
        new = {key: value for key, value in values.items() if value is not None}
        for key in stated.keys() & new.keys():
            if stated[key] != new[key]:
                raise ScantlingError(f"{origin}: {key} is stated twice, as {stated[key]} and {new[key]}. State one.")
        return replace(self, work=_made(Workload, {**stated, **new}, origin))

    def minimize(self, *objectives: str, origin: str = CALL) -> "Program":
        """Say what is minimised.

        Args:
            objectives: ``loss_increase`` or rows; the second decides among the optima of the first, and so on.
            origin: where it was stated.

        Returns:
            The program with these objectives.

        Raises:
            ScantlingError: objectives are stated already, or one is named twice.
        """
        if self.objectives and self.objectives != objectives:
            raise ScantlingError(
                f"{origin}: it was said already to minimise {', '.join(self.objectives)}. Say it once, as a list."
            )
        if not objectives or len(set(objectives)) < len(objectives):
            raise ScantlingError(f"{origin}: minimise {', '.join(objectives) or 'nothing'}? Name each objective once.")
        return replace(self, objectives=objectives, objectives_origin=origin)

    def robust(
        self, standard_errors: float = 0.0, domains: Literal["mean", "worst"] = "mean", origin: str = CALL
    ) -> "Program":
        """Let uncertainty enter the loss.

        Args:
            standard_errors: k in loss + k · standard error.
            domains: the mean of the kinds of text, or the worst of them.
            origin: where it was stated.

        Returns:
            The program with this measure of loss.

        Raises:
            ScantlingError: another one is stated already.
        """
        asked = _made(Robust, {"standard_errors": standard_errors, "domains": domains}, origin)
        loss = LossMeasure(asked.domains, asked.standard_errors)
        if self.loss is not None and self.loss != loss:
            raise ScantlingError(f"{origin}: it was said twice how uncertainty enters the loss. Say it once.")
        return replace(self, loss=loss)

    def safety(self, factor: float, origin: str = CALL) -> "Program":
        """Ask for a factor of safety, which ``solve`` turns into a limit on the loss by measurement.

        Args:
            factor: that the lower bound at yield must reach.
            origin: where it was stated.

        Returns:
            The program with it.

        Raises:
            ScantlingError: another one is stated.
        """
        asked = _made(Safety, {"factor": float(factor)}, origin).factor
        if self.safety_factor is not None and self.safety_factor != asked:
            raise ScantlingError(
                f"{origin}: two factors of safety are asked for, {self.safety_factor:g} and {asked:g}. State one."
            )
        return replace(self, safety_factor=asked, safety_origin=origin)

    def without_safety(self) -> "Program":
        """Leave the factor of safety out.

        Returns:
            The program with all other wishes.
        """
        return replace(self, safety_factor=None, safety_origin="")

    def safe_below(self, loss_nats: float) -> "Program":
        """Put a limit on the loss in the place of the factor of safety that was asked for.

        Args:
            loss_nats: predicted loss increase at most, in nats per token.

        Returns:
            The program with this limit.

        Raises:
            ScantlingError: no factor was asked for.
        """
        if self.safety_factor is None:
            raise ScantlingError("no factor of safety was asked for. Call safety first.")
        name = f"factor of safety {self.safety_factor:g}"
        bound = _made(Limits, {"loss_increase": {"at_most": loss_nats, "name": name}}, self.safety_origin)
        limited = self.wish(PlanLimit("loss_increase", bound.stated()["loss_increase"]), self.safety_origin)
        return replace(limited, safety_factor=None)

    def read(self, path: Path) -> "Program":
        """Add all that a constraint file asks.

        Args:
            path: the file.

        Returns:
            The program with the file's wishes.
        """
        file = read_constraints(path)
        asked, program = file.constraints, self
        if asked.engine is not None:
            program = program.engine(asked.engine, file.where("engine"))
        if asked.hardware is not None:
            program = program.hardware(asked.hardware, file.where("hardware"), path.parent)
        if asked.workload is not None:
            program = program.workload(file.where("workload"), **asked.workload.model_dump(exclude_none=True))
        for key, bound in asked.limits.stated().items():
            program = program.wish(PlanLimit(key, bound), file.where("limits", key))
        for index, rule in enumerate(asked.rules):
            program = program.wish(rule, file.where("rules", index))
        if asked.minimize is not None:
            program = program.minimize(*asked.minimize, origin=file.where("minimize"))
        if asked.robust is not None:
            program = program.robust(**asked.robust.model_dump(), origin=file.where("robust"))
        if asked.safety is not None:
            program = program.safety(asked.safety.factor, file.where("safety"))
        return program

    def _allow(self, asked: dict[str, Any], origin: str) -> "Program":
        return self.wish(_made(AllowRule, {**asked, "layers": _many(asked["layers"])}, origin), origin)

    def wish(self, asked: RuleRequest | PlanLimit | PinToPlan, origin: str = CALL) -> "Program":
        """Add a limit or rule that is a record already.

        Args:
            asked: the record.
            origin: where it was stated.

        Returns:
            The program with it.
        """
        return replace(self, wishes=(*self.wishes, Constraint(asked, origin)))


def _many(names: Names | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _made(record: type[_Made], values: Mapping[str, Any], origin: str) -> _Made:
    """Make a record of values that came by a call or a flag."""
    try:
        return record.model_validate({key: value for key, value in values.items() if value is not None}, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ScantlingError(f"{origin}: {place}: {fault['msg']}" if place else f"{origin}: {fault['msg']}") from error


def _located(origin: str, load: Callable[..., _Loaded], *arguments: object) -> _Loaded:
    try:
        return load(*arguments)
    except ScantlingError as error:
        raise ScantlingError(f"{origin}: {error}") from error
