"""The rooms: which may import which, and what keeps the package whole.

    common ← solver;  common ← quantization ← models ← sensitivity;  hardware, planning stand on both;
    backends, evaluation on planning;  reporting ← commands ← __main__

Every check reads source text only, so that a test can hold it against a tree that breaks the rule.
"""

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "scantling"
NOT_PACKAGED = {"tests", "benchmarks", "docs", "build", "dist"}
MOST_LINES = 400

BELOW_SENSITIVITY = {"common", "quantization", "models"}
BELOW_HARDWARE = BELOW_SENSITIVITY | {"solver", "sensitivity"}
MAY_IMPORT = {
    "common": set(),
    "solver": {"common"},
    "quantization": {"common"},
    "models": {"common", "quantization"},
    "sensitivity": BELOW_SENSITIVITY,
    "hardware": BELOW_HARDWARE,
    "planning": BELOW_HARDWARE | {"hardware"},
    "backends": BELOW_HARDWARE | {"hardware", "planning"},
    "evaluation": BELOW_HARDWARE | {"hardware", "planning", "backends"},
    "reporting": BELOW_HARDWARE | {"hardware", "planning", "backends", "evaluation"},
    "commands": BELOW_HARDWARE | {"hardware", "planning", "backends", "evaluation", "reporting"},
    "__main__": BELOW_HARDWARE | {"hardware", "planning", "backends", "evaluation", "reporting", "commands"},
}
LATE_HAND_OVERS = {  # inside functions, or for types alone: methods of the library that hand a plan on
    (f"{PACKAGE}.planning.plan", "backends"): "Plan.export",
    (f"{PACKAGE}.planning.plan", "evaluation"): "Plan.refine, whose steps are measured",
    (f"{PACKAGE}.planning.safety_factor", "evaluation"): "Program.solve with a factor of safety, which is measured",
}
WITHOUT_TENSORS = {"common", "solver"}
TENSOR_LIBRARIES = {"torch", "transformers"}
LONG_FILES = {
    "benchmarks/estimators.py": "one table of every estimator, from prices to plans",
    "tests/backends/test_checkpoints.py": "every backend goes through one battery",
    "tests/backends/test_gguf.py": "types, rounding and files of GGUF share one tiny model",
    "tests/commands/test_command_line.py": "one chain of commands, each on what the one before wrote",
    "tests/evaluation/test_safety.py": "factor, file and search are held against one synthetic ladder",
    "tests/reporting/test_page.py": "one page, section by section, from one set of records",
}


@dataclass(frozen=True)
class Import:
    """An import statement: ``late`` inside a function, ``for_types`` under TYPE_CHECKING."""

    module: str
    target: str
    name: str
    line: int
    late: bool = False
    for_types: bool = False

    @property
    def at_module_level(self) -> bool:
        return not (self.late or self.for_types)


def sources() -> dict[str, str]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in python_files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in NOT_PACKAGED:
            found[".".join((PACKAGE, *(part for part in parts if part != "__init__")))] = path.read_text("utf-8")
    return found


def python_files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if not any(part.startswith(".") or part == "__pycache__" for part in parts) and parts[0] not in {
            "build",
            "dist",
        }:
            yield path


def imports_of(modules: Mapping[str, str]) -> list[Import]:
    """All imports of all modules, those inside functions and under TYPE_CHECKING too."""
    found = []
    for module, text in modules.items():
        reader = ImportReader(module, modules)
        reader.visit(ast.parse(text))
        found += reader.found
    return found


