"""The tables: everyone at every size, ratios with intervals, what allocation takes, tools with their own rounding."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from allocation import AVERAGE_BITS, PEERS
from entries import OURS_ALL, OURS_QUICK, OURS_TIED, OURS_UNTIED, UNIFORM, Entry
from environments import requirements
from measure import ORIGINAL, quality_of
from own_rounding import Own, gptqmodel

from scantling.evaluation.bootstrap import BlockBootstrap
from scantling.evaluation.quality import Quality, standard_error
from scantling.planning.plan import average_bits
from scantling.sensitivity.profile import Profile, uniform_formats

EIGHT = slice(1, None, 3)
OURS = (OURS_TIED, OURS_QUICK, OURS_UNTIED, OURS_ALL)
Measured = dict[tuple[str, float], Quality]


@dataclass(frozen=True)
class OwnRow:
    """A tool with its own rounding.

    Attributes:
        name: of the tool.
        rounding: in words.
        num_bytes: of the checkpoint.
        quality: None where it was not run.
    """

    name: str
    rounding: str
    num_bytes: int
    quality: Quality | None


def mean(values: Sequence[float]) -> float:
    """Average exactly."""
    return math.fsum(values) / len(values)


def bits_of(profile: Profile, formats: dict[str, str]) -> float:
    """Average the widths over the weights that are decided."""
    widths = {name: int(target[3]) for name, target in formats.items() if target.startswith("int")}
    return average_bits([
        (widths[layer.name], layer.num_weights) for layer in profile.record.layers if layer.name in widths
    ])


def short_table(measured: Measured) -> list[str]:
    """Lay out KL alone, one row a target.

    Args:
        measured: on all sequences.

    Returns:
        Lines of Markdown: KL on 8 sequences, in brackets on 24.
    """
    names = (UNIFORM, *(peer.name for peer in PEERS), *OURS)
    lines = [f"| average bits | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for target in AVERAGE_BITS:
        cells = []
        for name in names:
            found = measured.get((name, target))
            cells.append("" if found is None else f"{mean(found.kl_nats[EIGHT]):.3f} ({mean(found.kl_nats):.3f})")
        lines.append(f"| {target} | {' | '.join(cells)} |")
    return lines


def main_table(
    profile: Profile, everyone: Sequence[Entry], measured: Measured, resampling: BlockBootstrap
) -> list[str]:
    """Lay out everyone.

    Args:
        profile: counts bytes and predicts.
        everyone: in the order of the table.
        measured: on all sequences.
        resampling: of their documents.

    Returns:
        Lines of Markdown.
    """
    lines = [
        "| target | | bits | bytes | predicted KL | KL on 8 | KL on 24 (95% interval) | perplexity | same top token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in everyone:
        quality, predicted = measured.get((one.name, one.target)), profile.predict(one.formats)[0]
        bits, size = bits_of(profile, one.formats), profile.stored_bytes(one.formats)
        start = f"| {one.target} | {one.name} | {bits:.3f} | {size:,} | {predicted:.3f} "
        if quality is None:
            lines.append(f"{start}| not measured | | | |")
            continue
        eight, whole = quality.kl_nats[EIGHT], resampling.mean_interval(quality.kl_nats)
        lines.append(
            f"{start}| {mean(eight):.3f} ± {standard_error(eight):.3f} "
            f"| {whole.estimate:.3f} ({whole.lower:.3f} to {whole.upper:.3f}) | {quality.perplexity:.2f} "
            f"| {mean(quality.top1_agreement):.1%} |"
        )
    return lines


def ratio(mine: Quality, theirs: Quality, resampling: BlockBootstrap) -> str:
    """Write the ratio of two mean divergences, resampled together."""
    return ratio_of(mine.kl_nats, theirs.kl_nats, resampling)


def ratio_of(mine: Sequence[float], theirs: Sequence[float], resampling: BlockBootstrap) -> str:
    """Write the ratio of two means by sequence, resampled together."""
    estimate = mean(mine) / mean(theirs)
    found = resampling.interval(estimate, resampling.means(mine) / resampling.means(theirs))
    return f"{estimate:.2f} ({found.lower:.2f} to {found.upper:.2f})"


def ratio_table(measured: Measured, resampling: BlockBootstrap) -> list[str]:
    """Put ours beside each other one of the same target.

    Args:
        measured: on all sequences.
        resampling: of their documents.

    Returns:
        Lines of Markdown.
    """
    lines = [
        f"| target | our KL over that of | {' | '.join(OURS)} |",
        "|---" * (len(OURS) + 2) + "|",
    ]
    for target in AVERAGE_BITS:
        for other in (UNIFORM, *(peer.name for peer in PEERS)):
            theirs = measured.get((other, target))
            if theirs is not None:
                cells = [
                    ratio(mine, theirs, resampling) if (mine := measured.get((name, target))) else "not measured"
                    for name in OURS
                ]
                lines.append(f"| {target} | {other} | {' | '.join(cells)} |")
    return lines


def targets(measured: Measured, resampling: BlockBootstrap) -> list[str]:
    """Hold the figures against what was aimed at.

    Args:
        measured: on all sequences.
        resampling: of their documents.

    Returns:
        Lines of Markdown.
    """
    lines = ["| aim | target | found | met |", "|---|---|---|---|"]
    for target in (3.0, 3.5, 4.0):
        peers = {peer.name: found for peer in PEERS if (found := measured.get((peer.name, target)))}
        best = min(peers, key=lambda name: mean(peers[name].kl_nats), default=None)
        aims = [("at most 0.50 × uniform, no ties", OURS_ALL, UNIFORM, 0.50)]
        if best is not None:
            tied = OURS_TIED if best == "ModelOpt" else OURS_UNTIED
            aims.insert(0, (f"at most 0.75 × {best}, the best peer, same widths and ties ({tied})", tied, best, 0.75))
            aims.append((f"at most 0.45 × {best}, no ties, all our widths (rounding alike)", OURS_ALL, best, 0.45))
        for says, name, other, bound in aims:
            mine, theirs = measured.get((name, target)), measured.get((other, target))
            if mine is not None and theirs is not None:
                met = "yes" if mean(mine.kl_nats) <= bound * mean(theirs.kl_nats) else "no"
                lines.append(f"| {says} | {target} | {ratio(mine, theirs, resampling)} | {met} |")
    mine, theirs = measured.get((OURS_ALL, 3.5)), measured.get((UNIFORM, 4.0))
    if mine is not None and theirs is not None:
        met = "yes" if mean(mine.kl_nats) <= mean(theirs.kl_nats) else "no"
        lines.append(f"| 3.5 bits no worse than uniform 4 | 3.5 | {ratio(mine, theirs, resampling)} | {met} |")
    return lines


def cost_table(everyone: Sequence[Entry], ours: Sequence[str]) -> list[str]:
    """Say what allocation takes.

    Args:
        everyone: those of the peers know it.
        ours: rows for ours.

    Returns:
        Lines of Markdown.
    """
    lines = ["| | target | seconds | CPU seconds | peak GiB | |", "|---|---|---|---|---|---|"]
    for one in everyone:
        if (said := one.allocation) is not None:
            remark = "scores were kept from an earlier target" if said.scores_were_there else ""
            took = f"{said.seconds:.0f} | {said.cpu_seconds:.0f} | {said.peak_gib:.2f}"
            lines.append(f"| {one.name} | {one.target} | {took} | {remark} |")
    return [*lines, *ours]


def own_rows(
    folder: Path, everyone: Sequence[Own], profile: Profile, reference: Path | None
) -> dict[float, list[OwnRow]]:
    """Gather tools with their own rounding.

    Args:
        folder: of the benchmark.
        everyone: who rounds by its own means.
        profile: counts bytes.
        reference: folder of ``gptqmodel_reference.py``; None where it was not run.

    Returns:
        Rows by target, ours first.
    """
    rows: dict[float, list[OwnRow]] = {target: [] for target in AVERAGE_BITS}
    for own in everyone:
        size, quality = profile.stored_bytes(own.entry.formats), quality_of(folder, own.key)
        rows[own.entry.target].append(OwnRow(own.entry.name, own.rounding, size, quality))
    for target in (target for target in AVERAGE_BITS if target == int(target)):
        size = profile.stored_bytes(uniform_formats(profile, f"int{int(target)}-g64"))
        rows[target].append(OwnRow("GPTQModel, uniform", "its own GPTQ", size, gptqmodel(reference, int(target))))
    return rows


def own_table(rows: Mapping[float, Sequence[OwnRow]]) -> list[str]:
    """Lay out tools with their own rounding, on the usual eight sequences.

    Args:
        rows: by target.

    Returns:
        Lines of Markdown.
    """
    lines = ["| target | | rounding | bytes | KL on 8 | perplexity on 8 |", "|---|---|---|---|---|---|"]
    for target, of_target in rows.items():
        for row in of_target:
            cells = "not run | " if row.quality is None else on_eight(row.quality)
            lines.append(f"| {target} | {row.name} | {row.rounding} | {row.num_bytes:,} | {cells} |")
    return lines


def own_targets(rows: Mapping[float, Sequence[OwnRow]], document_of_sequence: Sequence[int]) -> list[str]:
    """Put ours beside the best of the others, each with its own rounding, on the usual eight sequences.

    Args:
        rows: by target, ours first.
        document_of_sequence: of all sequences.

    Returns:
        Further rows of the table of aims.
    """
    lines, resampling = [], BlockBootstrap(tuple(document_of_sequence[EIGHT]))
    for target in (3.0, 3.5, 4.0):
        kl = {f"{row.name} ({row.rounding})": usual(row.quality.kl_nats) for row in rows[target] if row.quality}
        names = [f"{row.name} ({row.rounding})" for row in rows[target]]
        theirs = [name for name, row in zip(names, rows[target], strict=True) if row.name != OURS_ALL]
        others = [name for name in theirs if name in kl]
        if names[0] in kl and others:
            best = min(others, key=lambda name: mean(kl[name]))
            found = ratio_of(kl[names[0]], kl[best], resampling)
            reached = "yes" if others == theirs else "open: not all were run"
            met = reached if mean(kl[names[0]]) <= 0.45 * mean(kl[best]) else "no"
            lines.append(
                f"| at most 0.45 × {best}, the best peer, each with its own rounding | {target} | {found} | {met} |"
            )
    return lines


def usual(values: tuple[float, ...]) -> tuple[float, ...]:
    """Give the values of the usual eight sequences, where there are more."""
    return values[EIGHT] if len(values) > 8 else values


def on_eight(quality: Quality) -> str:
    """Write KL and perplexity on the usual eight sequences."""
    kl, likelihood = usual(quality.kl_nats), usual(quality.negative_log_likelihood_nats)
    return f"{mean(kl):.3f} ± {standard_error(kl):.3f} | {math.exp(mean(likelihood)):.2f}"


def unavailable(folder: Path, everyone: Sequence[Entry]) -> list[str]:
    """List allocations that are not there, with the last line of the log.

    Args:
        folder: of the benchmark.
        everyone: who is there.

    Returns:
        Lines of Markdown.
    """
    present, lines = {(one.name, one.target) for one in everyone}, []
    for peer in PEERS:
        for target in AVERAGE_BITS:
            if (peer.name, target) not in present:
                log = folder / "allocations" / f"{peer.script}-{target}.log"
                last = log.read_text().strip().splitlines()[-1:] if log.is_file() else []
                lines.append(f"- {peer.name} at {target} bits: {last[0][:300] if last else 'not run'}")
    return lines


def versions() -> str:
    """Name the machine, our packages and the peers' pins."""
    mine = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ortools", "numpy"))
    pins = "; ".join(f"{peer.name}: {', '.join(requirements(peer.path))}" for peer in PEERS)
    return f"Python {platform.python_version()}, {mine}, {os.cpu_count()} cores. {pins}."


def measured_of(folder: Path, everyone: Sequence[Entry]) -> Measured:
    """Read what was measured of everyone."""
    return {(one.name, one.target): quality for one in everyone if (quality := quality_of(folder, one.key)) is not None}


def original_of(folder: Path) -> str:
    """Describe the original on the same text."""
    found = quality_of(folder, ORIGINAL)
    return "" if found is None else f"Perplexity of the original there: {found.perplexity:.2f}."
