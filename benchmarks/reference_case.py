"""Write the reference case to results/reference_case.md: `python benchmarks/reference_case.py`, a second."""

from pathlib import Path

from reference_case_model import reference_case
from reference_case_page import reference_page

RESULTS = Path(__file__).parent / "results" / "reference_case.md"


def main() -> None:
    """Write the page, with the command that did."""
    title, _, rest = reference_page(reference_case()).partition("\n")
    RESULTS.write_text(f"{title}\n\n`python benchmarks/reference_case.py`\n{rest}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
