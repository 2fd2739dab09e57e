"""Layer shapes of known models from the numbers of their configurations: no weights, no download.

Knows nothing about formats.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Shape:
    """One matrix.

    Attributes:
        name: its module's path.
        kind: the path inside its block, or ``embedding``, ``head``.
        block: the index of its block; None outside the blocks.
        out_features: rows.
        in_features: columns.
    """

    name: str
    kind: str
    block: int | None
    out_features: int
    in_features: int


@dataclass(frozen=True)
class Qwen2Shapes:
    """A model of the Qwen2 architecture: grouped-query attention with biases on q, k and v, gated MLP, RMS norms.

    Attributes:
        num_hidden_layers: blocks.
        hidden_size: width of the stream through them.
        intermediate_size: of the MLP.
        num_attention_heads: of queries.
        num_key_value_heads: of keys and values.
        vocab_size: rows of embedding and head, which are two matrices.
    """

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int

    @property
    def key_value_width(self) -> int:
        """Width of all keys of a token."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads

    def shapes(self) -> Iterator[Shape]:
        """Go through the matrices.

        Yields:
            One after the other, embedding and head last.
        """
        hidden, inner, narrow = self.hidden_size, self.intermediate_size, self.key_value_width
        in_block = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for block in range(self.num_hidden_layers):
            for kind, (out_features, in_features) in in_block.items():
                yield Shape(f"model.layers.{block}.{kind}", kind, block, out_features, in_features)
        yield Shape("model.embed_tokens", "embedding", None, self.vocab_size, hidden)
        yield Shape("lm_head", "head", None, self.vocab_size, hidden)

    @property
    def num_other_parameters(self) -> int:
        """Norms and biases.

        >>> QWEN2_5_32B.num_other_parameters  # 129 norms of 5120; biases of 5120 + 2 · 1024 in 64 blocks
        1119232
        """
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        return norms + self.num_hidden_layers * (self.hidden_size + 2 * self.key_value_width)


QWEN2_5_32B: Final = Qwen2Shapes(
    num_hidden_layers=64,
    hidden_size=5120,
    intermediate_size=27648,
    num_attention_heads=40,
    num_key_value_heads=8,
    vocab_size=152064,
)
