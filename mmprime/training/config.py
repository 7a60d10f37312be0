"""Read a config: YAML + ``key=value`` overrides -> typed dataclasses, or one line that says what is wrong.

Every mistake raises :class:`ConfigError` (a ValueError) naming the key and the nearest valid one: an unknown key, a
value of the wrong type, a word outside its choices, a missing value, a path that does not exist.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmprime.data.storage import is_remote
from mmprime.io import read_yaml

from .config_checks import (
    ConfigError,
    check_paths,
    check_run_dir,
    check_values,
    data_folder,
    nearest,
    nearest_path,
    refuse_resolvers,
    resolve,
    tokenizer_path,
)
from .renamed import new_name, rename
from .schema import SCHEMAS, Config

__all__ = [
    "ConfigError",
    "as_dict",
    "as_yaml",
    "check_paths",
    "data_folder",
    "load_config",
    "nearest",
    "resolve",
    "tokenizer_path",
]


def load_config(path: str | Path, overrides: Sequence[str] = (), elsewhere: bool = False) -> Any:
    """The config of ``path`` with ``overrides`` (``train.lr=1e-3``) on top, as the dataclass of its task.

    Where ``data.path_env`` names an environment variable, its value becomes ``data.path``; if it is not set, the
    overrides of the section ``fallback`` apply instead and ``config.notices`` says so; with ``elsewhere`` they do not,
    for the data lie on another machine.

    Raises:
        ConfigError: see the module's head.
    """
    try:
        return _load(str(path), _read(Path(path)), _parse_overrides(overrides), elsewhere)
    except OmegaConfBaseException as error:  # an interpolation that names nothing, or itself
        raise ConfigError(f"{path}: {error.full_key}: {_first_line(error)}") from error


def _load(source: str, content: DictConfig, overrides: DictConfig, elsewhere: bool) -> Any:
    old: list[str] = []
    parts = []
    for part in (content, overrides):
        plain = OmegaConf.to_container(part, resolve=False)
        assert isinstance(plain, dict)
        refuse_resolvers(plain, source)
        old += _renamed(plain, source)
        parts.append(OmegaConf.create(plain))
    content, overrides = parts
    plain = overrides if "task" in overrides else content
    config = _merge(_merge(_schema(plain.get("task"), source), content, source), overrides, source)
    config, notices = (config, []) if elsewhere else _apply_environment(config, overrides, source)
    if old:
        names = ", ".join(f"{key} (now {new_name(key)})" for key in dict.fromkeys(old))
        notices.append(f"{source}: read under earlier names: {names}")
    _require_values(config)
    result = OmegaConf.to_object(config)
    assert isinstance(result, Config)
    check_values(result)
    check_paths(result)
    check_run_dir(result.run.dir)
    result.notices = notices  # type: ignore[attr-defined]
    return result


def _renamed(values: dict[Any, Any], source: str) -> list[str]:
    try:
        return rename(values)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def as_dict(config: Config) -> dict[str, Any]:
    """The config as nested plain values, for JSON."""
    return dataclasses.asdict(config)


def as_yaml(config: Config) -> str:
    """The config as YAML text, every value spelled out."""
    return OmegaConf.to_yaml(OmegaConf.create(as_dict(config)))


def _read(path: Path) -> DictConfig:
    if not resolve(path).is_file():
        raise ConfigError(f"{path}: no such config{nearest_path(path)}")
    try:
        return read_yaml(resolve(path))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    parsed = OmegaConf.create()
    for text in overrides:
        if "=" not in text or text.startswith("="):
            raise ConfigError(f"{text!r}: an override is written key=value, e.g. train.steps=100")
        try:
            parsed.merge_with_dotlist([text])
        except Exception as error:  # of yaml, of omegaconf, or a number of 5,000 digits
            raise ConfigError(f"{text[:80]}: {getattr(error, 'problem', None) or _first_line(error)}") from error
    return parsed


def _schema(task: Any, source: str) -> DictConfig:
    if not isinstance(task, str) or task not in SCHEMAS:
        raise ConfigError(
            f"{source}: task={task!r} is unknown; choose from {', '.join(SCHEMAS)}{nearest(str(task), SCHEMAS)}"
        )
    schema = OmegaConf.structured(SCHEMAS[task])
    if task == "tokenizer":
        from mmprime.tokenizers import ImageTokenizerConfig

        schema.tokenizer = OmegaConf.structured(ImageTokenizerConfig)
        schema._get_node("tokenizer")._metadata.optional = False
    return schema


def _merge(schema: DictConfig, given: DictConfig, source: str) -> DictConfig:
    valid = _keys(schema)
    for key in _keys(given):
        if not _is_valid(key, valid, schema):
            raise ConfigError(f"{source}: unknown key {key}{nearest(key, valid)}")
    _check_kinds(schema, given, source)
    try:
        merged = OmegaConf.merge(schema, given)
    except OmegaConfBaseException as error:
        key = error.full_key or "the config"
        hint = "" if _is_valid(key.partition("[")[0], valid, schema) else nearest(key, valid)
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
        if not value or not (is_remote(value) or Path(value).exists()):
            raise ConfigError(
                f"${variable}={value!r}: no such folder of shards; set it right, or unset it to use the sample"
            )
        config.data.path = value
        return _merge(config, overrides, source), []
    config = _merge(smaller, overrides, source)
    bar = "!" * 78
    notices = [bar, f"!! ${variable} is not set: this run does NOT train on the data this config is for."]
    given = OmegaConf.select(overrides, "data.path") is not None
    what = "data.path of the command line," if given else "the bundled sample"
    notices += [f"!! It trains on {what} {config.data.path} instead, with the settings of the section fallback:"]
    notices += [f"!!   {key} = {OmegaConf.select(config, key)}" for key in _keys(fallback)]
    return config, [*notices, bar]


def _require_values(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; set it in the config or add {missing[0]}=... to the command")


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


def _check_kinds(schema: DictConfig, given: DictConfig, source: str, prefix: str = "") -> None:
    """Raise ConfigError where a mapping, a list or a single value stands in the place of another of them."""
    for name in given:
        key = prefix + str(name)
        wanted, actual = schema._get_node(name), given._get_node(name)
        if wanted is None and dataclasses.is_dataclass(
            schema._metadata.element_type
        ):  # an entry of a mapping of sections
            wanted = OmegaConf.structured(schema._metadata.element_type)
        if not isinstance(wanted, Node) or not isinstance(actual, Node) or actual._is_interpolation():
            continue
        value: Any = OmegaConf.to_container(actual, resolve=False) if isinstance(actual, Container) else actual._value()
        if _kind(wanted) != _kind(actual) and not (value is None and wanted._is_optional()):
            raise ConfigError(f"{source}: {key}={value}: must be {_kind(wanted)}")
        if isinstance(wanted, ListConfig) and any(isinstance(element, list | dict) for element in value):
            raise ConfigError(f"{source}: {key}={value}: must be a list of single values, [a, b]")
        if isinstance(wanted, DictConfig) and isinstance(actual, DictConfig):
            _check_kinds(wanted, actual, source, key + ".")


def _kind(node: Node) -> str:
    kinds = ((DictConfig, "a mapping of keys, {a: b}"), (ListConfig, "a list, [a, b]"))
    return next((what for kind, what in kinds if isinstance(node, kind)), "a single value")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
