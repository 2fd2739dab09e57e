"""Experts that a model stacks in one tensor become linear layers, one for every expert and matrix.

transformers 5 stores a block's experts as parameters of three dimensions, ``gate_up_proj`` [experts, 2 · intermediate,
hidden] and ``down_proj`` [experts, hidden, intermediate] (or transposed, or with ``up_proj`` alone). Here such a module
is replaced by one that holds ``7.gate_proj``, ``7.up_proj``, ``7.down_proj`` for expert 7, the names in the checkpoints
of most such models. The new parameters are views of the old ones, so nothing is copied; and a module is replaced only
if the replacement computes the same, for every expert.

Knows nothing about architectures by name, nor about files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

GATE_UP, UP, DOWN = "gate_up_proj", "up_proj", "down_proj"
_KNOWN = {name + suffix for name in (GATE_UP, UP, DOWN) for suffix in ("", "_bias")}
_TOLERANCE = 1e-4  # of the largest output: float32 sums in another order differ by about 1e-6
_TAGGED_ROWS, _TAGGED_COLUMNS = 2, 3
_STACK_DIMENSIONS = 3
_NARROWEST_MATRIX = 8  # the kernels of convolutions have fewer columns


class Expert(nn.Module):
    """One expert: down(combine(first x)), with first the gate and up projections side by side, or up alone."""

    def __init__(self, linears: Mapping[str, nn.Linear], combine: Callable[[Tensor], Tensor]) -> None:
        """Assemble an expert.

        Args:
            linears: by name; ``down_proj`` comes last.
            combine: the gate, or the activation.
        """
        super().__init__()
        for name, linear in linears.items():
            self.add_module(name, linear)
        self._combine = combine

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Run the expert on the tokens routed to it, [tokens, hidden] to [tokens, hidden]."""
        *first, down = self.children()
        projected = [linear(hidden_states) for linear in first]
        output: Tensor = down(self._combine(torch.cat(projected, -1) if len(projected) > 1 else projected[0]))
        return output


class UnstackedExperts(nn.Module):
    """A block's experts, each a module of its own under its number."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        """Hold the experts in their order."""
        super().__init__()
        for number, expert in enumerate(experts):
            self.add_module(str(number), expert)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Send every token through its experts; an expert sees its tokens in their order.

        Args:
            hidden_states: [tokens, hidden].
            top_k_index: [tokens, k], the chosen experts; a number beyond the last expert stands for none.
            top_k_weights: [tokens, k].

        Returns:
            [tokens, hidden], the weighted sums.
        """
        total = torch.zeros_like(hidden_states)
        experts = list(self.children())
        for number in sorted(set(top_k_index.flatten().tolist())):
            if number < len(experts):
                tokens, slot = torch.where(top_k_index == number)
                output = experts[number](hidden_states[tokens]) * top_k_weights[tokens, slot, None]
                total.index_add_(0, tokens, output.to(total.dtype))
        return total


@dataclass(frozen=True)
class _Fused:
    """A module that stacks its experts in tensors of three dimensions.

    Attributes:
        name: its path.
        module: the module.
        unstacked: its replacement.
    """

    name: str
    module: nn.Module
    unstacked: UnstackedExperts


def unstack_experts(model: PreTrainedModel) -> dict[str, str] | None:
    """Unstack the experts of a model where that leaves what it computes unchanged; other experts stay as they are.

    Args:
        model: in evaluation mode and without gradients; changed.

    Returns:
        The name of every tensor in checkpoints of this architecture, by its name in the model. A matrix that is not a
        tensor of its own there has none. None if there was nothing to unstack.
    """
    found = [
        _Fused(name, module, unstacked)
        for name, module in model.named_modules()
        if (unstacked := _unstacked(module)) is not None
    ]
    if not found:
        return None
    names = _stored_names(model, found)
    for fused in found:
        parent, _, attribute = fused.name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, fused.unstacked)
        for parameter in list(fused.module._parameters):  # noqa: SLF001  the views keep the data alive
            delattr(fused.module, parameter)
    return names


def stacked_experts(model: nn.Module) -> list[str]:
    """Name the tensors that look like experts but were not unstacked: three dimensions, two of them wide."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == _STACK_DIMENSIONS and min(parameter.shape[1:]) >= _NARROWEST_MATRIX
    ]


def _unstacked(module: nn.Module) -> UnstackedExperts | None:
    """Build a module's replacement; None if it stacks no experts, or not in a known way."""
    parameters = dict(module.named_parameters(recurse=False))
    first = GATE_UP if GATE_UP in parameters else UP
    matrices = [parameters.get(first), parameters.get(DOWN)]
    if not set(parameters) <= _KNOWN or any(matrix is None or matrix.dim() != _STACK_DIMENSIONS for matrix in matrices):
        return None
    gate, activation = getattr(module, "_apply_gate", None), getattr(module, "act_fn", None)
    combine = gate if first == GATE_UP else activation
    if not callable(combine):
        return None
    experts = [Expert(_linears(module, parameters, first, number), combine) for number in range(len(parameters[DOWN]))]
    unstacked = UnstackedExperts(experts).eval().requires_grad_(requires_grad=False)
    return unstacked if _compute_the_same(module, unstacked, parameters[DOWN]) else None


