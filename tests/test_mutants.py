"""The mutants of `mutants.py` are run on demand; that each still fits the code is seen here."""

from __future__ import annotations

from mutants import MUTANTS, ROOT


def test_each_mutant_changes_one_place() -> None:
    odd = [m.name for m in MUTANTS if (ROOT / m.file).read_text(encoding="utf-8").count(m.old) != 1]
    assert not odd
    assert all((ROOT / m.file_of_test).is_file() for m in MUTANTS)
