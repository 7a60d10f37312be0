"""Read a config: YAML + ``key=value`` overrides -> typed dataclasses, or one line that says what is wrong.

Every mistake raises :class:`ConfigError` (a ValueError) naming the key and the nearest valid one: an unknown key, a
value of the wrong type, a word outside its choices, a missing value, a path that does not exist.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmprime.training.schema import SCHEMAS, Config

PROJECT = Path(__file__).resolve().parents[2]


class ConfigError(ValueError):
    """A mistake of the user's in a config, told in one line."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The config of ``path`` with ``overrides`` (``train.lr=1e-3``) on top, as the dataclass of its task.

    Where ``data.path_env`` names an environment variable, its value becomes ``data.path``; if it is not set, the
    overrides of the section ``fallback`` apply instead and ``config.notices`` says so.

    Raises:
        ConfigError: see the module's head.
    """
    given = OmegaConf.merge(_read(Path(path)), _parse_overrides(overrides))
    assert isinstance(given, DictConfig)
    schema = _schema(given, str(path))
    config = _merge(schema, given, str(path))
    config, notices = _apply_environment(config, _parse_overrides(overrides), str(path))
    _require_values(config)
    result = OmegaConf.to_object(config)
    assert isinstance(result, Config)
    _check_choices(result)
    check_paths(result)
    result.notices = notices  # type: ignore[attr-defined]
    return result


def as_dict(config: Config) -> dict[str, Any]:
    """The config as nested plain values, for JSON."""
    return dataclasses.asdict(config)


def as_yaml(config: Config) -> str:
    """The config as YAML text, every value spelled out."""
    return OmegaConf.to_yaml(OmegaConf.create(as_dict(config)))


def resolve(path: str | Path) -> Path:
    """``path`` as seen from here, or from the root of the project if only that exists."""
    path = Path(path).expanduser()
    return PROJECT / path if not path.exists() and (PROJECT / path).exists() else path


def nearest(word: str, words: Iterable[str]) -> str:
    """``"; nearest: x"``, the valid word most like ``word``; empty if there are none to choose from."""
    choices = sorted(set(words))
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.0)
    return f"; nearest: {found[0]}" if found else ""


def check_paths(config: Any, prefix: str = "") -> None:
    """Raise ConfigError for a field marked ``path`` that is set and does not exist."""
    for entry in dataclasses.fields(config):
        value, key = getattr(config, entry.name), prefix + entry.name
        if dataclasses.is_dataclass(value):
            check_paths(value, key + ".")
        elif isinstance(value, dict):
            for name, part in value.items():
                if dataclasses.is_dataclass(part):
                    check_paths(part, f"{key}.{name}.")
        elif entry.metadata.get("path") and value and not resolve(value).exists():
            raise ConfigError(f"{key}={value}: no such file or folder{_nearest_path(Path(value))}")


def _read(path: Path) -> DictConfig:
    if not resolve(path).is_file():
        raise ConfigError(f"{path}: no such config{_nearest_path(path)}")
    try:
        content = OmegaConf.load(resolve(path))
    except Exception as error:  # yaml's errors have no common public base
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path}: a config must be a mapping of sections")
    return content


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    for text in overrides:
        if "=" not in text or text.startswith("="):
            raise ConfigError(f"{text!r}: an override is written key=value, e.g. train.steps=100")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:
        raise ConfigError(f"overrides {list(overrides)}: {_first_line(error)}") from error


def _schema(given: DictConfig, source: str) -> DictConfig:
    task = given.get("task")
    if not isinstance(task, str) or task not in SCHEMAS:
        raise ConfigError(
            f"{source}: task={task!r} is unknown; choose from {', '.join(SCHEMAS)}{nearest(str(task), SCHEMAS)}"
        )
    schema = OmegaConf.structured(SCHEMAS[task])
    if task == "tokenizer":
        from mmprime.tokenizers import ImageTokenizerConfig

        schema.tokenizer = OmegaConf.structured(ImageTokenizerConfig)
    return schema


def _merge(schema: DictConfig, given: DictConfig, source: str) -> DictConfig:
    valid = _keys(schema)
    for key in _keys(given):
        if not _is_valid(key, valid, schema):
            raise ConfigError(f"{source}: unknown key {key}{nearest(key, valid)}")
    try:
        merged = OmegaConf.merge(schema, given)
    except OmegaConfBaseException as error:
        key = error.full_key or _misplaced(schema, given)
        hint = "" if _is_valid(key, valid, schema) else nearest(key, valid)
        raise ConfigError(f"{source}: {key}: {_first_line(error).rstrip('.')}{hint}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _apply_environment(config: DictConfig, overrides: DictConfig, source: str) -> tuple[DictConfig, list[str]]:
    """``data.path`` from the environment, or the fallback section with its notices."""
    variable = OmegaConf.select(config, "data.path_env", default="")
    if not variable:
        return config, []
    fallback = config.fallback
    smaller = _merge(config, OmegaConf.create(OmegaConf.to_container(fallback)), f"{source}: fallback")  # type: ignore[arg-type]
    value = os.environ.get(variable)
    if value is not None:
        if not value or not Path(value).exists():
            raise ConfigError(
                f"${variable}={value!r}: no such folder of shards; set it right, or unset it to use the sample"
            )
        config.data.path = value
        return _merge(config, overrides, source), []
    config = _merge(smaller, overrides, source)
    bar = "!" * 78
    notices = [bar, f"!! ${variable} is not set: this run does NOT train on the data this config is for."]
    notices += [f"!! It trains on the bundled sample {config.data.path} instead, to show the whole path."]
    notices += [f"!!   {key} = {OmegaConf.select(config, key)}" for key in _keys(fallback)]
    return config, [*notices, bar]


def _require_values(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; set it in the config or add {missing[0]}=... to the command")


def _check_choices(config: Any, prefix: str = "") -> None:
    for entry in dataclasses.fields(config):
        value, key = getattr(config, entry.name), prefix + entry.name
        choices = entry.metadata.get("choices")
        if choices and value not in choices:
            raise ConfigError(f"{key}={value} is not one of {', '.join(choices)}{nearest(str(value), choices)}")
        if dataclasses.is_dataclass(value):
            _check_choices(value, key + ".")
        elif isinstance(value, dict):
            for name, part in value.items():
                if dataclasses.is_dataclass(part):
                    _check_choices(part, f"{key}.{name}.")


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of the leaves (an empty or missing section is a leaf)."""
    names: list[str] = []
    for name in config:
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing() and len(node):
            names += _keys(node, prefix + str(name) + ".")
        else:
            names.append(prefix + str(name))
    return names


