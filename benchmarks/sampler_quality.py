"""All samplers on a shipped model at equal numbers of forward passes, and what the samples are worth.

    python benchmarks/sampler_quality.py image [--num 256 --steps 4,8,16,32 --out runs/sampler_quality_image.json]
    python benchmarks/sampler_quality.py text  [--num 48 ...]
    python benchmarks/sampler_quality.py image --only p2 --guidance 0,0.5,1 --schedule constant --temperature 0.8,1

Pictures are drawn for captions seen in training, by default without guidance, so that steps are passes, and compared by
EfficientNet-Lite0 with all drawings of the training split: kernel distance (unbiased), Fréchet distance (biased at
so few pictures, the same for all rows), caption accuracy of the nearest drawing. Texts are scored by SmolLM2. Picture i
has the same caption and the same random streams in every row. Binary masking (token_synchronous) also at 64 steps.
Samplers that decide the number of steps themselves run with the options below; their passes are what they took.
What stands in the file of --out for the same model and --num is not drawn again, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from mmprime.cli import console
from mmprime.engine import Guidance, mix, sampler_of
from mmprime.engine.samplers import sampler_from_words
from mmprime.evaluation import Measure, read_rows, stamp, to_json
from mmprime.evaluation.metric import show
from mmprime.evaluation.provenance import averaged_by, model_hash, versions
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.sampling import AT_ONCE, SamplingConfig
from mmprime.io import write_text

BY_STEPS = (
    "token_synchronous", "ancestral", "first_hitting", "nested", "coarse_first", "raster", "halton", "confidence",
    "margin", "entropy", "moment", "entropy_budget", "mixture", "remdm", "p2", "corrector",
)  # fmt: skip
OF_TOKENS = ("confidence", "margin", "entropy")  # whole tokens too: what the same rule does under binary masking
ADAPTIVE: dict[str, dict[str, list[dict[str, Any]]]] = {
    "image": {
        "entropy_bounded": [{"gamma": gamma} for gamma in (60.0, 24.0, 10.0, 4.0)],
        "threshold": [{"threshold": value} for value in (0.1, 0.2, 0.4)],
        "factor": [{"factor": value} for value in (8.0, 4.0, 2.0)],
        "klass": [{"confidence": 0.2, "divergence": 0.5, "fallback": count} for count in (32, 16, 8, 4)],
        "blocks": [{"size": 16, "gamma": gamma} for gamma in (40.0, 6.0)],
    },
    "text": {
        "entropy_bounded": [{"gamma": gamma} for gamma in (240.0, 110.0, 50.0, 24.0)],
        "threshold": [{"threshold": value} for value in (0.05, 0.1)],
        "factor": [{"factor": value} for value in (32.0, 16.0, 8.0)],
        "klass": [{"confidence": 0.2, "divergence": 0.5, "fallback": count} for count in (64, 32, 16, 8)],
        "blocks": [{"size": 32, "gamma": gamma} for gamma in (150.0, 25.0)],
    },
}
BINARY, LONGEST = "token_synchronous", 64
_scales = console.list_of(console.number_in(0, 100))
Quality = Callable[[SamplingConfig], list[Measure]]


def settings(kind: str, steps: list[int], asked: list[str]) -> Iterator[tuple[str, SamplingConfig]]:
    """What is asked, in words, and how it is drawn: the samplers asked for, else all."""
    for words, count in product(asked, steps):
        yield f"{words}, {count} steps", SamplingConfig(sampler_from_words(words.split()), count)
    if asked:
        return
    for name in BY_STEPS:
        for count in [*steps, *([LONGEST] if name == BINARY else [])]:
            yield f"{name}, {count} steps", SamplingConfig(name, count)
    for name in OF_TOKENS:
        for count in steps:
            yield f"{name} unit=token, {count} steps", SamplingConfig(sampler_of(name, {"unit": "token"}), count)
    for name, choices in ADAPTIVE[kind].items():
        for options in choices:
            words = " ".join(f"{key}={value}" for key, value in options.items())
            yield f"{name} {words}", SamplingConfig(sampler_of(name, options), max(steps))


def varied(options: argparse.Namespace) -> Iterator[tuple[str, SamplingConfig]]:
    """Each of the settings at each guidance, temperature and top_p that is asked for; what is usual goes unnamed."""
    for name, config in settings(options.kind, options.steps, options.sampler):
        for scale, temperature, top_p in product(options.guidance, options.temperature, options.top_p):
            guidance = Guidance(scale, options.schedule) if scale else 0.0
            words = [f"guidance={scale:g} {options.schedule}"] if scale else []
            words += [f"temperature={temperature:g}"] if temperature != 1 else []
            words += [f"top_p={top_p:g}"] if top_p != 1 else []
            what, comma, steps = name.partition(", ")
            yield (
                " ".join([what, *words]) + comma + steps,
                replace(config, guidance=guidance, temperature=temperature, top_p=top_p),
            )


def picture_quality(pipe: Pipeline, num: int, seed: int) -> Quality:
    """Draws pictures for captions seen in training."""
    from mmprime.evaluation.images.captions import choose_captions
    from mmprime.evaluation.sample_quality import PictureQuality

    quality, seeds = PictureQuality(console.DEFAULT_IMAGES), [mix(seed, number) for number in range(num)]
    captions = choose_captions(quality.train_captions, num, seed)

    def rows(config: SamplingConfig) -> list[Measure]:
        result = pipe.generate(captions, 1, replace(config, seed=seeds))
        return quality.rows(result.images, float(result.nfe.double().mean()), seed, captions)

    return rows


def text_quality(pipe: Pipeline, num: int, seed: int) -> Quality:
    """Draws texts."""
    from mmprime.evaluation.sample_quality import TextQuality

    quality, seeds = TextQuality(), [mix(seed, number) for number in range(num)]

    def rows(config: SamplingConfig) -> list[Measure]:
        result = pipe.continue_text("", num, config=replace(config, seed=seeds))
        return quality.rows(result.texts, float(result.nfe.double().mean()), seed)

    return rows


def tables(rows: list[Measure]) -> str:
    """Markdown: for each metric a line a sampler and a column a number of steps; then those that decide themselves."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    paced: dict[str, dict[int, dict[str, Measure]]] = {}
    own: dict[str, dict[str, Measure]] = {}
    for row in rows:
        name, _, steps = (row.sampler or "").removesuffix(" steps").partition(", ")
        cell = paced.setdefault(name, {}).setdefault(int(steps), {}) if steps else own.setdefault(name, {})
        cell[row.metric] = row
    columns = sorted({steps for found in paced.values() for steps in found})
    parts = []
    for metric in metrics:
        lines = [
            f"| {metric} | {' | '.join(f'{steps} steps' for steps in columns)} |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for name, found in paced.items():
            cells = [show(found[steps][metric]) if steps in found else "" for steps in columns]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    lines = [f"| own number of steps | NFE | {' | '.join(metrics)} |", "|---" * (len(metrics) + 2) + "|"]
    for name, found in own.items():
        nfe = next(iter(found.values())).nfe
        lines.append(f"| `{name}` | {nfe:.1f} | {' | '.join(show(found[metric]) for metric in metrics)} |")
    return "\n\n".join([*parts, "\n".join(lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("image", "text"))
    parser.add_argument("--num", type=console.positive, default=None, help="default 256 pictures, 48 texts")
    parser.add_argument("--steps", type=console.numbers, default=[4, 8, 16, 32])
    parser.add_argument("--seed", type=console.whole, default=0)
    parser.add_argument("--model", default=None, help="default assets/models/emoji_t2i, assets/models/sotu")
    parser.add_argument("--only", default="", help="settings that contain this")
    parser.add_argument("--sampler", nargs="+", default=[], help="these alone, e.g. 'confidence unit=token noise=9'")
    parser.add_argument("--guidance", type=_scales, default=[0.0])
    parser.add_argument("--schedule", default="linear", help="of guidance")
    parser.add_argument("--temperature", type=console.powers, default=[1.0])
    parser.add_argument("--top-p", type=console.powers, default=[1.0])
    parser.add_argument("--out", default=None, help="default runs/sampler_quality_KIND.json")
    options = parser.parse_args()
    image = options.kind == "image"
    directory = options.model or ("assets/models/emoji_t2i" if image else "assets/models/sotu")
    num, out = options.num or (256 if image else 48), Path(options.out or f"runs/sampler_quality_{options.kind}.json")
    about = {"model_hash": model_hash(directory), "ema": averaged_by(directory), "precision": "fp32"}
    stored = read_rows(out) if out.is_file() else []
    rows = [row for row in stored if row.model_hash == about["model_hash"] and row.num_samples == num]
    done = {row.sampler for row in rows}
    quality: Quality | None = None
    for name, config in varied(options):
        if options.only not in name or name in done:
            continue
        quality = quality or (picture_quality if image else text_quality)(from_pretrained(directory), num, options.seed)
        rows += stamp(quality(config), sampler=name, versions=versions(), **about)
        write_text(out, to_json(rows))
        print(
            name,
            *(f"{row.metric} {show(row)}" for row in rows[-3:]),
            f"NFE {rows[-1].nfe:.1f}",
            sep="; ",
            flush=True,
        )
    print(f"\n{num} samples a row, {AT_ONCE} at a time, seed {options.seed}\n\n{tables(rows)}")


if __name__ == "__main__":
    main()
