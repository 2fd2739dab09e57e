"""Where everything on the page comes from: files with their hashes, seeds, versions.

Knows nothing about what the numbers mean.
"""

from ... import __version__
from ...planning.plan import Plan
from .material import Material
from .parts import Paragraph, Section, Table, columns


def provenance_section(material: Material) -> Section:
    """The files, seeds and versions behind the page."""
    plan, record = material.plan, material.profile.record
    sequences = f"{len(material.profile.rounding_token_ids)} + {len(material.profile.pricing_token_ids)}"
    rounding = ", ".join(f"{key} {value}" for key, value in record.rounding.items())
    rows = (
        ("model", plan.model_source),
        ("SHA-256 of its weights", plan.model_sha256),
        *((f"{source.what}, SHA-256", f"{source.path}: {source.sha256}") for source in material.sources),
        ("calibration text", f"{record.text_source}, SHA-256 {record.text_sha256}"),
        *(
            (f"domain {domain.name}", f"{domain.text_source}, SHA-256 {domain.text_sha256}")
            for domain in record.domains
        ),
        ("calibration", f"{sequences} sequences of {record.sequence_length} tokens (rounding + pricing)"),
        ("perplexity of the original on it", f"{record.calibration_perplexity:.2f}"),
        ("rounding", rounding),
        ("estimator", f"{record.estimator}, {record.num_label_draws} draws of labels, seed {record.seed}"),
        *_proof(plan),
        *_measured(material),
        ("versions", f"profile by {record.scantling_version}, plan by {plan.scantling_version}, page by {__version__}"),
    )
    note = "The page holds no date: the same files give the same page, byte for byte."
    return Section("provenance", "Provenance", (Table("provenance", columns("", ""), rows), Paragraph(note, "note")))


def _proof(plan: Plan) -> tuple[tuple[str, str], ...]:
    proven = plan.certificate
    size = f"{proven.num_units} decisions, {proven.num_options} options, {proven.num_core_options} left after presolve"
    return (("solver", f"{proven.solver}, seed {proven.seed}, {proven.solve_seconds:.2f} s, {size}"),)


def _measured(material: Material) -> tuple[tuple[str, str], ...]:
    rows = []
    if material.comparison is not None:
        found = material.comparison
        rows.append(("comparison", f"by {found.scantling_version} on {found.text_source}, SHA-256 {found.text_sha256}"))
    if material.safety is not None:
        texts = "; ".join(f"{curve.text_source}, SHA-256 {curve.text_sha256}" for curve in material.safety.curves)
        rows.append(("safety", f"by {material.safety.scantling_version} on {texts}"))
    return tuple(rows)
