"""GenEval's files (Ghosh et al., arXiv 2310.11513): pictures as its evaluator reads them, and its results.

    OUT/00000/metadata.jsonl        one line: the entry of the prompts file
    OUT/00000/samples/00000.png     pictures of that prompt
    results.jsonl                   one line for each picture: tag, prompt, metadata, correct

The score of a tag is the share of its pictures that are correct; that of all is the mean over tags. Pictures of one
prompt are alike, so the standard error is that of the ratio estimator over prompts.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmprime.generation.images import save_picture, to_picture
from mmprime.io import read_text, write_text

from ..likelihood import ratio
from ..metric import Measure

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline


def read_prompts(file: str | Path, pipe: Pipeline | None = None) -> list[dict[str, Any]]:
    """Entries {"prompt": ..., ...}, one a line. Raises ValueError naming the line that is none, or whose prompt the
    text span of the model has no room for."""
    entries = _read_lines(file, {"prompt": str})
    for number, entry in enumerate(entries, 1):
        if not entry["prompt"].strip():
            raise ValueError(f"{file}, line {number}: the prompt is empty")
        if pipe is not None and pipe.canvas.has("text") and not pipe.holds(entry["prompt"]):
            raise ValueError(f"{file}, line {number}: {entry['prompt'][:60]!r} is longer than the model's text span")
    return entries


def write_prompt_folder(out: str | Path, number: int, entry: dict[str, Any], images: Tensor) -> None:
    """Write prompt `number` with its pictures (n, 3, H, W) in [0, 1]."""
    folder = Path(out, f"{number:05d}")
    for index, image in enumerate(images):
        save_picture(folder / "samples" / f"{index:05d}.png", to_picture(image))
    write_text(folder / "metadata.jsonl", json.dumps(entry) + "\n")


def score_results(file: str | Path) -> list[Measure]:
    """Rows of a results.jsonl of GenEval's evaluate_images.py: each tag, their mean, prompts with a correct picture.

    Raises ValueError naming the line that is no result.
    """
    tags: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in _read_lines(file, {"tag": str, "prompt": str, "correct": bool}):
        tags[row["tag"]][str(row.get("metadata", row["prompt"]))].append(row["correct"])
    scores = {tag: _share(list(prompts.values())) for tag, prompts in tags.items()}
    counts = {tag: sum(map(len, prompts.values())) for tag, prompts in tags.items()}
    total, known = sum(counts.values()), [error for _, error in scores.values() if error is not None]
    mean = sum(value for value, _ in scores.values()) / len(scores)
    error = math.sqrt(sum(each**2 for each in known)) / len(scores) if len(known) == len(scores) else None
    solved = [[any(answers)] for prompts in tags.values() for answers in prompts.values()]
    rows = [Measure(f"GenEval {tag}", *score, "share", counts[tag], 0, None) for tag, score in scores.items()]
    rows.append(Measure("GenEval, mean over tags", mean, error, "share", total, 0, None))
    rows.append(Measure("GenEval, prompts with a correct picture", *_share(solved), "share", len(solved), 0, None))
    return rows


def _share(prompts: list[list[bool]]) -> tuple[float, float | None]:
    return ratio(torch.tensor([sum(answers) for answers in prompts]), torch.tensor([len(each) for each in prompts]))


def _read_lines(file: str | Path, kinds: dict[str, type]) -> list[dict[str, Any]]:
    """Objects, one a line, whose fields are of these kinds."""
    rows = []
    for number, line in enumerate(read_text(Path(file)).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}, line {number} is no JSON: {error}") from error
        odd = [name for name, kind in kinds.items() if not isinstance(row, dict) or type(row.get(name)) is not kind]
        if odd:
            raise ValueError(f"{file}, line {number} has no {odd[0]!r} ({kinds[odd[0]].__name__}): {line[:60]}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} has no lines")
    return rows
