"""Re-linearisation: a plan is measured, the loss is expanded anew around it, and the program solved again nearby.

The separable sum of prices leaves out how the errors of layers act together. Around a plan (see linearisation.py)
every format f of a layer l has the change c'(l, f) of the measured loss, interactions with the present plan included.
One step solves the same program with these costs inside a trust region: a layer's format changes at most to the next
smaller or larger one, and at most k layers change,

    minimise Σ c'(l, f) x(l, f)   subject to the program's own limits and rules, and  Σ_l Σ_{f ≠ plan(l)} x(l, f) ≤ k.

c' is noisy, and an optimiser picks what is underestimated. The part that the separable prices do not explain,
R = c' − (c(l, f) − c(l, plan)), is therefore shrunk by its share of signal, 1 − Σ se² / Σ R² over all layers and
formats (the positive part of James and Stein 1961), before it is added to them.

A step is accepted only if the KL divergence falls on sequences that the gradient did not see. If it rises, k is halved
and the program solved again; below one layer the refinement ends. So the refined plan is never worse there than the one
it started from.

Knows nothing about command lines.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.progress import Progress
from ..models.loading import LoadedModel
from ..planning.plan import RefinementStep
from ..quantization.formats import parse_format
from ..sensitivity.calibration.capture import LabelDraws
from ..sensitivity.profile import Profile
from ..sensitivity.round_model import round_as_profiled
from ..solver.instance import LOSS, DomainCosts, Instance, LossMeasure, Row
from ..solver.rules import Allow, Limit, LossLimit
from .linearisation import Records, linearise
from .quality import measure_candidates

UNSEEN_EVERY = 3  # every third pricing sequence of a domain is held out from the gradient, to test steps
FIRST_SHARE = 0.1  # of the layers may change in the first step
_CHANGED = "layers moved"
Formats = Mapping[str, str]
Floats = NDArray[np.float64]


@dataclass
class Refinement:
    """A plan that is being refined.

    Attributes:
        loaded: the original model.
        profile: of it.
        program: the plan's.
        choose: solves a program for the format of every layer.
        draws: of labels, for the curvature.
        progress: shows how far the work is.
        formats: of every layer, in the best plan so far.
    """

    loaded: LoadedModel
    profile: Profile
    program: Instance
    choose: Callable[[Instance], dict[str, str]]
    draws: LabelDraws
    progress: Progress
    formats: dict[str, str]
    _measured: dict[tuple[str, ...], Floats] = field(default_factory=dict)

    def steps(self, most: int) -> Iterator[RefinementStep]:
        """Take steps until none helps; ``most`` of them are tried.

        Yields:
            Each step that was tried; ``formats`` is the best plan so far.
        """
        records = round_everything(self.loaded, self.profile, self.progress)
        unseen = unseen_sequences(self.profile)
        radius = max(1, round(FIRST_SHARE * len(records)))
        nearby, share = None, 0.0
        for _ in range(most):
            if nearby is None:
                nearby, share = self._expanded(records, unseen)
            proposal = self.choose(within(nearby, radius))
            changed = [layer for layer, target in proposal.items() if target != self.formats[layer]]
            if not changed:
                return
            predicted = sum(_cost(nearby, layer, proposal[layer]) for layer in changed)
            before, after = (self._kl(records, of, unseen) for of in (self.formats, proposal))
            step = _step(len(changed), predicted, share, before, after)
            if step.kept:
                self.formats, nearby = proposal, None
            else:
                radius = len(changed) // 2
            yield step
            if radius < 1:
                return

    def _expanded(self, records: Records, unseen: NDArray[np.bool_]) -> tuple[Instance, float]:
        """Give the program with costs expanded around the plan, and their share of signal."""
        expansion = expand(self.loaded, self.profile, records, self.formats, (~unseen, self.draws), self.progress)
        share = signal_share(expansion.separable, expansion.expanded)
        return around(self.program, self.formats, expansion.shrunk(lambda _mean, _error: share)), share

    def _kl(self, records: Records, formats: Formats, unseen: NDArray[np.bool_]) -> Floats:
        """Measure a plan on the held-out sequences."""
        key = tuple(formats.values())
        if key not in self._measured:
            candidate = {layer: of[formats[layer]] for layer, of in records.items()}
            token_ids = torch.from_numpy(self.profile.pricing_token_ids[unseen])
            quality = measure_candidates(self.loaded.model, {"it": candidate}, token_ids, self.progress)["it"]
            self._measured[key] = np.array(quality.kl_nats)
        return self._measured[key]


def _step(num_changed: int, predicted: float, share: float, before: Floats, after: Floats) -> RefinementStep:
    """Test a step by its measured KL divergence, paired by sequence."""
    change = after - before
    return RefinementStep(
        num_moved=num_changed,
        predicted_change_nats=predicted,
        signal_share=share,
        kl_nats=float(before.mean()),
        change_nats=float(change.mean()),
        change_standard_error_nats=float(change.std(ddof=1)) / math.sqrt(len(change)) if len(change) > 1 else None,
        kept=float(change.mean()) < 0,
    )


@dataclass(frozen=True)
class Expansion:
    """What a change of a single layer around a plan would cost, one value per sequence that the gradient saw.

    Attributes:
        separable: by the prices, float64 [sequences] by layer and format.
        expanded: by the expansion of the loss, likewise.
    """

    separable: Mapping[str, Mapping[str, Floats]]
    expanded: Mapping[str, Mapping[str, Floats]]

    def shrunk(self, share: Callable[[float, float], float]) -> dict[str, dict[str, float]]:
        """Add a share of what the prices do not explain to them.

        Args:
            share: gives the share from the mean of that residual and its standard error.

        Returns:
            Costs in nats per token, by layer and format.
        """

        def cost(price: Floats, changed: Floats) -> float:
            rest = changed - price
            mean, error = float(rest.mean()), float(rest.std(ddof=1)) / math.sqrt(len(rest))
            return float(price.mean()) + share(mean, error) * mean

        return {
            layer: {name: cost(self.separable[layer][name], changed) for name, changed in of.items()}
            for layer, of in self.expanded.items()
        }


def expand(
    loaded: LoadedModel,
    profile: Profile,
    records: Records,
    formats: Formats,
    on: tuple[NDArray[np.bool_], LabelDraws],
    progress: Progress,
) -> Expansion:
    """Expand the loss around a plan, for the formats next to the plan's.

    Args:
        loaded: the original model.
        profile: of it.
        records: the layers in all their formats.
        formats: the plan's.
        on: the pricing sequences that the gradient sees, and the draws of labels.
        progress: shows how far the passes are.

    Returns:
        The costs, from the prices and from the expansion.
    """
    seen, draws = on
    near = neighbours(profile, formats, records)
    nearby = {layer: {name: records[layer][name] for name in names} for layer, names in near.items()}
    token_ids = torch.from_numpy(profile.pricing_token_ids[seen])
    expanded = linearise(loaded, nearby, formats, (token_ids, draws), progress).changes_nats
    prices, position = profile.prices, profile.format_index

    def separable(layer: str, target: str) -> Floats:
        samples = prices[profile.layer_index[layer]]
        return np.asarray(samples[position[target]] - samples[position[formats[layer]]], dtype=np.float64)[seen]

    return Expansion({layer: {name: separable(layer, name) for name in of} for layer, of in expanded.items()}, expanded)


def require_refinable(program: Instance, profile: Profile) -> None:
    """Require a program of the mean loss alone, and enough pricing sequences, before the model is loaded."""
    if program.minimise != (LOSS,) or any(isinstance(rule, LossLimit) for rule in program.rules):
        raise InputError("--refine lowers the loss within limits: leave out --max-loss and --minimize.")
    if program.loss != LossMeasure():
        raise InputError("--refine lowers the mean loss: leave out --robust, and --domains worst.")
    fewest = min(np.bincount(profile.domain_of_sample))
    if fewest < 2 * UNSEEN_EVERY:
        raise InputError(
            f"--refine holds out every third pricing sequence from the gradient; the profile has {fewest} of each "
            f"domain. Profile with --pricing-sequences {2 * UNSEEN_EVERY} or more."
        )


def unseen_sequences(profile: Profile) -> NDArray[np.bool_]:
    """Choose the pricing sequences that steps are tested on, every third one of each domain: bool [sequences]."""
    domains = profile.domain_of_sample.tolist()
    number = [domains[:position].count(domain) for position, domain in enumerate(domains)]
    return np.array([count % UNSEEN_EVERY == UNSEEN_EVERY - 1 for count in number])


def round_everything(loaded: LoadedModel, profile: Profile, progress: Progress) -> Records:
    """Round the decided layers in all their formats, as the profile did; takes a byte per weight and format."""
    formats = [parse_format(target) for target in profile.record.formats]
    wanted = {layer.name: [formats[index] for index in layer.formats] for layer in profile.record.layers}
    rounded = round_as_profiled(loaded, profile, wanted, progress)
    return {
        layer: {target.name: matrix for target, matrix in of.items()} for layer, of in rounded.items() if len(of) > 1
    }


def neighbours(profile: Profile, formats: Formats, records: Records) -> dict[str, tuple[str, ...]]:
    """Give each layer of the records its own format and the next smaller and larger ones, by bytes."""
    near = {}
    for layer in records:
        record = profile.record.layers[profile.layer_index[layer]]
        by_size = [name for _, name in sorted(zip(record.stored_bytes, records[layer], strict=True))]
        at = by_size.index(formats[layer])
        near[layer] = tuple(by_size[max(0, at - 1) : at + 2])
    return near


def signal_share(separable: Mapping[str, Mapping[str, Floats]], expanded: Mapping[str, Mapping[str, Floats]]) -> float:
    """Estimate what share of the difference between two sets of costs is not noise.

    With R the mean difference of one layer and format over n sequences and se its standard error, the expectation of R²
    is its true square plus se². So 1 − Σ se² / Σ R² is the share; a negative value means that there is only noise.

    Args:
        separable: one set, float64 [sequences] by layer and format.
        expanded: the other, likewise.

    Returns:
        Between 0 and 1.

    >>> zero, one = np.zeros(3), np.array([0.9, 1.0, 1.1])
    >>> round(signal_share({"a": {"f": zero}}, {"a": {"f": one}}), 3)
    0.997
    """
    differences = [expanded[layer][name] - separable[layer][name] for layer, of in expanded.items() for name in of]
    squares = sum(float(values.mean()) ** 2 for values in differences)
    noise = sum(float(values.var(ddof=1)) / len(values) for values in differences)
    return max(0.0, 1 - noise / squares) if squares else 0.0


def around(program: Instance, formats: Formats, costs: Mapping[str, Mapping[str, float]]) -> Instance:
    """State a program around a plan, in which a layer's format changes only to one that has a cost.

    Args:
        program: the plan's.
        formats: of every layer.
        costs: of changes by layer and format, in nats per token.

    Returns:
        The program, with a row that counts the layers that change.
    """
    table, format_changes, allowed = [], [], []
    for index, unit in enumerate(program.units):
        own, of = formats[unit.name], costs.get(unit.name, {})
        table.append(tuple(of.get(name, 0.0) for name in unit.formats))
        format_changes.append(tuple(int(name != own) for name in unit.formats))
        allowed.append((index, tuple(at for at, name in enumerate(unit.formats) if name == own or name in of)))
    return replace(
        program,
        rows=(*program.rows, Row(_CHANGED, "layers", tuple(format_changes))),
        domains=(DomainCosts("around the plan", tuple(table)),),
        rules=(*program.rules, Allow("formats next to the plan's", tuple(allowed))),
    )


def within(nearby: Instance, radius: int) -> Instance:
    """Bound the number of layers that change, in a program that ``around`` gave."""
    return nearby.with_rules((*nearby.rules, Limit("trust region", _CHANGED, at_most=radius)))


def _cost(nearby: Instance, layer: str, target: str) -> float:
    index = [unit.name for unit in nearby.units].index(layer)
    return nearby.domains[0].loss_increase_nats[index][nearby.units[index].formats.index(target)]
