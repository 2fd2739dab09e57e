"""Count files, lines and long functions of every room: `python benchmarks/house.py [REVISION …]`, a second.

Without a revision the working tree is counted. A function's length is that of its statements, its docstring left out.
"""

import argparse
import ast
import subprocess
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
NOT_PACKAGE = ("benchmarks", "tests", "docs")
LONG_FUNCTION_LINES = 40


@dataclass
class Room:
    """Lengths in one folder at the top, in lines."""

    files: dict[str, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)


def sources(revision: str | None) -> dict[str, str]:
    """Read the Python files of a revision, or of the working tree."""
    command = ["git", "ls-files"] if revision is None else ["git", "ls-tree", "-r", "--name-only", revision]
    names = [name for name in git(*command[1:]).splitlines() if name.endswith(".py")]
    if revision is None:
        return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).exists()}
    return {name: git("show", f"{revision}:{name}") for name in names}


def git(*words: str) -> str:
    """Call git in the checkout."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S607


def statement_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function from its name to its end, without its docstring."""
    body = function.body
    first = body[0]
    docstring = 0
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        docstring = (first.end_lineno or first.lineno) - first.lineno + 1
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def rooms(files: dict[str, str]) -> dict[str, Room]:
    """Count every room of a set of files."""
    found: dict[str, Room] = {}
    for name, text in files.items():
        path = PurePosixPath(name)
        room = found.setdefault(path.parts[0] if len(path.parts) > 1 else "(top)", Room())
        room.files[name] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                room.functions[f"{name}:{node.name}"] = statement_lines(node)
    return found


def table(found: dict[str, Room]) -> list[str]:
    """Write rooms as a table in Markdown, the package's first."""
    lines = [
        "| room | files | lines | longest file | functions | over 40 lines | longest function |",
        "|---|---|---|---|---|---|---|",
    ]
    package = [room for name, room in found.items() if name not in NOT_PACKAGE]
    whole = Room()
    for room in package:
        whole.files |= room.files
        whole.functions |= room.functions
    order = sorted(found, key=lambda name: (name in NOT_PACKAGE, name))
    for name, room in [("**the package**", whole), *((name, found[name]) for name in order)]:
        if not room.files:
            continue
        file = max(room.files, key=lambda key: room.files[key])
        function = max(room.functions, key=lambda key: room.functions[key], default="")
        long = sum(length > LONG_FUNCTION_LINES for length in room.functions.values())
        share = f"{long} ({long / len(room.functions):.1%})" if room.functions else "0"
        longest = f"{function} {room.functions[function]}" if function else "–"
        lines.append(
            f"| {name} | {len(room.files)} | {sum(room.files.values()):,} | {file} {room.files[file]} "
            f"| {len(room.functions):,} | {share} | {longest} |"
        )
    return lines


def main() -> None:
    """Print a table for every revision that was named, or for the working tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revisions", nargs="*", help="git revisions; by default the working tree")
    for revision in parser.parse_args().revisions or [None]:
        print(f"\n{revision or 'working tree'}\n")
        print("\n".join(table(rooms(sources(revision)))))


if __name__ == "__main__":
    main()
