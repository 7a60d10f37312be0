"""Class accuracy of drawn pictures, by a small network trained on the real ones, beside that of real held-out ones.

    python benchmarks/class_accuracy.py --data data/fashion --out runs/fashion_classifier \
        [--tokenizer runs/fashion_tokenizer/model] [--samples out/fashion]

--data is a labelled image dataset: trained on `train`, tested on `val`. --tokenizer: the same pictures, decoded from
their codes: what the best model of the codes could reach. --samples: a folder of `mmprime evaluate imagenet`, whose
pictures say the class that was asked for. Three convolutions with batch norm, pooled after each, for pictures of 28 to
64 px; four epochs, AdamW, one cycle. The weights stay in --out and are used again. About two minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmprime.data import ImageDataset
from mmprime.data.pictures import picture_notes, read_picture
from mmprime.evaluation.images.reconstruction import reconstruct
from mmprime.io import bar, whole_file
from mmprime.tokenizers import load_image_tokenizer

WIDTHS = (32, 64, 128)


def network(classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for ins, outs in zip((3, *WIDTHS), WIDTHS):
        layers += [nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(classes))


def prepared(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float about 0."""
    return (images.float() / 255 - 0.5) / 0.25


def train(model: nn.Module, data: ImageDataset, epochs: int, batch: int) -> None:
    """One cycle of AdamW; every other picture is mirrored."""
    assert data.labels is not None
    steps = epochs * (len(data) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    dice = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=dice)
        for rows in bar(order.split(batch)[: steps // epochs], f"epoch {epoch + 1}", "batch"):
            mirrored = torch.rand(len(rows), generator=dice) < 0.5
            x = prepared(data.images[rows])
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
            loss = nn.functional.cross_entropy(model(x), data.labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def predicted(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model(prepared(part)).argmax(-1) for part in images.split(256)])


def report(name: str, guessed: Tensor, labels: Tensor, classes: list[str]) -> None:
    """Accuracy ± one standard error, and that of each class."""
    right = (guessed == labels).double()
    share = float(right.mean())
    error = math.sqrt(share * (1 - share) / len(right))
    each = ", ".join(f"{word} {100 * float(right[labels == k].mean()):.0f}" for k, word in enumerate(classes))
    print(f"{name}: {100 * share:.2f} ± {100 * error:.2f} % of {len(right):,} ({each})", flush=True)


def drawn(folder: Path) -> tuple[Tensor, Tensor]:
    """Pictures of `mmprime evaluate imagenet` and the classes they were asked for."""
    files = sorted(folder.glob("*.png"))
    images = np.stack([np.asarray(read_picture(file)) for file in files])
    labels = [int(picture_notes(file)["label"]) for file in files]
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the network's weights")
    parser.add_argument("--tokenizer")
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    held_out = ImageDataset.load(options.data, "val")
    assert held_out.labels is not None, f"{options.data} has no labels"
    model = network(len(held_out.classes))
    model(prepared(held_out.images[:2]))  # the lazy layer sees its size
    file = options.out / "classifier.safetensors"
    if file.exists():
        model.load_state_dict(load_file(file))
    else:
        began = time.process_time()
        train(model, ImageDataset.load(options.data, "train"), options.epochs, options.batch)
        print(f"trained in {time.process_time() - began:.0f} CPU seconds")
        with whole_file(file) as temporary:
            save_file(model.state_dict(), temporary)
    names = held_out.classes
    report("real, held out", predicted(model, held_out.images), held_out.labels, names)
    if options.tokenizer:
        restored = reconstruct(load_image_tokenizer(options.tokenizer), held_out.images).images
        report("the same, from their codes", predicted(model, restored), held_out.labels, names)
    if options.samples:
        images, labels = drawn(options.samples)
        report("drawn", predicted(model, images), labels, names)


if __name__ == "__main__":
    main()
