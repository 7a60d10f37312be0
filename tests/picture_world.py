"""Pictures of noise in folders and data sets, features that are colours only, a command run on its arguments."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pipeline_world import tiny_image_tokenizer, trained_looking
from torch import Tensor

from mmprime.data.building import build_dataset
from mmprime.data.shards import Entry, Unit, canonical_json
from mmprime.engine import Canvas, Codec, Span
from mmprime.evaluation import Measure
from mmprime.evaluation.images.extractors import Features
from mmprime.models import DiTConfig, PrimeDiT, save_model

NAMES = ("red apple", "green apple", "blue car", "car", "apple")


def colours_only(images: Tensor) -> Features:
    mean = images.float().mean((-2, -1))
    return Features(mean, mean)


def noise(seed: int, size: int = 32) -> Image.Image:
    pixels = torch.randint(256, (size, size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def noise_folder(folder: Path, count: int, size: int = 32, first: int = 0) -> Path:
    folder.mkdir()
    for number in range(count):
        noise(first + number, size).save(folder / f"{number}.png")
    return folder


def noise_dataset(folder: Path, size: int = 32, names: tuple[str, ...] = NAMES) -> Path:
    """Vendors a, b (train) and c (val_vendor), each with a drawing of every caption."""

    def make(vendor: str, split: str, seed: int) -> list[tuple[str, Entry]]:
        made = []
        for number, caption in enumerate(names):
            buffer = io.BytesIO()
            noise(seed + number, size).save(buffer, "PNG")
            about = {"caption": caption, "tags": [], "vendor": vendor, "split": split}
            made.append((split, Entry(f"{vendor}_{number}", {"png": buffer.getvalue(), "json": canonical_json(about)})))
        return made

    plan = [("a", "train", 0), ("b", "train", 100), ("c", "val_vendor", 200)]
    units = [
        Unit(vendor, f"{vendor}{size}", lambda own=(vendor, split, seed): make(*own)) for vendor, split, seed in plan
    ]
    build_dataset(folder, "images", units, {"name": "tiny", "image_size": size}, False)
    return folder


def class_model(folder: Path) -> Path:
    """An image model of three classes."""
    image = tiny_image_tokenizer()
    folder.mkdir(exist_ok=True)
    image.save(folder / "image_tokenizer", torch.float32)
    canvas = Canvas([Span("image", image.grid, Codec.base(16, 2))])
    model = trained_looking(PrimeDiT(canvas, DiTConfig(preset="nano", depth=1, num_classes=3)))
    save_model(folder / "model", model, canvas, {"tokenizers": {"image": "../image_tokenizer"}, "law": "nested"})
    return folder / "model"


def run_command(module: Any, *arguments: object) -> list[Measure]:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    found: list[Measure] = module.run(parser.parse_args([str(each) for each in arguments]))
    return found


def cosines(picture: Tensor, gallery: Tensor) -> list[float]:
    colours = colours_only(gallery).features.double()
    own = colours_only(picture[None]).features.double()[0]
    return [float(own @ each / own.norm() / each.norm()) for each in colours]
