"""What a start changes of the run it continues: each changed key is told, and what a run learns from must be allowed.

Of data, tokenizers and codecs the content counts: a task's ``fingerprint()`` maps the config keys that name them to
hashes. A key at or below a fingerprinted one (a path, the recipe of a codec) may differ while the hash agrees.
"""

from __future__ import annotations

import copy
import json
from typing import Any, NamedTuple

from .config import ConfigError, as_dict, nearest
from .renamed import new_name, rename
from .schema import Config

FREE = (
    "run", "train", "samples", "fallback",
    "data.validation", "data.validate_examples", "data.path_env", "data.grid", "data.num_codes", "data.num_classes",
    "data.workers", "data.retries", "data.skip_shards",
    "model.init", "model.attention", "model.checkpointing", "toy.samples",
)  # fmt: skip
"""Sections and keys that may differ; they are told all the same."""
_ABSENT = "(none)"


class Change(NamedTuple):
    """One key with its value (or the hash of what it names) at the checkpoint and now."""

    key: str
    old: Any
    new: Any
    content: bool = False

    def __str__(self) -> str:
        return f"{self.key}{' (content)' if self.content else ''}: {self.old} -> {self.new}"


def find_changes(
    stored: dict[str, Any], fingerprint: dict[str, str], config: Config, current: dict[str, str]
) -> list[Change]:
    """All keys of all sections, and all fingerprints, other than in a ``stored`` config and its ``fingerprint``."""
    stored = copy.deepcopy(stored)
    rename(stored)
    now, before, default = (_flat(d) for d in (as_dict(config), stored, as_dict(type(config)())))
    changes = []
    for key in {**before, **now}:
        old, new = before.get(key, default.get(key, _ABSENT)), now.get(key, _ABSENT)
        if old != new:
            changes.append(Change(key, old, new))
    for key in {**fingerprint, **current}:
        old, new = fingerprint.get(key, _ABSENT), current.get(key, _ABSENT)
        if old != new:
            changes.append(Change(key, old, new, content=True))
    return changes


def refused(changes: list[Change], config: Config, current: dict[str, str]) -> list[Change]:
    """The changes that need ``run.allow_changes`` and are not named there. Raises ConfigError for a name of nothing."""
    allowed = [new_name(key) for key in config.run.allow_changes]
    keys = {*_flat(as_dict(config)), *current, *(change.key for change in changes)}
    for name in allowed:
        if not any(_is_under(key, name) for key in keys):
            sections = {key.rpartition(".")[0] for key in keys} - {""}
            raise ConfigError(f"run.allow_changes names {name!r}, which is no key{nearest(name, keys | sections)}")
    same = current.keys() - {change.key for change in changes if change.content}
    unnamed = []
    for change in changes:
        judged_by_content = not change.content and any(_is_under(change.key, key) for key in same)
        free = not change.content and any(_is_under(change.key, key) for key in FREE)
        named = change.key != "task" and any(_is_under(change.key, name) for name in allowed)
        if not (judged_by_content or free or named):
            unnamed.append(change)
    return unnamed


def _is_under(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to plain JSON values; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value))
    return flat
