"""The shape of the package: what may import what, what a name may mean, how long things may be, which words are gone.

The rules stand in docs/method.md; each test prints everything that breaks its rule.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmprime"
FLOORS = ("io", "engine", "codecs", "models tokenizers data", "generation", "evaluation", "training", "studies", "cli")
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts.split()}
TOP = len(FLOORS)  # mmprime/__init__.py and __main__.py, tools/
SOURCES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def refuse(lines: Iterable[str]) -> None:
    found = sorted(lines)
    assert not found, "\n".join(found)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def names_imported(path: Path, tree: ast.AST) -> Iterator[str]:
    """Absolute dotted names that a file imports, `TYPE_CHECKING` and functions included."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str:
    """The module of ours that a dotted name lies in; "" for another's."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def imports(path: Path) -> set[str]:
    return {module for name in names_imported(path, SOURCES[path]) if (module := module_of(name))}


def floor(module: str) -> int:
    return FLOOR.get([*module.split("."), ""][1], TOP)


def test_imports_run_one_way():
    wrong = []
    for module, path in MODULES.items():
        for other in imports(path):
            siblings = module.split(".")[1:2] == other.split(".")[1:2] or other == "mmprime"  # which is lazy
            if not (siblings or floor(other) < floor(module)):
                wrong.append(f"{short(path)} imports {other}")
        wrong += [f"{short(path)} imports {n}" for n in names_imported(path, SOURCES[path]) if n.startswith("tools")]
    refuse(wrong)


def test_no_module_imports_itself_by_a_detour():
    edges = {module: sorted(imports(path) - {module}) for module, path in MODULES.items()}
    edges = {m: [o for o in others if not m.startswith(o + ".")] for m, others in edges.items()}  # its own package
    cycles, done = [], set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            cycles.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in edges[module]:
                visit(other, [*way, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    refuse(cycles)


def test_nothing_lies_loose_in_the_package():
    packages = {part for parts in FLOORS[1:] for part in parts.split()} | {"configs"}
    names = {entry.name for entry in PACKAGE.iterdir() if entry.name != "__pycache__"}
    assert names - packages <= {"__init__.py", "__main__.py", "io.py", "py.typed"}
    assert packages - {"configs"} <= names


def test_the_engine_needs_torch():
    known = set(sys.stdlib_module_names) | {"torch", "einops", "typing_extensions", "mmprime"}
    for path in (PACKAGE / "engine").rglob("*.py"):
        assert {name.split(".")[0] for name in names_imported(path, SOURCES[path])} <= known, short(path)


def test_one_masking_process_and_one_sampler_a_file():
    from mmprime.engine import MASKINGS, SAMPLERS

    for registry in (MASKINGS, SAMPLERS):
        kinds = [value if isinstance(value, type) else type(value) for value in registry.values()]
        modules = [kind.__module__ for kind in kinds]
        assert len(modules) == len(set(modules)), sorted(modules)


def public_definitions() -> dict[str, list[str]]:
    where = defaultdict(list)
    for path, tree in SOURCES.items():
        for node in tree.body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                where[node.name].append(short(path))
    return where


# every command of the command line is a module with these
COMMAND = {"main", "parse", "parser", "run", "add_arguments"}


def test_a_public_name_has_one_meaning():
    twice = {name: files for name, files in public_definitions().items() if len(files) > 1 and name not in COMMAND}
    refuse(f"{name}: {', '.join(files)}" for name, files in twice.items())


def signatures() -> Iterator[tuple[str, int]]:
    """(file:line name, number of parameters) of each function, without self; fields of a record do not count."""
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                given = node.args
                names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                yield f"{short(path)}:{node.lineno} {node.name}", len([n for n in names if n not in ("self", "cls")])


def test_no_signature_has_more_than_eight_parameters():
    refuse(f"{name}: {count} parameters" for name, count in signatures() if count > 8)


def test_files_are_short():
    others = [path for folder in ("tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    lengths = {path: len(path.read_text().splitlines()) for path in (*SOURCES, *others)}
    refuse(f"{short(path)}: {count} lines" for path, count in lengths.items() if count > 350)
    lengths = {path: lengths[path] for path in SOURCES}
    assert statistics.median(lengths.values()) <= 150
    assert sum(lengths.values()) <= 36_700


# what is done in one place, and where
HOMES = {
    r"\bos\.(replace|rename|fsync)\(": "mmprime/io.py",
    r"\btqdm\b": "mmprime/io.py",
    r"(Image|Pillow)\.open\(": "mmprime/data/pictures.py",
    r"os\.(scandir|walk)\(": "mmprime/data/folders.py",
}


def test_one_home_for_each_job():
    wrong = []
    for pattern, homes in HOMES.items():
        texts = ((short(path), path.read_text()) for path in SOURCES)
        wrong += [
            f"{name}: {match[0]}" for name, text in texts if name not in homes for match in re.finditer(pattern, text)
        ]
    refuse(wrong)


def test_no_code_branches_on_the_name_of_a_process():
    from mmprime.engine import MASKINGS

    found = []
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                values = [value for side in (node.left, *node.comparators) for value in ast.walk(side)]
                if any(isinstance(value, ast.Constant) and value.value in set(MASKINGS) for value in values):
                    found.append(f"{short(path)}:{node.lineno} {ast.unparse(node)}")
    assert len(found) <= 1, "\n".join(found)


def test_each_masking_process_names_the_sampler_of_its_order():
    from mmprime.engine import MASKINGS, default_sampler

    names = {name: default_sampler(name).name for name in MASKINGS}
    assert names == {name: name for name in MASKINGS} | {"independent": "first_hitting"}


# --------------------------------------------------------------------------- words

# parts of identifiers, split at _ and capitals; and whole identifiers
PARTS = frozenset(
    ("law", "laws", "place", "places", "leader", "leaders", "prices", "draw", "draws", "drawing", "rendering",
     "scoring", "loading", "holes", "doctor", "judge", "judges", "eye", "eyes", "shown")
)  # fmt: skip
NAMES = {"found", "own", "there", "told", "reach", "Reach", "Only", "Course", "Look", "Choice"}
PROSE = re.compile(
    r"\b(laws?|leaders?|doctor|judges?|judged|digit places?|places? of (a|the) digits?|hidden or shown"
    r"|shown (tokens?|digits?|sub-tokens?)|hidden (tokens?|digits?|sub-tokens?))\b|--plan\b",
    re.IGNORECASE,
)  # fmt: skip
# keys of files written in the past, read under that name
OLD_KEYS = {"law", "laws", "place_powers", "trained_on", "judge"}


def identifiers(tree: ast.AST) -> Iterator[str]:
    """The names of what a file defines: functions, classes, parameters, variables, fields."""
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def parts(name: str) -> set[str]:
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_names_use_the_words_of_the_field():
    wrong = {
        f"{short(p)}: {n}" for p, tree in SOURCES.items() for n in identifiers(tree) if n in NAMES or parts(n) & PARTS
    }
    refuse(wrong)


def test_prose_uses_the_words_of_the_field():
    wrong = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            quoted = set(re.findall(r"[\"'](?:objective\.)?(\w+)[\"']", line))
            match = PROSE.search(line)
            if match and not (quoted & OLD_KEYS):
                wrong.append(f"{short(path)}:{number}: {match.group()}")
    refuse(wrong)


# --------------------------------------------------------------------------- what an import costs


@pytest.mark.parametrize(("imported", "absent"), [("mmprime", "torch"), ("mmprime.engine, mmprime.models", "xformers")])
def test_an_import_loads_no_more_than_it_needs(imported, absent):
    code = f"import sys, {imported}; print({absent!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
