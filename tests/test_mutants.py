"""The mutants are run on demand; that each still fits the code and changes it is seen here."""

from __future__ import annotations

import ast

import pytest
from mutant import Mutant
from mutants import MUTANTS, ROOT, mutate


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_changes_one_place(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = mutate(source, mutant)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    compile(changed, mutant.file, "exec")
    file, _, test = mutant.test.partition("::")
    assert f"def {test.partition('[')[0]}" in (ROOT / file).read_text(encoding="utf-8")


def test_neither_line_breaks_nor_comments_matter() -> None:
    mutant = Mutant("", "", "f", "a * (b - 1)", "a", "")
    source = "def f(a, b):\n    return (  # of both\n        a\n        * (\n            b - 1\n        )\n    )\n"
    assert ast.unparse(ast.parse(mutate(source, mutant))) == "def f(a, b):\n    return a"
    for text in ("def f(a, b):\n    return a\n", "def g(a, b):\n    return a * (b - 1)\n"):
        with pytest.raises(ValueError, match="occurs 0 times in f, want 1"):
            mutate(text, mutant)
    with pytest.raises(ValueError, match="occurs 2 times"):
        mutate("def f(a, b):\n    return a * (b - 1) + a * (b - 1)\n", mutant)
