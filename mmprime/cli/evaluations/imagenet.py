"""The FID-50k protocol for a class-conditional model: draw 50,000 pictures with balanced labels, then score them.

Picture i has label i mod C and its own random stream mix(seed, i), so the set is the same for any batch and any number
of processes: under torchrun process r of W draws the pictures r, r + W, ... Each is a PNG in --out; what is there is
not drawn again, so a run that was cut off goes on. Process 0 waits for the others and scores.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import console
from .samples import add_metric_arguments, idle_share, open_folder, rules_of, steps_unused

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.comparison import Comparison, Judges
    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.sampling import Draw

HELP = "FID-50k of a class-conditional model, sharded over processes"
NOTES = (
    "Size: generated pictures as the tokenizer decodes them; of reference pictures the largest centred square, resized "
    "to that size by PIL's bicubic filter with antialiasing (a picture of that size stays as it is); those of an .npz "
    "batch must have it. The judge then resizes by itself (Inception: bilinear to 299, as in the first FID).",
    "An .npz batch with mu and sigma is compared by these in fid (they are of its whole source), by its pictures else.",
)
_RECORD, _POLL = "drawn.json", 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument(
        "--out",
        type=console.out_folder,
        required=True,
        metavar="DIR",
        help="where the pictures are written, and found again",
    )
    parser.add_argument("--reference", metavar="PATH", help="a folder of pictures, or an .npz batch (arr_0)")
    parser.add_argument("--num", type=console.positive, default=50000)
    parser.add_argument("--steps", type=console.positive, default=32)
    console.add_guidance_arguments(parser, 2.0)
    parser.add_argument("--plan", choices=console.PLANS)
    parser.add_argument("--temperature", type=console.temperature, default=1.0)
    parser.add_argument("--batch", type=console.positive, default=64, help="pictures drawn together")
    parser.add_argument("--patience", type=console.positive, default=3600, help="seconds to wait for a next picture")
    add_metric_arguments(parser, "fid,kid,is,prc")


def run(options: argparse.Namespace) -> list[Measure]:
    """Draw this process's share; in process 0 also score. The other processes end here, with exit code 0."""
    from mmprime.engine import Guidance, mix
    from mmprime.evaluation import stamp
    from mmprime.evaluation.images.comparison import Judges, parse_metrics
    from mmprime.generation.pipeline import from_pretrained
    from mmprime.generation.sampling import Draw

    place = place_of(os.environ)
    metrics = parse_metrics(options.metric)
    guidance = Guidance(options.guidance, options.guidance_schedule)
    pipe = from_pretrained(options.model, _device(place.local))
    classes = pipe.model.config.num_classes
    if classes is None:
        raise ValueError(f"{options.model} has no classes; the command samples judges models that draw from captions")
    comparison = None
    if place.rank == 0:  # whatever is wrong with the reference is said before anything is drawn
        comparison = _comparison(options, Judges(metrics, options.inception), pipe)
        comparison.check(options.num)
    out = Path(options.out)
    _claim(out, options, classes)
    own = [i for i in range(place.rank, options.num, place.world) if not _file(out, i).is_file()]
    for start in console.bar(range(0, len(own), options.batch), "drawing", "batch", place.rank == 0):
        picks = own[start : start + options.batch]
        draw = Draw(
            options.steps,
            options.plan,
            guidance,
            options.temperature,
            seed=[mix(options.seed, i) for i in picks],
        )
        images, cost = draw_labelled(pipe, [i % classes for i in picks], draw)
        for number, image, (nfe, idle) in zip(picks, images, cost.tolist()):
            _save(_file(out, number), image, {"label": number % classes, "nfe": nfe, "idle_steps": idle})
    print(f"process {place.rank} of {place.world} drew {len(own)} pictures into {out}")
    if comparison is None:
        raise SystemExit(0)
    _await(out, options.num, options.patience)
    found = _score(out, options, comparison)
    return stamp(found, sampler=options.plan or pipe.law, guidance=str(guidance))


class Place(NamedTuple):
    """This process among those that run together."""

    rank: int
    world: int
    local: int


