"""Config keys under earlier names: read under the old name, written under the new one."""

from __future__ import annotations

from typing import Any

KEYS = {
    "objective.law": "objective.masking",
    "objective.start_law": "objective.start_masking",
    "objective.place_powers": "objective.level_powers",
    "toy.draws": "toy.samples",
}
VALUES: dict[str, dict[Any, Any]] = {"model.checkpointing": {True: "full", False: "none"}}


def new_name(key: str) -> str:
    """The dotted key as it is called here."""
    return KEYS.get(key, key)


def rename(values: dict[str, Any]) -> list[str]:
    """Give keys and values of a nested config their names, in place; returns the old keys that were there.

    Raises ValueError where a key stands under both names.
    """
    for key, words in VALUES.items():
        for inner, name in _holders(values, key):
            if isinstance(inner[name], bool):
                inner[name] = words[inner[name]]
    met = []
    for old, new in KEYS.items():
        for inner, name in _holders(values, old):
            target = new.rpartition(".")[2]
            if target in inner:
                raise ValueError(f"{old} is an earlier name of {new}, and both are set; keep {new}")
            inner[target] = inner.pop(name)
            met.append(old)
    return met


def _holders(values: dict[str, Any], key: str) -> list[tuple[dict[str, Any], str]]:
    """The sections in which a dotted key is set, with its last part."""
    section, _, name = key.rpartition(".")
    inner = [part.get(section) for part in (values, values.get("fallback")) if isinstance(part, dict)]
    return [(part, name) for part in inner if isinstance(part, dict) and name in part]
