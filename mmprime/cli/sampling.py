"""How to sample, as options of a command: --sampler, --steps, --guidance and the rest, over what the model says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import console

if TYPE_CHECKING:
    from mmprime.engine import Sampler
    from mmprime.generation.sampling import SamplingConfig

FORMER_NAME = "plan"  # of the option
OF_MODEL = "default: as the model folder says in generation_config.json"
AS_TRAINED = "default: in the order of the masking process the model was trained on"


class _Renamed(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> NoReturn:
        parser.error(f"{self.option_strings[0]} is called --sampler")


def add_sampler(parser: Any, default: str = OF_MODEL) -> None:
    """--sampler NAME [key=value ...]; read it with `sampler`."""
    parser.add_argument(
        "--sampler", nargs="+", metavar=("NAME", "key=value"),
        help=f"order of revealing and its options; --sampler list prints them all ({default})",
    )  # fmt: skip
    parser.add_argument(f"--{FORMER_NAME}", nargs="*", action=_Renamed, help=argparse.SUPPRESS)


def add_sampling(how: argparse._ArgumentGroup, num: int) -> None:
    """The options of every command that samples; num: how many by default."""
    how.description = f"What is not given is as the model folder says in generation_config.json{_shipped()}."
    how.add_argument("--num", type=console.positive, default=num, help=f"how many (default {num})")
    how.add_argument("--steps", type=console.positive, help="forward steps")
    console.add_guidance_arguments(how, None)
    add_sampler(how)
    how.add_argument("--seed", type=console.whole, default=0)
    how.add_argument("--temperature", type=console.temperature)
    how.add_argument("--top-p", type=console.top_p)
    how.add_argument("--new-tokens", type=console.positive, help="length of a continuation (default: what fits)")
    how.add_argument("--blank-tokens", type=console.positive, default=4, help="tokens for each ___ (default 4)")


def _shipped() -> str:
    """What the shipped model's file says, in words."""
    file = Path(console.DEFAULT_MODEL) / "generation_config.json"
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        said = "; ".join(
            f"{span} by {entry['sampler']}, {entry['steps']} steps, guidance {entry['guidance']:g}"
            for span, entry in entries.items()
        )
        return f", the default model's: {said}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # a command that loads it says what is wrong


def sampler(words: Sequence[str] | None) -> Sampler | None:
    """["remdm", "eta=0.3"] -> the sampler, None without words. Raises ValueError as `sampler_of` does, and on a word
    without =."""
    if not words:
        return None
    from mmprime.engine import SAMPLERS, sampler_of

    name, *rest = words
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; --sampler list prints them")
    for word in rest:
        if "=" not in word:
            raise ValueError(f"--sampler {name}: {word!r} is not key=value")
    options = dict(word.split("=", 1) for word in rest)
    if "steps" in options:
        raise ValueError(f"--sampler {name}: steps is an option of its own, --steps {options['steps']}")
    return sampler_of(name, options)


def given_sampling(options: argparse.Namespace) -> Callable[[SamplingConfig], SamplingConfig]:
    """Checks the options of `add_sampling`; gives a function from a model's `SamplingConfig` to that with the options
    that were given in it. Raises ValueError."""
    from dataclasses import replace

    from mmprime.engine import Guidance

    given: dict[str, Any] = {key: getattr(options, key) for key in ("steps", "temperature", "top_p", "seed")}
    given |= {"sampler": sampler(options.sampler)}
    given = {key: value for key, value in given.items() if value is not None}
    scale, schedule = options.guidance, options.guidance_schedule
    Guidance(scale or 0.0, schedule or "linear")

    def applied(config: SamplingConfig) -> SamplingConfig:
        default = Guidance.of(config.guidance)
        if scale is None and schedule is None:
            return replace(config, **given)
        guidance = Guidance(default.scale if scale is None else scale, schedule or default.schedule)
        return replace(config, guidance=guidance, **given)

    return applied


def listed_samplers(words: Sequence[str] | None) -> bool:
    """Print the samplers if --sampler list asks for them."""
    if words != ["list"]:
        return False
    from mmprime.engine.samplers import listing

    print(listing())
    return True