def _linears(module: nn.Module, parameters: Mapping[str, Tensor], first: str, number: int) -> dict[str, nn.Linear]:
    """Make views of one expert's matrices; gate and up are split where one lies above the other."""
    transposed = bool(getattr(module, "is_transposed", False))
    linears: dict[str, nn.Linear] = {}
    for name in (first, DOWN):
        matrix = parameters[name].detach()[number]
        matrix = matrix.t() if transposed else matrix
        bias = parameters[f"{name}_bias"].detach()[number] if f"{name}_bias" in parameters else None
        halves = name == GATE_UP and bool(getattr(module, "is_concatenated", True)) and len(matrix) % 2 == 0
        parts = {"gate_proj": 0, "up_proj": 1} if halves else {name: 0}
        for part, place in parts.items():
            rows = slice(place * len(matrix) // len(parts), (place + 1) * len(matrix) // len(parts))
            linears[part] = _linear(matrix[rows], None if bias is None else bias[rows])
    return linears


def _linear(matrix: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(matrix, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _compute_the_same(module: nn.Module, unstacked: UnstackedExperts, down: Tensor) -> bool:
    """Tell whether two modules compute the same when every expert gets two tokens."""
    num_experts = len(down)
    hidden_size = unstacked.get_submodule("0").get_submodule(DOWN).out_features
    assert isinstance(hidden_size, int)
    hidden = torch.randn(num_experts, hidden_size, generator=torch.Generator().manual_seed(0), dtype=down.dtype)
    first = torch.arange(num_experts)
    chosen = torch.stack([first, (first + 1) % num_experts], 1)
    weights = torch.tensor([[0.75, 0.5]], dtype=down.dtype).repeat(num_experts, 1)
    with torch.no_grad():
        ours = unstacked(hidden, chosen, weights)
        try:
            theirs = module(hidden, chosen, weights)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False  # its forward takes other arguments
    return (
        isinstance(theirs, Tensor)
        and theirs.shape == ours.shape
        and float((theirs - ours).abs().max()) <= _TOLERANCE * float(theirs.abs().max())
    )


def _stored_names(model: PreTrainedModel, found: Sequence[_Fused]) -> dict[str, str]:
    """Find the names in checkpoints by sending tensors of numbers, one for each of ours, through transformers."""
    ours: list[str] = []
    tagged: dict[str, Tensor] = {}

    def tag(name: str, *shape: int) -> Tensor:
        ours.append(name)
        return torch.full([1] * len(shape), len(ours) - 1).expand(shape)

    fused_parts = {f"{fused.name}.{parameter}": fused for fused in found for parameter in fused.module._parameters}  # noqa: SLF001
    for key, tensor in model.state_dict().items():
        if key not in fused_parts:
            tagged[key] = tag(key, *tensor.shape)
    for fused in found:
        tagged |= _tagged_experts(fused, tag)
    try:
        stored = revert_weight_conversion(model, tagged)
    except Exception:  # an architecture's converters may raise anything
        return {}
    names: dict[str, str] = {}
    for key, numbers in stored.items():
        number = int(numbers.flatten()[0]) if numbers.numel() else -1
        shape_kept = ours[number] in tagged or tuple(numbers.shape) == (_TAGGED_ROWS, _TAGGED_COLUMNS)
        if number >= 0 and shape_kept and bool((numbers == number).all()):
            names[ours[number]] = key
    return names


def _tagged_experts(fused: _Fused, tag: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Stack one small tagged matrix for every matrix of every expert as the fused tensors stack the real ones."""
    transposed = bool(getattr(fused.module, "is_transposed", False))
    stacks: dict[str, list[Tensor]] = {}
    for number, expert in fused.unstacked.named_children():
        by_stack: dict[str, list[Tensor]] = {}
        for part, _ in expert.named_children():
            stack = GATE_UP if part == "gate_proj" or (part == UP and hasattr(expert, "gate_proj")) else part
            matrix = tag(f"{fused.name}.{number}.{part}.weight", _TAGGED_ROWS, _TAGGED_COLUMNS)
            by_stack.setdefault(stack, []).append(matrix)
        for stack, matrices in by_stack.items():
            whole = torch.cat(matrices)
            stacks.setdefault(stack, []).append(whole.t() if transposed else whole)
    return {f"{fused.name}.{stack}": torch.stack(wholes) for stack, wholes in stacks.items()}
