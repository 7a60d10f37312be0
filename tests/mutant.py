"""What a mutant is: one expression or statement of one function, replaced by another."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """old, new: an expression or a statement, as Python text; old stands once in the function `where`."""

    name: str
    file: str
    where: str
    old: str
    new: str
    test: str  # a file, or a file::test where the file is slow

    @property
    def file_of_test(self) -> str:
        return self.test.partition("::")[0]


def m(name: str, place: str, old: str, new: str, test: str) -> Mutant:
    """place: "file:function", the file in mmprime/engine or, from a slash on, in mmprime; test: likewise."""
    file, _, where = place.partition(":")
    test, *node = test.split("::")
    path, tests = (part[1:] if part.startswith("/") else f"engine/{part}" for part in (file, test))
    folder, _, stem = tests.rpartition("/")
    return Mutant(name, f"mmprime/{path}.py", where, old, new, "::".join([f"tests/{folder}/test_{stem}.py", *node]))


def rule(case: str) -> str:
    return f"samplers_exact::test_samples_have_the_exact_distribution_of_the_rule[{case}]"