def place_of(environment: os._Environ[str] | dict[str, str]) -> Place:
    """From what torchrun sets; alone when it is not set. Raises ValueError on numbers that cannot be."""
    rank, world = (environment.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(f"RANK={rank} of WORLD_SIZE={world} is no process; run under torchrun, or unset both")
    return Place(int(rank), int(world), int(environment.get("LOCAL_RANK", rank)))


def draw_labelled(pipe: Pipeline, labels: list[int], draw: Draw) -> tuple[Tensor, Tensor]:
    """A uint8 picture (3, H, W) for each label; (B, 2) its forward passes and idle steps. Spans of text stay hidden."""
    import torch

    from mmprime.engine import MASK_ID
    from mmprime.generation.sampling import draw_rows

    if pipe.image_tokenizer is None:
        raise ValueError("the model has no image tokenizer, so it draws no pictures")
    y = torch.full((len(labels), pipe.canvas.num_subtokens), MASK_ID, device=pipe.device)
    absent = pipe.canvas.mask("text") if pipe.canvas.has("text") else None
    cond = {"label": torch.tensor(labels, device=pipe.device)}
    found = draw_rows(pipe.model, pipe.canvas, y, pipe.law, draw, absent, cond)
    span = pipe.canvas.span("image")
    codes = span.codec.decode(pipe.canvas.view(found.y, "image")).view(-1, *pipe.image_tokenizer.grid)
    images = (pipe.image_tokenizer.decode(codes).cpu() * 255).round().byte()
    return images, torch.stack([found.nfe, steps_unused(draw, found.rank).to(found.nfe)], -1)


def _comparison(options: argparse.Namespace, judges: Judges, pipe: Pipeline) -> Comparison:
    from mmprime.evaluation.images.comparison import Comparison
    from mmprime.evaluation.images.sets import read_reference_batch

    if options.reference is None:
        return Comparison(judges, None, rules_of(options))
    if pipe.image_tokenizer is None:
        raise ValueError(f"{options.model} has no image tokenizer, so it draws no pictures")
    size = pipe.image_tokenizer.image_size
    if Path(options.reference).suffix == ".npz":
        pictures, statistics = read_reference_batch(options.reference, size)
        return Comparison(judges, pictures, rules_of(options), statistics)
    return Comparison(judges, open_folder(options.reference, size), rules_of(options))


def _claim(out: Path, options: argparse.Namespace, classes: int) -> None:
    """Write down how the pictures in `out` are drawn. Raises ValueError when they were drawn in another way."""
    from mmprime.evaluation.provenance import model_hash
    from mmprime.io import write_text

    how = {
        name: getattr(options, name)
        for name in ("steps", "guidance", "guidance_schedule", "plan", "temperature", "seed")
    }
    record = {"model": model_hash(options.model), "classes": classes, **how}
    if (out / _RECORD).is_file():
        known = _record(out / _RECORD)
        odd = [
            f"{name} {known.get(name)} there, {value} now" for name, value in record.items() if known.get(name) != value
        ]
        if odd:
            raise ValueError(f"{out} holds pictures drawn in another way ({'; '.join(odd)}); give another --out")
    elif out.is_dir() and any(out.glob("*.png")):
        raise ValueError(f"{out} holds pictures and no {_RECORD}; give another --out")
    else:
        write_text(out / _RECORD, json.dumps(record, indent=1) + "\n")


def _record(file: Path) -> dict[str, object]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}); remove it, or give another --out") from error
    if not isinstance(known, dict):
        raise ValueError(f"{file} does not say how its pictures were drawn; remove it, or give another --out")
    return known


def _file(out: Path, number: int) -> Path:
    return out / f"{number:06d}.png"


def _save(file: Path, image: Tensor, notes: dict[str, int]) -> None:
    from PIL import Image, PngImagePlugin

    from mmprime.io import whole_file

    about = PngImagePlugin.PngInfo()
    for name, value in notes.items():
        about.add_text(name, str(value))
    with whole_file(file) as temporary:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(temporary, format="PNG", pnginfo=about)


def _await(out: Path, num: int, patience: float) -> None:
    """Return when all pictures are there. Raises ValueError when none comes for `patience` seconds."""
    left, since = num, time.monotonic()
    while missing := sum(not _file(out, i).is_file() for i in range(num)):
        if missing < left:
            left, since = missing, time.monotonic()
        if time.monotonic() - since > patience:
            raise ValueError(f"{missing} of {num} pictures are missing in {out}: did a process end? Run it again")
        time.sleep(_POLL)


def _score(out: Path, options: argparse.Namespace, comparison: Comparison) -> list[Measure]:
    import torch

    from mmprime.data.pictures import picture_notes
    from mmprime.evaluation.images.sets import PictureFiles
    from mmprime.generation.sampling import Draw

    files = [_file(out, i) for i in range(options.num)]
    passes, idle_steps = 0, []
    for file in files:
        notes = picture_notes(file)
        if not all(notes.get(name, "").isdecimal() for name in ("nfe", "idle_steps")):
            raise ValueError(f"{file} does not say its forward passes: it was not drawn here; remove it")
        passes += int(notes["nfe"])
        idle_steps.append(int(notes["idle_steps"]))
    idle = idle_share(Draw(options.steps, options.plan), torch.tensor(idle_steps))
    return comparison.rows(PictureFiles(files), passes / options.num, options.seed, idle)


def _device(local: int) -> str:
    import torch

    return f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
