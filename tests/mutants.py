"""Does every test fail when its formula is broken? Break them one at a time in a copy and see.

    python tests/mutants.py              # all mutants, a Markdown table; exit status 1 if one survives
    python tests/mutants.py joint float  # those whose name contains a word

A mutant replaces one expression or statement of one function by another; both are compared as syntax trees, so neither
line breaks nor comments matter. The copy lies in a temporary folder; the test file named beside the mutant (or one test
of it, where the file is slow) runs on it until its first failure. Not a test itself: run on demand (minutes).
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from mutant import Mutant
from mutant_list import MUTANTS

ROOT = Path(__file__).resolve().parent.parent


def mutate(source: str, mutant: Mutant) -> str:
    """The source with the mutant's one change. Raises ValueError where it does not fit exactly once."""
    tree = ast.parse(source)
    old, new = _node(mutant.old), _node(mutant.new)
    swap = _Swap(old, new)
    for node in _scopes(tree, mutant.where):
        swap.visit(node)
    if swap.count != 1:
        raise ValueError(f"mutant {mutant.name!r}: {mutant.old!r} occurs {swap.count} times in {mutant.where}, want 1")
    return ast.unparse(ast.fix_missing_locations(tree))


def _node(text: str) -> ast.AST:
    (statement,) = ast.parse(text).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def _scopes(tree: ast.Module, where: str) -> list[ast.AST]:
    """The function or class of a dotted name."""
    found: list[ast.AST] = [tree]
    for name in where.split("."):
        found = [
            child
            for node in found
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == name
        ]
    return found


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new, self.count = ast.dump(old), new, 0

    def visit(self, node: ast.AST) -> ast.AST:
        if ast.dump(node) == self.old:
            self.count += 1
            return self.new
        return self.generic_visit(node)


def run(mutant: Mutant, folder: Path) -> tuple[bool, str]:
    """Break the copy in `folder`, run the named test, mend the copy. Returns (killed, the first failing test)."""
    path = folder / mutant.file
    source = path.read_text(encoding="utf-8")
    path.write_text(mutate(source, mutant), encoding="utf-8")
    try:
        status, log = run_test(mutant.test, folder)
    finally:
        path.write_text(source, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(\S+)", log, re.MULTILINE)
    return failed is not None, failed[1] if failed else f"status {status}"


def run_test(test: str, folder: Path) -> tuple[int | None, str]:
    """(exit status, output) of pytest in a fork of this process, which has torch but not the package."""
    log = folder / "log.txt"
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(test, folder, log))
    process.start()
    process.join()
    if process.exitcode == 99:
        raise SystemExit("the tests imported another copy of the package than the broken one")
    return process.exitcode, log.read_text(encoding="utf-8")


def _pytest(test: str, folder: Path, log: Path) -> None:
    """In the forked child: the package found is the copy."""
    os.chdir(folder)
    with log.open("w", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        status = pytest.main(["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", test])
        sys.stdout.flush()
        package = sys.modules.get("mmprime.engine")
    where = Path(str(package.__file__)).resolve() if package else None
    os._exit(int(status) if where is None or folder.resolve() in where.parents else 99)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="*", help="run the mutants whose name contains one of these words")
    words = parser.parse_args().word
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    survivors = 0
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # a stale .pyc must not outlive a mutant
    print("| what is broken | where | killed by |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("mmprime", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
        for test in dict.fromkeys(mutant.test for mutant in chosen):
            if run_test(test, folder)[0] != 0:
                raise SystemExit(f"{test} fails on what is not broken:\n{run_test(test, folder)[1]}")
        for mutant in chosen:
            killed, detail = run(mutant, folder)
            survivors += not killed
            verdict = f"`{Path(mutant.file_of_test).name}::{detail}`" if killed else f"**survived** ({detail})"
            print(f"| {mutant.name} | `{Path(mutant.file).stem}.{mutant.where}` | {verdict} |", flush=True)
    print(f"\n{len(chosen) - survivors} of {len(chosen)} mutants killed", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
