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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmprime.io import bar

from .. import console, sampling
from .pictures import add_metric_arguments, add_npz_argument, open_reference, rules_of, write_npz

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.evaluation import Measure
    from mmprime.evaluation.images.comparison import Comparison, Extractors
    from mmprime.generation.pipeline import Pipeline
    from mmprime.generation.sampling import SamplingConfig

HELP = "FID-50k of a class-conditional model, sharded over processes"
NOTES = (
    "Size: generated pictures as the tokenizer decodes them; of reference pictures the largest centred square, resized "
    "to that size by PIL's bicubic filter with antialiasing (a picture of that size stays as it is); those of an .npz "
    "batch must have it. The network then resizes by itself (Inception: bilinear to 299, as in the first FID).",
    "An .npz batch with mu, sigma (mu_s, sigma_s) is compared by these in fid (sfid), by its pictures else.",
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
    parser.add_argument("--reference", metavar="PATH", help="a folder of pictures, or an .npz batch")
    parser.add_argument("--num", type=console.positive, default=50000)
    parser.add_argument("--steps", type=console.positive, help=sampling.OF_MODEL)
    console.add_guidance_arguments(parser)
    sampling.add_sampler(parser)
    parser.add_argument("--temperature", type=console.temperature)
    parser.add_argument("--batch", type=console.positive, default=64, help="pictures drawn together")
    parser.add_argument("--patience", type=console.positive, default=3600, help="seconds to wait for a next picture")
    add_metric_arguments(parser, "fid,sfid,kid,is,prc")
    add_npz_argument(parser)


def run(options: argparse.Namespace) -> list[Measure]:
    """Draw this process's share; in process 0 also score. The other processes end here, with exit code 0."""
    from mmprime.engine import Guidance, mix
    from mmprime.evaluation import stamp
    from mmprime.evaluation.images.comparison import Extractors, parse_metrics
    from mmprime.evaluation.images.sampling import sample_classes
    from mmprime.evaluation.provenance import model_hash
    from mmprime.generation.pipeline import from_pretrained

    process = process_of(os.environ)
    metrics = parse_metrics(options.metric)
    sampling.given_sampling(options)  # refuse before anything is loaded
    pipe = from_pretrained(options.model, _device(process.local))
    classes = pipe.model.config.num_classes
    if classes is None:
        raise ValueError(f"{options.model} has no classes; the command samples measures models that draw from captions")
    comparison = None
    if process.rank == 0:  # whatever is wrong with the reference is said before anything is drawn
        comparison = _comparison(options, Extractors(metrics, options.inception), pipe)
        comparison.check(options.num)
    out = Path(options.out)
    config, sampler = sampling.measured_sampling(options, pipe, "image")
    config = replace(config, progress=False)
    guidance = str(Guidance.of(config.guidance))
    how = {"steps": config.steps, "guidance": guidance, "temperature": config.temperature, "sampler": sampler}
    _claim(out, {"model": model_hash(options.model), "classes": classes, **how, "seed": options.seed})
    numbers = [i for i in range(process.rank, options.num, process.world) if not _file(out, i).is_file()]
    for start in bar(range(0, len(numbers), options.batch), "sampling", "batch", process.rank == 0):
        picks = numbers[start : start + options.batch]
        seeds = [mix(options.seed, i) for i in picks]
        images, cost = sample_classes(pipe, [i % classes for i in picks], replace(config, seed=seeds))
        for number, image, (nfe, idle) in zip(picks, images, cost.tolist()):
            _save(_file(out, number), image, {"label": number % classes, "nfe": nfe, "idle_steps": idle})
    print(f"process {process.rank} of {process.world} drew {len(numbers)} pictures into {out}")
    if comparison is None:
        raise SystemExit(0)
    _await(out, options.num, options.patience)
    rows = _score(out, options, comparison, config)
    return stamp(rows, sampler=sampler, guidance=guidance)


class Process(NamedTuple):
    """This process among those that run together."""

    rank: int
    world: int
    local: int


def process_of(environment: os._Environ[str] | dict[str, str]) -> Process:
    """From what torchrun sets; alone when it is not set. Raises ValueError on numbers that cannot be."""
    rank, world = (environment.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(f"RANK={rank} of WORLD_SIZE={world} is no process; run under torchrun, or unset both")
    return Process(int(rank), int(world), int(environment.get("LOCAL_RANK", rank)))


def _comparison(options: argparse.Namespace, extractors: Extractors, pipe: Pipeline) -> Comparison:
    from mmprime.evaluation.images.comparison import Comparison

    if pipe.image_tokenizer is None:
        raise ValueError(f"{options.model} has no image tokenizer, so it draws no pictures")
    pictures, statistics = open_reference(options.reference, pipe.image_tokenizer.image_size)
    return Comparison(extractors, pictures, rules_of(options), statistics)


def _claim(out: Path, record: dict[str, object]) -> None:
    """Write down how the pictures in `out` are drawn. Raises ValueError when they were drawn in another way."""
    from mmprime.io import write_text

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
    return {"sampler" if key == "plan" else key: value for key, value in known.items()}  # older records say plan


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


def _score(out: Path, options: argparse.Namespace, comparison: Comparison, config: SamplingConfig) -> list[Measure]:
    import torch

    from mmprime.data.pictures import picture_notes
    from mmprime.evaluation.images.sets import PictureFiles
    from mmprime.evaluation.sample_cost import idle_share

    files = [_file(out, i) for i in range(options.num)]
    write_npz(options.npz, PictureFiles(files))
    passes, idle_steps = 0, []
    for file in files:
        notes = picture_notes(file)
        if not all(notes.get(name, "").isdecimal() for name in ("nfe", "idle_steps")):
            raise ValueError(f"{file} does not say its forward passes: it was not drawn here; remove it")
        passes += int(notes["nfe"])
        idle_steps.append(int(notes["idle_steps"]))
    idle = idle_share(config, torch.tensor(idle_steps))
    return comparison.rows(PictureFiles(files), passes / options.num, options.seed, idle)


def _device(local: int) -> str:
    import torch

    return f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
