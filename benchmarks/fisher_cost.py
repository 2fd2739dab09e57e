"""What the Fisher pass takes beside a plain forward and backward pass over the same tokens.

The pass prices every layer of the blocks of the demo model in six formats, as ``scantling profile`` does: forward with
labels, every block forward once and backward for every draw of labels, rounded weights read out, the products ΔW x.
The plain pass gives gradients of all weights; beside it stands one without those of embedding and head, which the
Fisher pass does not price either. Rounding is to nearest and outside the clock: a price does not take longer for
another ΔW. The passes take turns on one thread, and CPU seconds are counted, which other work on the machine changes
less than the clock. Multiplications are those of weights with inputs, and with gradients.

    python benchmarks/fisher_cost.py

Results go to results/fisher_cost.md.
"""

import argparse
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from estimators import Clock, plain_pass, weights_of_blocks
from torch import Tensor

from scantling.common.progress import silent
from scantling.models.demo_model import demo_model_path
from scantling.models.layers import Layer, ModelStructure, find_layers, matrix_of
from scantling.models.loading import LoadedModel, load_model
from scantling.quantization.formats import Format, IntegerFormat
from scantling.quantization.grid import RoundedMatrix
from scantling.quantization.round_to_nearest import round_to_nearest
from scantling.sensitivity.calibration.backward_pass import blocks_backward
from scantling.sensitivity.calibration.capture import LabelDraws, capture
from scantling.sensitivity.calibration.resume_cache import ResumeCache
from scantling.sensitivity.estimators.base import PricingContext
from scantling.sensitivity.estimators.fisher import window_form
from scantling.sensitivity.estimators.fisher_estimator import FisherEstimator

RESULTS = Path(__file__).parent / "results" / "fisher_cost.md"
FORMATS = tuple(IntegerFormat(bits, 64) for bits in (2, 3, 4, 5, 6, 8))
LENGTH = 512
ALL, BLOCKS, FISHER = "plain pass, all weights", "plain pass, weights of the blocks", "Fisher"


@dataclass(frozen=True)
class RoundedBlock:
    """The layers of a block, rounded to nearest.

    Attributes:
        matrices: by layer.
        records: by layer, one a format.
    """

    matrices: dict[Layer, Tensor]
    records: dict[Layer, list[RoundedMatrix]]

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers."""
        return list(self.matrices)

    def matrix(self, layer: Layer) -> Tensor:
        """Give a layer's original matrix."""
        return self.matrices[layer]

    def deltas(self, layer: Layer) -> Iterator[tuple[Format, Tensor]]:
        """Read rounded weights out, format by format."""
        for record in self.records[layer]:
            yield record.format, record.dequantize() - self.matrices[layer]


def rounded_block(loaded: LoadedModel, layers: Sequence[Layer]) -> RoundedBlock:
    """Round the layers of a block."""
    matrices = {layer: matrix_of(loaded.model.get_submodule(layer.name)) for layer in layers}
    records = {layer: [round_to_nearest(matrix, target) for target in FORMATS] for layer, matrix in matrices.items()}
    return RoundedBlock(matrices, records)


def fisher_pass(loaded: LoadedModel, structure: ModelStructure, on: PricingContext, clock: Clock) -> None:
    """Price every layer of the blocks.

    Args:
        loaded: the model.
        structure: of the model.
        on: the sequences and draws.
        clock: gets two stages.
    """
    with clock.of("Fisher: forward pass, labels"):
        captured = capture(loaded.model, structure, on.token_ids, on.draws, silent, "")
    rounding = capture(loaded.model, structure, on.token_ids[:1], None, silent, "")
    pricer = FisherEstimator(on, window_form)
    for visit in blocks_backward(loaded.model, structure, rounding, captured, silent):
        changes = rounded_block(loaded, [layer for group in visit.groups for layer in group.layers])
        with clock.of("Fisher: blocks forward and backward, products"):
            pricer.price_block(visit, changes)


def multiplications(structure: ModelStructure, num_draws: int) -> dict[str, int]:
    """Count multiplications by weights, and of weight gradients, for one token.

    Args:
        structure: of the model.
        num_draws: of labels.

    Returns:
        Of both plain passes and of the Fisher pass.
    """
    inside = sum(layer.num_weights for layer in structure.layers if layer.block is not None)
    head = next(layer.num_weights for layer in structure.layers if layer.block is None)
    forward = inside + head
    return {
        ALL: 3 * forward,
        BLOCKS: 3 * inside + 2 * head,
        FISHER: forward + num_draws * head + (1 + num_draws) * inside + len(FORMATS) * inside,
    }


def main() -> None:
    """Take turns, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=12, help=f"of {LENGTH} tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--label-draws", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(str(demo_model_path()))
    structure = find_layers(loaded.model)
    inside = [layer for layer in structure.layers if layer.block is not None]
    weights = {ALL: list(loaded.model.parameters()), BLOCKS: weights_of_blocks(loaded.model, structure)}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, loaded.model.config.vocab_size, (arguments.sequences, LENGTH), generator=generator)
    draws = LabelDraws(0, arguments.label_draws)
    turns = []
    for turn in range(arguments.repeats):
        clock = Clock()
        for name, of in weights.items():
            with clock.of(name):
                plain_pass(loaded.model, of, ids)
        fisher_pass(
            loaded, structure, PricingContext(loaded, structure, ids, inside, draws, silent, ResumeCache(Path())), clock
        )
        turns.append(clock.seconds)
        print(turn, {stage: round(seconds, 1) for stage, seconds in clock.seconds.items()}, flush=True)
    RESULTS.write_text("\n".join(report(turns, multiplications(structure, draws.number), arguments)), encoding="utf-8")


def report(turns: Sequence[dict[str, float]], counted: dict[str, int], arguments: argparse.Namespace) -> list[str]:
    """Lay out what was measured.

    Args:
        turns: CPU seconds by stage, of every repetition.
        counted: multiplications by pass.
        arguments: what was asked for.

    Returns:
        Lines of Markdown.
    """
    stages = list(turns[0])
    whole = [sum(seconds for stage, seconds in turn.items() if stage.startswith(FISHER)) for turn in turns]
    rows = {stage: [turn[stage] for turn in turns] for stage in stages} | {FISHER: whole}
    told = f"{arguments.sequences} × {LENGTH} tokens, {arguments.label_draws} draws of labels, {len(FORMATS)} formats"
    lines = ["# The Fisher pass beside a plain pass", "", (__doc__ or "").split("\n\n")[1].strip(), ""]
    lines += [f"{told}, {len(turns)} turns: means, and the least and most of them.", ""]
    lines += ["| | CPU seconds | of the plain pass, all weights | without embedding and head | multiplications |"]
    lines += ["|---|---|---|---|---|"]
    for stage, seconds in rows.items():
        ratios = [[one / turn[plain] for one, turn in zip(seconds, turns, strict=True)] for plain in (ALL, BLOCKS)]
        cells = [f"{fmean(of):.2f} ({min(of):.2f} to {max(of):.2f})" for of in ratios]
        count = (
            f"{counted[stage] / counted[ALL]:.2f}, {counted[stage] / counted[BLOCKS]:.2f}" if stage in counted else ""
        )
        lines.append(f"| {stage} | {fmean(seconds):.1f} | {' | '.join(cells)} | {count} |")
    return [*lines, "", f"Python {platform.python_version()}, torch {torch.__version__}, one thread.", ""]


if __name__ == "__main__":
    main()
