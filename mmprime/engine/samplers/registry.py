"""The samplers by name, and a sampler from words of a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from ..masking import Masking, masking_of
from ..schedule import Schedule, schedule_of
from .ancestral import Ancestral
from .base import CountPlanned, Paced, Sampler
from .blocks import Blocks
from .coarse_first import CoarseFirst
from .confidence import Confidence
from .corrector import Corrector
from .entropy import Entropy
from .entropy_bounded import EntropyBounded
from .entropy_budget import EntropyBudget
from .factor import Factor
from .first_hitting import FirstHitting
from .halton import Halton
from .klass import Klass
from .margin import Margin
from .mixture import Mixture
from .moment import Moment
from .nested import Nested
from .p2 import PathPlanning
from .raster import Raster
from .regions import Regions
from .remdm import ReMDM
from .threshold import Threshold
from .token_synchronous import TokenSynchronous

SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind
    for kind in (
        Ancestral, FirstHitting, Nested, TokenSynchronous, CoarseFirst, Raster, Halton, Regions, Confidence, Margin,
        Entropy, Moment, EntropyBudget, EntropyBounded, Klass, Threshold, Factor, Blocks, Mixture, ReMDM, PathPlanning,
        Corrector,
    )
}  # fmt: skip


def sampler_of(name: str, options: Mapping[str, Any] | None = None, steps: int | None = None) -> Sampler:
    """The sampler of that name. Option values may be words of a command line ("0.5", "cosine", "halton"); they take the
    type of the option's default. steps: of samplers that have a number of steps; the others decide it themselves.

    Raises ValueError on an unknown sampler or option, or a value that does not fit.
    """
    known, values = _options(name), {}
    for key, value in (options or {}).items():
        if key not in known:
            others = ", ".join(option for option in known if option != "steps")
            raise ValueError(f"sampler {name!r} has no option {key!r}; it has {others or 'none'}")
        values[key] = _value(name, key, value, _default(known[key]))
    if steps is not None and "steps" in known:
        values.setdefault("steps", steps)
    return SAMPLERS[name](**values)


def sampler_from_words(words: Sequence[str]) -> Sampler:
    """["remdm", "eta=0.3"] -> the sampler. Raises ValueError without words, on an option without =, and as `sampler_of`
    does."""
    if not words:
        raise ValueError(f"no sampler is named; there are {', '.join(SAMPLERS)}")
    name, *options = words
    for word in options:
        if "=" not in word:
            raise ValueError(f"sampler {name!r}: {word!r} is not key=value")
    return sampler_of(name, dict(word.split("=", 1) for word in options))


def default_sampler(masking: str | Masking, steps: int = 16) -> Sampler:
    """The planned sampler that reveals in the order a model of this masking process was trained on."""
    process = masking_of(masking)
    return sampler_of(process.sampler or process.name, steps=steps)


def with_steps(sampler: Sampler, steps: int) -> Sampler:
    """The same sampler with another number of steps; one that decides it itself stays as it is."""
    options: dict[str, Any] = {"steps": steps} if "steps" in _options(sampler.name) else {}
    return replace(sampler, **options)


def options_of(sampler: Sampler) -> dict[str, Any]:
    """The options of a sampler, all but steps, as `sampler_of` takes them: numbers and words.

    Raises ValueError where words cannot say them, as of a sampler inside that has options of its own.
    """
    values = {key: getattr(sampler, key) for key in _options(sampler.name)}
    steps, options = values.pop("steps", None), {key: _word(value) for key, value in values.items() if value != ()}
    if sampler_of(sampler.name, options, steps) != sampler or any(isinstance(word, tuple) for word in options.values()):
        raise ValueError(f"no words say the options of {sampler}")
    return options


def sampler_words(sampler: Sampler) -> str:
    """The sampler as `sampler_from_words` reads it, without its steps and what is as by default."""
    usual = options_of(sampler_of(sampler.name))
    words = [f"{key}={value}" for key, value in options_of(sampler).items() if value != usual.get(key)]
    return " ".join([sampler.name, *words])


def listing() -> str:
    """A line for each sampler: its name, what it does and its options with their defaults."""
    return "\n".join(f"{name:18} {_line(name)}" for name in SAMPLERS)


def _line(name: str) -> str:
    help_line = (SAMPLERS[name].__doc__ or "").partition("\n")[0]
    options = ", ".join(f"{key}={_word(_default(option))}" for key, option in _options(name).items() if key != "steps")
    return f"{help_line}{f'  [{options}]' if options else ''}"


def _options(name: str) -> dict[str, Field[Any]]:
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return {option.name: option for option in fields(SAMPLERS[name])}


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def _word(value: Any) -> Any:
    """A default as one would type it."""
    if isinstance(value, Schedule):
        return str(value)
    return value.name if isinstance(value, Sampler | Masking) else value


def _value(name: str, key: str, value: Any, default: Any) -> Any:
    if isinstance(value, Schedule | Sampler) or (isinstance(value, type(default)) and not isinstance(value, str)):
        return value
    try:
        if isinstance(default, Schedule):
            return schedule_of(value)
        if isinstance(default, Masking):
            return masking_of(value)
        if isinstance(default, Sampler):
            return _part(default, value)
        if isinstance(default, tuple):
            raise ValueError(f"no word of a command line, got {value!r}; --regions FILE gives them")
        converted = type(default)(value)
        if isinstance(value, float) and converted != value:
            raise ValueError("give a whole number")
        return converted
    except ValueError as error:
        raise ValueError(f"sampler {name!r}: {key}={value!r}: {error}") from error


def _part(default: Sampler, name: str) -> Sampler:
    """A sampler that is an option of another: of the kind of the default, with its pace."""
    kind = CountPlanned if isinstance(default, CountPlanned) else Paced
    inner = sampler_of(name)
    if not isinstance(inner, CountPlanned | Paced) or not isinstance(inner, kind):
        raise ValueError(f"there are {', '.join(other for other in SAMPLERS if issubclass(SAMPLERS[other], kind))}")
    assert isinstance(default, CountPlanned | Paced)
    return replace(inner, pace=default.pace)
