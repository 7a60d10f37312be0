"""The shape of the package: imports go downward only, siblings do not meet, the engine needs torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOOR = {"engine": 1, "models": 2, "tokenizers": 2, "data": 2, "evaluation": 3, "training": 4, "commands": 6}
TOP_FLOOR = 5  # modules that lie directly in mmprime/
ENGINE_NEEDS = {"torch", "einops"}
BASE_MODULES = {"mmprime.console", "mmprime.files", "mmprime.weights"}  # nothing of ours below it; anyone may use it


def imports_of(path: Path) -> set[str]:
    """Absolute names of the modules a file imports, at any depth of nesting."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            found.add(f"{base}.{node.module}" if node.module else base)
        elif isinstance(node, ast.ImportFrom) and node.module == "mmprime":
            found |= {f"mmprime.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def place(module: str) -> tuple[str, int]:
    """(package, floor) of an mmprime module."""
    part = module.split(".")[1] if "." in module else ""
    return part, FLOOR.get(part, TOP_FLOOR)


SOURCES = sorted((ROOT / "mmprime").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward_only(path: Path) -> None:
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package, floor = place(own)
    for name in imports_of(path):
        assert not name.startswith("tools"), f"{own} imports {name}"
        if name.split(".")[0] != "mmprime" or name in BASE_MODULES:
            continue
        other, other_floor = place(name)
        same = other == package or (floor == TOP_FLOOR and other_floor == TOP_FLOOR)
        assert same or other_floor < floor, f"{own} (floor {floor}) imports {name} (floor {other_floor})"


def test_engine_needs_torch_and_einops_only() -> None:
    known = set(sys.stdlib_module_names) | ENGINE_NEEDS | {"mmprime"}
    for path in (ROOT / "mmprime" / "engine").glob("*.py"):
        foreign = {name.split(".")[0] for name in imports_of(path)} - known
        assert not foreign, f"{path.name} imports {foreign}"


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, mmprime; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_importing_the_engine_never_needs_xformers() -> None:
    code = "import sys, mmprime.engine, mmprime.models; print('xformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
