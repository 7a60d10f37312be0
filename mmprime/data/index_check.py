"""What an index.json must hold, checked when it is read, so that nothing behind it meets a value of another kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[Any], bool]
_MOST_DIGITS = 65536


def _is(kind: type) -> Check:
    return lambda value: type(value) is kind


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _radices(value: Any) -> bool:
    return _list_of(_count)(value) and all(1 < base <= 2**32 for base in value) and 0 < len(value) <= _MOST_DIGITS


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(each) for each in value)


def _table_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(check(each) for each in value.values())


def _grid(value: Any) -> bool:
    return _list_of(_count)(value) and len(value) == 2 and min(value) > 0


_EVERY: dict[str, Check] = {"kind": _is(str), "splits": _table_of(_count), "shards": _list_of(_is(dict))}
_SHARD: dict[str, Check] = {
    "file": _is(str), "split": _is(str), "sha256": _is(str), "bytes": _count, "entries": _count, "examples": _count,
}  # fmt: skip
_CODES: dict[str, Check] = {"num_codes": _natural, "grid": _grid, "tokenizer_fingerprint": _is(str)}
_TOKENS: dict[str, Check] = {"num_codes": _count, "length": _count, "tokenizer_fingerprint": _is(str)}
_OPTIONAL: dict[str, Check] = {
    "radices": _radices,
    "classes": _list_of(_is(str)), "label": _is(str), "name": _is(str), "sources": _is(dict), "licences": _is(dict),
}  # fmt: skip


def check_index(file: str | Path, index: Any) -> None:
    """Raises ValueError naming the file and the key that is missing or of another kind."""
    _check(file, index, _EVERY)
    if index["kind"] == "codes":
        _check(file, index, _CODES)
    if index["kind"] == "tokens":
        _check(file, index, _TOKENS)
    _check(file, index, {name: check for name, check in _OPTIONAL.items() if name in index})
    if index["kind"] == "codes" and math.prod(index.get("radices", ())) not in (1, index["num_codes"]):
        raise ValueError(f"{file}: radices {str(index['radices'])[:60]} do not make num_codes={index['num_codes']}")
    for number, entry in enumerate(index["shards"]):
        _check(file, entry, _SHARD, f"shard {number}: ")


def _check(file: str | Path, table: dict[str, Any], checks: dict[str, Check], where: str = "") -> None:
    for name, check in checks.items():
        if name not in table:
            raise ValueError(f"{file}: {where}{name!r} is missing; copy the folder again or rebuild it")
        if not check(table[name]):
            raise ValueError(f"{file}: {where}{name} cannot be {str(table[name])[:60]!r}; copy the folder again")
