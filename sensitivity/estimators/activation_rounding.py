"""First-order changes of a matrix in a format whose engine rounds the inputs of its products.

With the inputs q(x) that the engine multiplies, a layer's output changes by

    (W + ΔW) q(x) − W x = ΔW q(x) + W (q(x) − x).

The second term is the same for all formats whose inputs are rounded alike, and is computed once for them.

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
        matrix: gives W, [out, in]; asked for where it is needed.
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
