"""Which splits of a dataset a run trains and validates on."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .config_checks import ConfigError, nearest
from .schema import DataConfig, TrainConfig


def validation_splits(config: DataConfig, available: Iterable[str]) -> list[str]:
    """The splits ``data.validation`` names; where it is null, every split of the dataset but ``data.train_split``.

    Raises ConfigError, naming the key and what there is, for a split the dataset lacks or one that is trained on.
    """
    there = sorted(available)
    chosen = config.validation
    named = [("train_split", config.train_split), *(("validation", name) for name in chosen or ())]
    for key, name in named:
        if name not in there:
            known = f"it has {', '.join(there) or 'none'}"
            raise ConfigError(f"data.{key}: {config.path} has no split {name!r}; {known}{nearest(name, there)}")
    if config.train_split in (chosen or ()):
        raise ConfigError(f"data.validation: {config.train_split!r} is data.train_split; nothing would be held out")
    return [name for name in there if name != config.train_split] if chosen is None else list(chosen)


def without_validation(data: DataConfig, train: TrainConfig) -> None:
    """Switch validation off and say so: there is no split to validate on."""
    if train.validate_every and os.environ.get("RANK", "0") == "0":
        why = f"{data.path} has no other split" if data.validation is None else "data.validation=[]"
        print(f"no validation: {why}; no checkpoint will be marked as the best", flush=True)
    train.validate_every = 0
