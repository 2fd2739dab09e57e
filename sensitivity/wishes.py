"""Wishes about a plan, and the integer program that they come to.

Knows nothing about where wishes come from, nor how programs are solved.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..solver.constraints import DevicesRule, LinearRule
from ..solver.device import Device
from ..solver.engine_profile import EngineProfile
from ..solver.errors import ScantlingError
from ..solver.instance import LOSS, Instance, LoadCase, LossMeasure, Row, Unit
from ..solver.limits import Limits, Workload
from .asked import LimitWish, Statement, Wish
from .engine_rules import engine_statements
from .layers_of import Layers
from .profile import Profile
from .reach_rules import reach_statements
from .rows import POWER, ROW_OF, Rows
from .statements import Stater


@dataclass(frozen=True)
class Wishes:
    """Wishes about the plan of one profile.

    Attributes:
        profile: what formats cost.
        wishes: limits and rules, in the order of their statement.
        work: how the model is used.
        on_device: where; None where nothing was said.
        for_engine: what must load the checkpoint; None where nothing was said.
        objectives: what is minimised, one after the other; empty where nothing was said.
        loss: how load cases and uncertainty become one loss; None where nothing was said.
        objectives_origin: where the objectives were stated.
        safety_factor: that the plan must reach; None where nothing was said. It becomes a limit on the loss when it is
            known what the model bears, which only a measurement tells.
        safety_origin: where it was stated.
    """

    profile: Profile
    wishes: tuple[Wish, ...] = ()
    work: Workload = field(default_factory=Workload)
    on_device: Device | None = None
    for_engine: EngineProfile | None = None
    objectives: tuple[str, ...] = ()
    loss: LossMeasure | None = None
    objectives_origin: str = ""
    safety_factor: float | None = None
    safety_origin: str = ""

    @cached_property
    def layers(self) -> Layers:
        """The profile's layers."""
        return Layers(self.profile)

    @cached_property
    def rows(self) -> Rows:
        """The rows of the profile, this workload and this device."""
        return Rows(self.profile, self.work, self.on_device)

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """Every limit and rule, what it matched and what it became."""
        named = self.rows.available()
        stater = Stater(self.layers, self.rows, named)
        made: dict[int, Statement] = {}
        for index, wish in enumerate(self.wishes):  # rows of one's own come first: other wishes may name them
            if isinstance(wish.asked, LinearRule | DevicesRule):
                made[index] = stater.state(wish)
                for row in made[index].rows:
                    if row.name in named:
                        raise ScantlingError(f"{wish.origin}: two rows are called {row.name!r}. Rename one.")
                    named[row.name] = row
        for index, wish in enumerate(self.wishes):
            if index not in made:
                made[index] = stater.state(wish)
        engine = [] if self.for_engine is None else engine_statements(stater, self.for_engine)
        brought = [stater.state(wish) for wish in self._brought()]
        reach = reach_statements(self.layers)
        return (*engine, *brought, *reach, *(made[index] for index in range(len(self.wishes))))

    def _brought(self) -> list[Wish]:
        """Say what device and workload bring: the device's memory, and the demanded rate as a least speed."""
        wishes = []
        dealt_out = any(isinstance(wish.asked, DevicesRule) for wish in self.wishes)
        if self.on_device is not None and self.on_device.memory is not None and not dealt_out:
            origin = f"device {self.on_device.name}"
            bound = {"at_most": self.on_device.memory.value, "name": f"memory of {self.on_device.name}"}
            wishes.append(
                Wish(LimitWish("memory", Limits.model_validate({"memory": bound}).stated()["memory"]), origin)
            )
        if self.work.rate is not None:
            bound = {"at_least": self.work.rate, "name": "rate of the workload"}
            wishes.append(
                Wish(LimitWish("speed", Limits.model_validate({"speed": bound}).stated()["speed"]), "workload")
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
            load_cases(self.profile, with_deviations=loss.standard_errors > 0),
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


def load_cases(profile: Profile, *, with_deviations: bool) -> tuple[LoadCase, ...]:
    """State what formats cost on each of the profile's load cases.

    The standard error of a sum of means over S samples is √(Σ_s (Σ_u d(u, f, s))²) with
    d(u, f, s) = (sample − mean) / √(S (S − 1)).

    Args:
        profile: the profile.
        with_deviations: whether the samples are needed too.

    Returns:
        Costs, and deviations where they are needed and there are at least two samples.
    """
    return tuple(
        _load_case(profile, name, samples, with_deviations=with_deviations)
        for name, samples in profile.samples_of_cases.items()
    )


def _load_case(profile: Profile, name: str, samples: NDArray[np.float64], *, with_deviations: bool) -> LoadCase:
    num_samples = samples.shape[2]
    costs, deviations = [], []
    for index, layer in enumerate(profile.record.layers):
        offered = samples[index, list(layer.formats)]
        means = offered.mean(axis=1)
        costs.append(tuple(means.tolist()))
        if with_deviations and num_samples > 1:
            spread = (offered - means[:, None]) / (num_samples * (num_samples - 1)) ** 0.5
            deviations.append(tuple(map(tuple, spread.tolist())))
    return LoadCase(name, tuple(costs), tuple(deviations))
