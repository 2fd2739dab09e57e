"""The documentation against the code: modules, commands, options, names, links and figures."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup

import scantling
from scantling.__main__ import app

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
BY_HAND = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
PAGES = [*BY_HAND, ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md", ROOT / "benchmarks/LOG.md"]
ROOMS = ("common", "solver", "quantization", "models", "sensitivity", "hardware", "planning", "backends", "evaluation")
ROOMS += ("reporting", "commands")


def read(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_short():
    assert len(read(ROOT / "README.md").splitlines()) <= 180
    shown = read(ROOT / "README.md").partition("begin -->\n")[2].partition("<!--")[0]
    assert 0 < len(shown.splitlines()) <= 15
    assert max(map(len, shown.splitlines())) <= 84


def test_generated_tables_are_those_of_the_code():
    command = [sys.executable, str(ROOT / "docs/generate.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_architecture_names_every_module_and_no_other():
    page, package, named = read(ROOT / "docs/architecture.md"), "", set()
    for line in page.splitlines():
        if match := re.match(r"#{3,4} ([\w/]+)/$", line):
            package = match[1]
        elif match := re.match(r"\| `(\w+\.py)` \| \S", line):
            named.add(f"{package}/{match[1]}")
    present = {name_of(path) for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py"}
    assert named == present


@pytest.mark.parametrize("page", BY_HAND, ids=name_of)
def test_files_that_the_text_names_exist(page):
    for span in re.findall(r"`([^`\s]+)`", read(page)):
        if re.fullmatch(rf"(?:{'|'.join(ROOMS)}|tests|benchmarks|docs)/[\w/.-]*", span):
            assert (ROOT / span).exists(), f"{name_of(page)} names {span}"


# Links


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", read(path), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", read(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        destination = (page.parent / path).resolve() if path else page
        assert destination.is_file(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(destination), f"{name_of(page)} links to {target}"


# Commands and options


def leaves(group, prefix=()):
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from leaves(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name)), command


GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
OPTIONS = {
    name: {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in leaves(GROUP)
}
EVERY_OPTION = set().union(*OPTIONS.values()) | {"--help", "--version"}
INVOCATION = re.compile(r"\bscantling ((?:hardware )?[a-z]+)\b([^`\n]*)")


def test_every_command_is_documented():
    headings = set(re.findall(r"^### ([a-z ]+)$", read(ROOT / "docs/command-line.md"), re.MULTILINE))
    assert headings == set(OPTIONS)


@pytest.mark.parametrize("page", BY_HAND, ids=name_of)
def test_commands_and_options_exist(page):
    lines = read(page).splitlines()
    code = [line for line in lines if line.startswith("    ")] + re.findall(r"`([^`\n]+)`", read(page))
    for piece in code:
        for command, rest in INVOCATION.findall(piece.partition("  #")[0]):
            assert command in OPTIONS, f"{name_of(page)}: scantling {command}"
            for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"'[^']*'", "", rest)):
                assert option in OPTIONS[command] | {"--help"}, f"{name_of(page)}: scantling {command} {option}"
        if piece.startswith("--"):
            option = re.match(r"--[a-z-]+", piece)
            assert option is not None
            assert option[0] in EVERY_OPTION, f"{name_of(page)}: {piece}"


# Python


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)


@pytest.mark.parametrize("page", BY_HAND, ids=name_of)
def test_python_in_the_text_uses_public_names(page):
    for block in python_blocks(page):
        ast.parse(block)
        for name in re.findall(r"\bsc\.(\w+)", block):
            assert name in scantling.__all__
            assert getattr(scantling, name) is not None


# Figures and versions


def rows(text):
    """Rows of Markdown tables without their heads."""
    return [line for line in text.splitlines() if re.match(r"\| .*\d", line)]


def by_average_bits(text):
    """Cells of the table that goes by average bits, its head first."""
    return [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if re.match(r"\| (average|\d)", line)]


def test_figures_beside_other_tools_are_those_of_the_benchmark():
    results = read(ROOT / "benchmarks/results/peers.md")
    whole = read(ROOT / "benchmarks/README.md").partition("## Beside other tools")[2]
    found = rows(whole)
    assert len(found) > 30
    assert set(found) <= set(rows(results))
    short = read(ROOT / "README.md").partition("## Beside other tools")[2].partition("\n## ")[0]
    head, *lines = by_average_bits(short)
    names = [name.replace("scantling", "ours") for name in head]
    theirs, *measured = by_average_bits(results.partition("### Allocations")[0])
    assert len(lines) == len(measured) == 4
    for line, of_results in zip(lines, measured, strict=True):
        for name, cell in zip(names[1:], line[1:], strict=True):
            assert of_results[theirs.index(name)].endswith(f"({cell})")


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=name_of)
def test_measured_figures_of_the_text_stand_in_results(page):
    """Figures of three decimals beside a link to results are found in one of the pages of results."""
    results = "".join(read(path) for path in (ROOT / "benchmarks").rglob("*.md"))
    results += "".join(read(path) for path in DOCS if path.name == "safety.md")
    for paragraph in read(page).split("\n\n"):
        if "benchmarks/results/" in paragraph:
            for figure in re.findall(r"(?<![\w.])0\.\d{3}(?!\d)", paragraph):
                assert figure in results, f"{name_of(page)}: {figure}"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert citation["version"] == scantling.__version__
    assert citation["license"] == "Apache-2.0"
