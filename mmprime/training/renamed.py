"""Config keys under earlier names: read under the old name, written under the new one."""

from __future__ import annotations

from typing import Any

KEYS = {
    "objective.law": "objective.masking",
    "objective.start_law": "objective.start_masking",
    "objective.place_powers": "objective.level_powers",
    "toy.draws": "toy.samples",
}


def new_name(key: str) -> str:
    """The dotted key as it is called here."""
    return KEYS.get(key, key)


def rename(values: dict[str, Any]) -> list[str]:
    """Give keys of a nested config their names, in place; returns the old ones that were there.

    Raises ValueError where a key stands under both names.
    """
    met = []
    for old, new in KEYS.items():
        section, _, name = old.rpartition(".")
        for part in (values, values.get("fallback")):
            inner = part.get(section) if isinstance(part, dict) else None
            if not isinstance(inner, dict) or name not in inner:
                continue
            target = new.rpartition(".")[2]
            if target in inner:
                raise ValueError(f"{old} is an earlier name of {new}, and both are set; keep {new}")
            inner[target] = inner.pop(name)
            met.append(old)
    return met
