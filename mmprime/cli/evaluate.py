"""Measure a model. Every number comes with its name, its standard error and the command that gives it again.

    mmprime evaluate likelihood --model DIR [--data DIR] [--split val] [--steps 4,16,64]
        bounds (NELBO) in nats per token, bits per byte / code / dimension, perplexity of text
    mmprime evaluate samples --generated DIR --reference DIR --inception FILE
        FID, sFID, KID, Inception Score, precision, recall; --metric fd-effnet-lite0,kid-effnet-lite0 without Inception
    mmprime evaluate captions --model DIR [--num 300] [--phrasing natural]
        how often the nearest real drawing of a generated one carries its caption
    mmprime evaluate captioning --model DIR [--num 300] [--candidates 4]
        how often a caption that is read from a drawing is its own, word for word
    mmprime evaluate scenes --model DIR [--num 200]
        how often both objects of a scene are drawn, each where the caption has it
    mmprime evaluate text --model DIR [--temperature 0.7,1]
        generative perplexity by a causal language model, beside entropy, distinct-n and repetition
    mmprime evaluate tokenizer --tokenizer DIR
        PSNR, SSIM, use of codes or digits, seconds, distances and captions kept of an image tokenizer
    mmprime evaluate imagenet --model DIR --out DIR --reference FILE
        FID-50k of a class-conditional model; also under torchrun
    mmprime evaluate geneval --model DIR --prompts FILE.jsonl --out DIR
        GenEval's folders of pictures; --results FILE.jsonl reads what its evaluator found
    mmprime evaluate calibration --model DIR
        confidence of predictions against how often they are right

Exit codes: 0 done, 2 a mistake in what was asked (one line); all of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
import sys

from . import console
from .evaluations import (
    calibration,
    captioning,
    captions,
    geneval,
    imagenet,
    likelihood,
    samples,
    scenes,
    text,
    tokenizer,
)

COMMANDS = {
    "likelihood": likelihood,
    "samples": samples,
    "captions": captions,
    "captioning": captioning,
    "scenes": scenes,
    "text": text,
    "tokenizer": tokenizer,
    "imagenet": imagenet,
    "geneval": geneval,
    "calibration": calibration,
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP)
        module.add_arguments(command)
        command.add_argument("--seed", type=console.whole, default=0)
        command.add_argument("--json", type=console.out_file, metavar="FILE", help="write the rows as JSON")
    return parser.parse_args(arguments)


def evaluate(options: argparse.Namespace) -> None:
    """Run the command. Raises ValueError for what the user can mend."""
    origin = {"command": options.typed}
    model = getattr(options, "model", None)
    if model is not None:
        model = options.model = console.model_folder(model)
    for name in ("data", "generated", "reference", "texts", "tokenizer", "inception"):
        if name != "data" or options.command != "samples" or model is not None:
            console.require_path(getattr(options, name, None), f"--{name}")
    from mmprime.evaluation import stamp, table, to_json
    from mmprime.evaluation.provenance import averaged_by, model_hash, versions

    about = {} if model is None else {"model_hash": model_hash(model), "ema": averaged_by(model), "precision": "fp32"}
    rows = stamp(COMMANDS[options.command].run(options), **origin, **about, versions=versions())
    if options.json:  # before anything is printed: a row that cannot be printed is not lost
        from mmprime.io import write_text

        write_text(options.json, to_json(rows))
    if rows and not getattr(COMMANDS[options.command], "SUMMARY", False):
        print(table(rows))
    for note in getattr(COMMANDS[options.command], "NOTES", ()):
        print(note)
    if options.json:
        print(f"rows in {options.json}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    typed = sys.argv[1:] if arguments is None else arguments

    def work() -> None:
        options = parse(typed)
        options.typed = console.typed("evaluate", typed)
        evaluate(options)

    return console.run(work)


if __name__ == "__main__":
    raise SystemExit(main())
