"""What `mkdocs build` adds to the site: pages from outside docs/, under the links that they have in the repository.

Knows nothing about what the pages say.
"""

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent
OUTSIDE: Final = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/LOG.md")
_UP: Final = re.compile(r"\]\(\.\./(?=benchmarks/|CHANGELOG|CONTRIBUTING)")
_INTO_DOCS: Final = re.compile(r"\]\(docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    results = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    for path in [*(ROOT / name for name in OUTSIDE), *results]:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between docs/ and the rest of the repository lead to pages of the site."""
    del page, config, files
    return _INTO_DOCS.sub("](", _UP.sub("](", markdown))
