"""Allocations measured on text: KL, perplexity and agreement with the original on 24 × 512 tokens.

The sequences are spread evenly over the articles that were kept for evaluation; every third of them, from the second,
are the eight that ``scantling compare`` measures on.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from entries import Entry
from rounded import rounded_layers

from scantling.common.files import whole_file
from scantling.common.progress import silent
from scantling.evaluation.quality import Quality, measure_candidates
from scantling.evaluation.text import EvaluationDomain, evaluation_domain, profiled_domains
from scantling.models.demo_model import demo_model_path
from scantling.models.loading import LoadedModel, load_model
from scantling.sensitivity.profile import Profile

NUM_SEQUENCES, LENGTH = 24, 512
AT_ONCE = 4  # entries whose matrices are in memory together
ORIGINAL, DOCUMENTS = "original", "documents.json"


def evaluation_text(loaded: LoadedModel, profile: Profile) -> EvaluationDomain:
    """Cut the evaluation sequences."""
    return evaluation_domain(loaded, profile, profiled_domains(profile)[0], NUM_SEQUENCES, LENGTH)


def quality_of(folder: Path, key: str) -> Quality | None:
    """Read a measurement.

    Args:
        folder: of the benchmark.
        key: of the entry, or ``original``.

    Returns:
        What was measured; None where nothing was.
    """
    return read_quality(folder / "measured" / f"{key}.json")


def read_quality(path: Path) -> Quality | None:
    """Read a quality that was kept; None where there is no such file."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    return Quality(*(tuple(found[field.name]) for field in fields(Quality)))


def keep_quality(folder: Path, key: str, quality: Quality) -> None:
    """Write a measurement."""
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "measured" / f"{key}.json") as partial:
        partial.write_text(json.dumps(asdict(quality)))


def keep_documents(folder: Path, document_of_sequence: Sequence[int]) -> None:
    """Write which sequences come from one document."""
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "measured" / DOCUMENTS) as partial:
        partial.write_text(json.dumps(document_of_sequence))


def documents_of(folder: Path) -> tuple[int, ...]:
    """Read which sequences come from one document."""
    return tuple(json.loads((folder / "measured" / DOCUMENTS).read_text()))


def measure(profile: Profile, folder: Path, everyone: Sequence[Entry], minutes: float) -> None:
    """Measure who was not measured yet.

    Args:
        profile: says how layers are rounded, and what was calibrated on.
        folder: of the benchmark.
        everyone: the entries; those of the same formats are measured once.
        minutes: begin nothing further after these.
    """
    start = time.perf_counter()
    telling_first = sorted(everyone, key=lambda one: one.target < 3.0)  # where additive prices hold best
    waiting = {one.key: one for one in telling_first if quality_of(folder, one.key) is None}
    if not waiting:
        return
    loaded = load_model(str(demo_model_path()))
    case = evaluation_text(loaded, profile)
    keep_documents(folder, case.document_of_sequence)
    keys = list(waiting)
    for first in range(0, len(keys), AT_ONCE):
        if time.perf_counter() - start > 60 * minutes:
            return
        now = keys[first : first + AT_ONCE]
        records = rounded_layers(loaded, profile, [waiting[key].formats for key in now], folder / "rounded")
        measured = measure_candidates(loaded.model, dict(zip(now, records, strict=True)), case.token_ids, silent)
        for key, quality in measured.items():
            keep_quality(folder, key, quality)
        print(", ".join(f"{waiting[key].name} {waiting[key].target} {measured[key].mean_kl_nats:.4f}" for key in now))
