"""GenEval: pictures of its prompts in the folders that its evaluator reads, and its results as rows.

mmprime evaluate geneval --model DIR --prompts evaluation_metadata.jsonl --out DIR
python evaluation/evaluate_images.py DIR --outfile results.jsonl         of GenEval, with its detector
mmprime evaluate geneval --results results.jsonl
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmprime.io import bar

from .. import console, sampling

if TYPE_CHECKING:
    from mmprime.evaluation import Measure

HELP = "GenEval's folders of pictures, and its results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", metavar="DIR", help="draw the pictures by this model")
    parser.add_argument("--prompts", type=console.existing, metavar="FILE.jsonl", help='a line: {"prompt": ..., ...}')
    parser.add_argument("--out", type=console.out_folder, metavar="DIR", help="where the pictures go: a new folder")
    parser.add_argument("--num", type=console.positive, default=4, help="pictures of each prompt (default 4)")
    parser.add_argument("--steps", type=console.positive, help=sampling.OF_MODEL)
    console.add_guidance_arguments(parser)
    sampling.add_sampler(parser)
    parser.add_argument("--temperature", type=console.temperature)
    parser.add_argument("--results", type=console.existing, metavar="FILE.jsonl", help="of GenEval's evaluator")


def run(options: argparse.Namespace) -> list[Measure]:
    """Draw the pictures, or read the results. Raises ValueError where neither or both are asked for."""
    from mmprime.evaluation.images.geneval import score_results
    from mmprime.evaluation.provenance import hash_files

    needed = [options.model, options.prompts, options.out]
    if options.results is not None and not any(needed):
        from mmprime.evaluation import stamp

        return stamp(score_results(options.results), model_hash=hash_files(options.results))
    if options.results is not None or not all(needed):
        raise ValueError("give --model DIR, --prompts FILE.jsonl and --out DIR to draw; --results FILE.jsonl to read")
    _write_folders(options)
    return []


def _write_folders(options: argparse.Namespace) -> None:
    from mmprime.engine import mix
    from mmprime.evaluation.images.geneval import read_prompts, write_prompt_folder
    from mmprime.generation.pipeline import from_pretrained

    if Path(options.out).is_dir() and any(Path(options.out).iterdir()):
        raise ValueError(f"--out {options.out} is not empty; give a new folder")
    sampling.given_sampling(options)  # refuse before anything is loaded
    read_prompts(options.prompts)
    pipe = from_pretrained(options.model)
    entries = read_prompts(options.prompts, pipe)
    config = replace(sampling.measured_sampling(options, pipe, "image")[0], progress=False)
    for number, entry in enumerate(bar(entries, "sampling", "prompt")):
        seeds = [mix(options.seed, number, index) for index in range(options.num)]
        images = pipe.generate(entry["prompt"], options.num, replace(config, seed=seeds)).images
        write_prompt_folder(options.out, number, entry, images)
    print(f"{options.num} pictures of each of {len(entries)} prompts in {options.out}")
