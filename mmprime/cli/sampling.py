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
    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.sampling import SamplingConfig

FORMER_NAME = "plan"  # of the option
OF_MODEL = "default: as the model folder says in generation_config.json"


class _Renamed(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> NoReturn:
        parser.error(f"{self.option_strings[0]} is called --sampler")


def add_sampler(
    parser: Any, use: str = f"order of revealing and its options; --sampler list prints them all ({OF_MODEL})"
) -> None:
    """--sampler NAME [key=value ...]; read it with `sampler`."""
    parser.add_argument(
        "--sampler", nargs="+", metavar=("NAME", "key=value"),
        help=use,
    )  # fmt: skip
    parser.add_argument(f"--{FORMER_NAME}", nargs="*", action=_Renamed, help=argparse.SUPPRESS)


def add_sampling(how: argparse._ArgumentGroup, num: int) -> None:
    """The options of every command that samples; num: how many by default."""
    how.description = f"What is not given is as the model folder says in generation_config.json{_shipped()}."
    how.add_argument("--num", type=console.positive, default=num, help=f"how many (default {num})")
    how.add_argument("--steps", type=console.positive, help="forward steps")
    console.add_guidance_arguments(how)
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
    """["remdm", "eta=0.3"] -> the sampler, None without words. Raises ValueError as `sampler_from_words` does, and on
    steps, which are an option of their own."""
    if not words:
        return None
    from mmprime.engine.samplers import sampler_from_words

    if steps := [word for word in words if word.startswith("steps=")]:
        raise ValueError(f"--sampler {words[0]}: steps is an option of its own, --steps {steps[0][6:]}")
    return sampler_from_words(words)


def given_sampling(options: argparse.Namespace) -> Callable[[SamplingConfig], SamplingConfig]:
    """Checks those options of `add_sampling` that a command has; gives a function from a model's `SamplingConfig` to
    that with what was given in it. A list of steps or temperatures is the command's own. Raises ValueError."""
    from dataclasses import replace

    from mmprime.engine import Guidance

    said = vars(options)
    given: dict[str, Any] = {key: said.get(key) for key in ("steps", "temperature", "top_p", "seed")}
    given |= {"sampler": sampler(options.sampler)}
    given = {key: value for key, value in given.items() if value is not None and not isinstance(value, list)}
    scale, schedule = said.get("guidance"), said.get("guidance_schedule")
    Guidance(scale or 0.0, schedule or "linear")

    def applied(config: SamplingConfig) -> SamplingConfig:
        default = Guidance.of(config.guidance)
        if scale is None and schedule is None:
            return replace(config, **given)
        guidance = Guidance(default.scale if scale is None else scale, schedule or default.schedule)
        return replace(config, guidance=guidance, **given)

    return applied


def measured_sampling(options: argparse.Namespace, pipe: Pipeline, span: str) -> tuple[SamplingConfig, str]:
    """How a command that measures a model samples a span: as its folder says, with what was given; and the sampler in
    words."""
    from dataclasses import replace

    from mmprime.engine import Sampler
    from mmprime.engine.samplers import sampler_words
    from mmprime.generation.sampling import steps_of

    config = given_sampling(options)(pipe.config_for(span))
    assert isinstance(config.sampler, Sampler)
    words = " ".join(options.sampler or [sampler_words(config.sampler)])
    return replace(config, steps=config.steps or steps_of(config.sampler), progress=True), words


def listed_samplers(words: Sequence[str] | None) -> bool:
    """Print the samplers if --sampler list asks for them."""
    if words != ["list"]:
        return False
    from mmprime.engine.samplers import listing

    print(listing())
    return True
