"""How far the arithmetic of a narrow type moves a model's log-probabilities, by running it with that type's roundings.

An engine that computes in float16 rounds every weight that it unpacks, and the result of every product, norm and
activation, to 11 significant bits. Here the model stays in float32, and each module in turn runs with its parameters,
inputs and outputs rounded to the type, so only one module's parameters are copied at a time. Whatever an engine differs
by beyond a few times that is not rounding.

Knows nothing about engines.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def relative_difference(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Compare log-probabilities, both [positions, vocabulary].

    Args:
        found: the ones in question.
        expected: the reference.

    Returns:
        Root mean square of the difference, over that of the expected ones about the mean of their position.
    """
    spread = np.sqrt(np.mean((expected - expected.mean(axis=1, keepdims=True)) ** 2))
    return float(np.sqrt(np.mean((found - expected) ** 2)) / spread)


def arithmetic_noise(model: nn.Module, sequence: Tensor, dtype: torch.dtype, num_positions: int) -> float:
    """Measure what a type's roundings do to the log-probabilities at the end of a sequence.

    Args:
        model: a causal language model in float32; unchanged afterwards.
        sequence: int64 [tokens].
        dtype: the narrow type.
        num_positions: how many of the last positions are compared.

    Returns:
        The relative difference.
    """
    exact = _log_probabilities(model, sequence, num_positions)
    with ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(_rounding(module, dtype))
        rounded = _log_probabilities(model, sequence, num_positions)
    return relative_difference(rounded, exact)


def _log_probabilities(model: nn.Module, sequence: Tensor, num_positions: int) -> NDArray[np.float64]:
    with torch.no_grad():
        logits = model(sequence.unsqueeze(0), use_cache=False).logits[0, -num_positions:]
    return np.asarray(logits.double().log_softmax(-1).numpy())


@contextmanager
def _rounding(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let a module run as if it computed in a narrow type and summed in float32."""
    own = [parameter for parameter in module._parameters.values() if parameter is not None]  # noqa: SLF001  no copies
    kept: list[Tensor] = []

    def before(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:  # noqa: ANN401
        kept.extend(parameter.data for parameter in own)
        _put(own, [_rounded(parameter.data, dtype) for parameter in own])
        return _rounded(arguments, dtype), {name: _rounded(value, dtype) for name, value in keywords.items()}

    def after(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
        _put(own, kept)
        kept.clear()
        return _rounded(output, dtype)

    handles = [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        yield
    finally:
        _put(own, kept)
        for handle in handles:
            handle.remove()


def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=False):  # empty where nothing was replaced
        parameter.data = value


def _rounded(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401  whatever modules hand to each other
    if isinstance(value, Tensor) and value.is_floating_point():
        narrow = value.to(dtype).to(value.dtype)
        return torch.where(narrow.isfinite(), narrow, value)  # masks hold the lowest finite number
    if type(value) is tuple:
        return tuple(_rounded(element, dtype) for element in value)
    return value
