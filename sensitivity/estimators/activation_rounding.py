"""First-order changes of a layer whose inputs the inference engine rounds as well.

With the rounded inputs q(x) that the engine multiplies, a layer's output changes by

    (W + ΔW) q(x) − W x = ΔW q(x) + W (q(x) − x).

The second term is common to all formats whose inputs are rounded alike, and is computed once.

Knows nothing about estimators.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ...quantization.formats import Format
from ...quantization.gguf_inputs import input_block, rounded_inputs
from .fisher import first_order_changes


@dataclass
class ActivationRounding:
    """The inputs of one layer on some tokens, with gradients at its outputs.

    Attributes:
        inputs: x, [tokens, in].
        gradients: g, [draws, tokens, out].
        matrix: gives W, [out, in], when it is needed.
    """

    inputs: Tensor
    gradients: Tensor
    matrix: Callable[[], Tensor]
    _known: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def changes(self, target: Format, delta: Tensor) -> Tensor:
        """Compute aₜ = gₜᵀ ((W + ΔW) q(xₜ) − W xₜ).

        Args:
            target: the format.
            delta: ΔW, [out, in].

        Returns:
            float64 [draws, tokens].
        """
        block = input_block(target)
        if block is None:
            return first_order_changes(self.inputs, self.gradients, delta)
        if block not in self._known:
            rounded = rounded_inputs(self.inputs, block)
            of_rounding = first_order_changes(rounded - self.inputs, self.gradients, self.matrix())
            self._known[block] = rounded, of_rounding
        rounded, of_rounding = self._known[block]
        return of_rounding + first_order_changes(rounded, self.gradients, delta)