def _is_valid(key: str, valid: list[str], schema: DictConfig) -> bool:
    """True if ``key`` is a leaf or section of the schema, or lies in one of its free mappings."""
    if any(key == name or name.startswith(key + ".") for name in valid):
        return True
    parts = key.split(".")
    for count in range(1, len(parts)):
        node: Any = schema
        for part in parts[:count]:
            node = node._get_node(part) if isinstance(node, DictConfig) and part in node else None
        if (
            isinstance(node, DictConfig)
            and not OmegaConf.is_struct(node)
            and node._metadata.object_type in (dict, None)
        ):
            return True
    return False


def _misplaced(schema: DictConfig, given: DictConfig) -> str:
    """The first section that was given a plain value."""
    for name in given:
        if isinstance(schema._get_node(name), DictConfig) and not isinstance(given._get_node(name), DictConfig):
            return str(name)
    return "the config"


def _nearest_path(path: Path) -> str:
    """The nearest name to the first part of ``path`` that does not exist."""
    base, name = path.parent, path.name
    while not resolve(base).is_dir() and base != base.parent:
        base, name = base.parent, base.name
    if not resolve(base).is_dir() or resolve(base / name).exists():
        return ""
    return nearest(str(base / name), [str(base / entry.name) for entry in resolve(base).iterdir()])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