class ImportReader(ast.NodeVisitor):
    """Collects the imports of one module."""

    def __init__(self, module: str, modules: Mapping[str, str]) -> None:
        is_package = any(other.startswith(f"{module}.") for other in modules)
        self.module, self.modules = module, modules
        self.package = module.split(".") if is_package else module.split(".")[:-1]
        self.late = self.for_types = False
        self.found: list[Import] = []

    def note(self, node: ast.Import | ast.ImportFrom, target: str, name: str) -> None:
        self.found.append(Import(self.module, target, name, node.lineno, self.late, self.for_types))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.note(node, alias.name, "")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self.package[: len(self.package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            self.note(node, inner if inner in self.modules else base, alias.name)

    def visit_If(self, node: ast.If) -> None:
        before = self.for_types
        self.for_types = before or "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body:
            self.visit(child)
        self.for_types = before
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self.late = self.late, True
        self.generic_visit(node)
        self.late = before

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else ""


def wrong_directions(imports: list[Import]) -> list[str]:
    """Imports between rooms that the drawing above does not allow."""
    wrong = []
    for found in imports:
        if found.target.split(".")[0] != PACKAGE:
            continue
        here, there = room_of(found.module), room_of(found.target)
        if not here:
            allowed = not found.at_module_level  # the package's surface is lazy
        elif not there:
            allowed = found.name == "__version__"
        elif (found.module, there) in LATE_HAND_OVERS:
            allowed = not found.at_module_level
        else:
            allowed = here == there or there in MAY_IMPORT[here]
        if not allowed:
            wrong.append(f"{found.module}:{found.line} imports {found.name or 'it'} from {found.target}")
    return wrong


def module_graph(imports: list[Import]) -> dict[str, set[str]]:
    """Modules and the modules that importing them imports."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        graph.setdefault(found.module, set())
        if found.at_module_level:
            graph[found.module].add(found.target)
    return graph


def cycles(graph: Mapping[str, set[str]]) -> list[str]:
    found, finished, path = [], set(), []

    def visit(module: str) -> None:
        if module in path:
            found.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            path.append(module)
            for target in sorted(graph.get(module, ())):
                visit(target)
            path.pop()
            finished.add(module)

    for module in graph:
        visit(module)
    return found


def tensor_imports(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules of the rooms without tensors that end up importing a tensor library, with the way there."""
    found = []
    for start in graph:
        if room_of(start) not in WITHOUT_TENSORS:
            continue
        ways = {start: start}
        waiting = [start]
        while waiting:
            here = waiting.pop()
            for target in graph.get(here, ()):
                if target not in ways:
                    ways[target] = f"{ways[here]} → {target}"
                    waiting.append(target)
        found += [way for target, way in ways.items() if target.split(".")[0] in TENSOR_LIBRARIES]
    return found


def too_long(lines: Mapping[str, int]) -> list[str]:
    return [f"{name}: {count} lines" for name, count in lines.items() if count > MOST_LINES and name not in LONG_FILES]


def test_rooms_import_one_way():
    assert wrong_directions(imports_of(sources())) == []


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in sources()} - {""}
    assert rooms == set(MAY_IMPORT)
    assert all(here not in MAY_IMPORT[there] for here, below in MAY_IMPORT.items() for there in below)


def test_tests_mirror_the_rooms():
    folders = {path.parent.relative_to(ROOT / "tests").parts[:1] for path in (ROOT / "tests").rglob("test_*.py")} - {()}
    assert {folder for (folder,) in folders} <= set(MAY_IMPORT)


def test_no_modules_import_each_other():
    assert cycles(module_graph(imports_of(sources()))) == []


def test_the_solver_and_what_is_common_load_no_tensors():
    assert tensor_imports(module_graph(imports_of(sources()))) == []


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in python_files()}
    packaged = {folder for folder in folders if not set(folder.parts[:1]) & NOT_PACKAGED}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in packaged)
    assert sorted(settings["packages"]) == sorted(".".join((PACKAGE, *folder.parts)) for folder in packaged)


def test_every_data_file_is_installed_and_every_pattern_finds_some():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    installed = set()
    for package, patterns in settings["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            files = [path for path in folder.glob(pattern) if path.is_file()]
            assert files, f"{package}: {pattern} matches no file"
            installed.update(files)
    rooms = [ROOT / room for room in MAY_IMPORT if room != "__main__"]
    data = {path for room in rooms for path in room.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert data <= installed


def test_long_files_have_a_reason():
    lines = {str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n") for path in python_files()}
    assert too_long(lines) == []
    assert set(LONG_FILES) <= set(lines)


WRONG = {
    "upwards": ("solver.core", "from ..planning.plan import Plan"),
    "inside a function": ("solver.core", "def f():\n    from ..planning import plan"),
    "for types": ("quantization.grid", "if TYPE_CHECKING:\n    from ..models.layers import Layer"),
    "by its full name": ("common.files", "import scantling.solver.solve"),
    "across": ("solver.core", "from ..quantization import grid"),
    "a hand-over at once": ("planning.plan", "from ..backends.write import write"),
    "a hand-over from elsewhere": ("planning.solve", "def f():\n    from ..backends.write import write"),
    "from the surface": ("solver.core", "from .. import Program"),
    "the surface at once": ("", "from .planning.program import Program"),
}
RIGHT = {
    "downwards": ("planning.plan", "from ..solver.core import x"),
    "within a room": ("solver.core", "from .milp.base import Status"),
    "a late hand-over": ("planning.plan", "def f():\n    from ..backends.write import write"),
    "the version": ("backends.write", "from .. import __version__"),
    "a lazy surface": ("", "def __getattr__(name):\n    from .planning.program import Program"),
    "another package": ("solver.core", "from scantlings.planning import x"),
}


def made(module: str, text: str) -> dict[str, str]:
    modules = {
        PACKAGE: "",
        **{f"{PACKAGE}.{name}": "" for name in ("solver", "solver.core", "planning", "planning.plan")},
    }
    return {**modules, f"{PACKAGE}.{module}".rstrip("."): text}


def test_the_checks_can_fail():
    for what, (module, text) in WRONG.items():
        assert len(wrong_directions(imports_of(made(module, text)))) == 1, what
    for what, (module, text) in RIGHT.items():
        assert wrong_directions(imports_of(made(module, text))) == [], what
    circle = {"scantling.a": "from . import b", "scantling.b": "from .c import x", "scantling.c": "import scantling.a"}
    assert len(cycles(module_graph(imports_of(circle)))) == 1
    broken = circle | {"scantling.c": "def f():\n    import scantling.a"}
    assert cycles(module_graph(imports_of(broken))) == []
    tensors = {
        "scantling.solver.x": "from ..common import y",
        "scantling.common.y": "try:\n    import torch.nn\nfinally: 0",
    }
    assert len(tensor_imports(module_graph(imports_of(tensors)))) == 2
    assert tensor_imports(module_graph(imports_of({"scantling.models.x": "import torch"}))) == []
    assert too_long({"a.py": MOST_LINES + 1, "b.py": MOST_LINES}) == [f"a.py: {MOST_LINES + 1} lines"]
