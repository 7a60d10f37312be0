"""Checks of a config's values by what its fields declare; each mistake is a ConfigError of one line.

Field metadata (see ``schema.py``): ``choices``, the words a string may be; ``range``, the interval of a number or of
each number in a list or mapping, e.g. ``"[0, 1)"``; ``lengths``, how many entries a list may have; ``path``, a file or
folder that must exist when it is set; ``hub``, unless it is a name on the hub.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmprime.data.storage import is_remote
from mmprime.io import is_hub_name

PROJECT = Path(__file__).resolve().parents[2]
INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


class ConfigError(ValueError):
    """A mistake of the user's in a config, told in one line."""


def resolve(path: str | Path) -> Path:
    """``path`` as seen from here, or from the root of the project if only that exists."""
    path = Path(path).expanduser()
    return PROJECT / path if not path.exists() and (PROJECT / path).exists() else path


def tokenizer_path(name: str) -> Path:
    """A tokenizer's folder or file by :func:`resolve`, or what the hub has under "user/name".

    Raises ConfigError in one sentence on what the hub refuses.
    """
    if not _on_hub(name):
        return resolve(name)
    from mmprime.models.folders import fetched

    try:
        return fetched(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def data_folder(path: str) -> str | Path:
    """A dataset's folder by :func:`resolve`, or its URL."""
    return path if is_remote(path) else resolve(path)


def nearest(word: str, words: Iterable[str]) -> str:
    """``"; nearest: x"``, the valid word most like ``word``; empty if there are none to choose from."""
    choices = sorted(set(words))
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.0)
    return f"; nearest: {match[0]}" if match else ""


def check_values(config: Any) -> None:
    """Raise ConfigError, naming key, value and what may be, for a value its field's metadata does not allow."""
    for key, value, metadata in _fields(config):
        choices = metadata.get("choices")
        if choices and value not in choices:
            words = [str(choice) for choice in choices]
            raise ConfigError(f"{key}={value} is not one of {', '.join(words)}{nearest(str(value), words)}")
        lengths = metadata.get("lengths")
        if lengths and len(value) not in lengths:
            raise ConfigError(f"{key}={list(value)}: must have {' or '.join(map(str, lengths))} entries")
        if "range" in metadata:
            _check_range(key, value, metadata)


def check_paths(config: Any) -> None:
    """Raise ConfigError for a field marked ``path`` that is set and does not exist."""
    for key, value, metadata in _fields(config):
        if not metadata.get("path"):
            continue
        for path in [value] if isinstance(value, str) else value:
            remote = is_remote(path) if key == "data.path" else metadata.get("hub") and _on_hub(path)
            if path and not remote and not resolve(path).exists():
                ships = "; what ships lies in a checkout of the repository: start there, or give its path"
                hint = nearest_path(Path(path)) or ships * Path(path).is_relative_to("assets")
                raise ConfigError(f"{key}={path}: no such file or folder{hint}")


def _on_hub(name: str) -> bool:
    return is_hub_name(name) and not resolve(Path(name).parent).exists()


def check_run_dir(directory: str) -> None:
    """Raise ConfigError unless ``run.dir`` is a folder or can become one; one with checkpoints may be read-only."""
    path = Path(directory)
    if not directory.strip() or "\0" in directory:
        raise ConfigError(f"run.dir={directory!r}: names no folder; set run.dir=runs/NAME")
    try:
        base = next(part for part in (path, *path.absolute().parents) if part.exists())
        known = (path / "checkpoints").exists()
    except OSError as error:
        raise ConfigError(f"run.dir={directory}: {error.strerror}; take another run.dir") from error
    if not base.is_dir():
        raise ConfigError(f"run.dir={directory}: {base} is a file, not a folder; take another run.dir")
    if not known and not os.access(base, os.W_OK | os.X_OK):
        raise ConfigError(f"run.dir={directory}: {base} cannot be written to; take another run.dir")


def refuse_resolvers(values: Any, source: str, key: str = "") -> None:
    """Raise ConfigError for a string like ``${oc.env:HOME}``: it would carry what it names into logs and models."""
    if isinstance(values, dict):
        for name, value in values.items():
            refuse_resolvers(value, source, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            refuse_resolvers(value, source, f"{key}[{number}]")
    elif isinstance(values, str) and ":" in values.partition("${")[2]:
        raise ConfigError(
            f"{source}: {key}={values}: a config may not call resolvers; write the value itself (an environment "
            "variable can name the data: data.path_env)"
        )


def nearest_path(path: Path) -> str:
    """``"; nearest: x"``, the name like the first part of ``path`` that does not exist; empty if none is."""
    base, name = path.parent, path.name
    while not resolve(base).is_dir() and base != base.parent:
        base, name = base.parent, base.name
    if not resolve(base).is_dir() or resolve(base / name).exists():
        return ""
    match = difflib.get_close_matches(name, sorted(entry.name for entry in resolve(base).iterdir()), n=1)
    return f"; nearest: {base / match[0]}" if match else ""


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value, metadata) of every field, sections in mappings too."""
    for entry in dataclasses.fields(config):
        value, key = getattr(config, entry.name), prefix + entry.name
        if dataclasses.is_dataclass(value):
            yield from _fields(value, key + ".")
            continue
        yield key, value, entry.metadata
        for name, part in value.items() if isinstance(value, dict) else ():
            if dataclasses.is_dataclass(part):
                yield from _fields(part, f"{key}.{name}.")


def _check_range(key: str, value: Any, metadata: Any) -> None:
    if isinstance(value, dict):
        parts = [(f"{key}.{name}", part) for name, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{key}[{number}]", part) for number, part in enumerate(value)]
    else:
        parts = [(key, value)]
    words, interval = metadata.get("words", ()), metadata["range"]
    for name, part in parts:
        if part in words:
            continue
        if isinstance(part, bool) or not isinstance(part, (int, float)) or not _inside(part, interval):
            also = f" or be {', '.join(words)}" if words else ""
            note = f" ({metadata['note']})" if "note" in metadata else ""
            raise ConfigError(f"{name}={_short(part)}: must lie in {interval}{also}{note}")


def _inside(value: float, interval: str) -> bool:
    """Whether ``value`` lies in e.g. ``"[0, 1e9)"``; never for nan."""
    match = INTERVAL.fullmatch(interval)
    assert match is not None, interval
    left, low, high, right = match[1], _limit(match[2]), _limit(match[3]), match[4]
    above = value >= low if left == "[" else value > low
    return above and (value <= high if right == "]" else value < high)


def _limit(text: str) -> float:
    base, _, power = text.partition("^")
    return int(base) ** int(power) if power else float(text)


def _short(value: Any) -> str:
    text = str(value) if not isinstance(value, int) or abs(value) < 10**30 else f"{'-' * (value < 0)}10^30 or more"
    return text if len(text) <= 60 else text[:57] + "..."
