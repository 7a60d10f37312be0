"""A classifier of captions and vendors, whose features the perceptual loss of a tokenizer compares and no measure uses.

    python benchmarks/perceptual_classifier.py --out perceptual.safetensors    # 15 minutes of one core
    mmprime train CONFIG loss.perceptual=0.5 loss.perceptual_model=test_resnet \
        loss.perceptual_weights=perceptual.safetensors

    loss = CE(caption) + 0.2 CE(vendor),   CE with labels smoothed by 0.1

A network of timm at the size of the pictures, from random weights, on the training split alone; AdamW, cosine rate.
Views: moved, scaled, mirrored where the caption has no side, channels scaled. What is written are the weights of the
feature maps that the loss reads (`PerceptualLoss`), in half precision. Printed: the share of captions and vendors named
right for training pictures, and of captions on each validation split, among those that training knows.
"""

from __future__ import annotations

import argparse
import re
import time

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from mmprime.data import ImageDataset

SIDES = re.compile(r"\b(left|right|east|west|clockwise|counterclockwise|flag|button|letter|input)\b", re.I)
BATCH, LEVELS, VENDOR_WEIGHT = 64, 4, 0.2


def prepared(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> [-1, 1], as `PerceptualLoss` gives them to its network."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Views of pictures (B, 3, H, W) in [-1, 1] on white; mirrored (B,) bool: which may be, half of them are."""
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    scale = uniform(0.9, 1.25)
    side = torch.where(mirrored & (uniform(0, 1) < 0.5), -1.0, 1.0)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = scale * side, scale, uniform(-0.15, 0.15, 2)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images - 1, grid, align_corners=False) + 1  # white outside
    return (1 - (1 - moved) * uniform(0.85, 1.1, 3, 1, 1)).clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def train(net: nn.Module, data: ImageDataset, names: list[str], vendors: list[str], epochs: int, seed: int) -> None:
    """Train net, whose outputs are the logits of captions `names`, then those of `vendors`."""
    generator = torch.Generator().manual_seed(seed)
    captions = torch.tensor([names.index(caption) for caption in data.captions])
    makers = torch.tensor([vendors.index(vendor) for vendor in data.vendors])
    mirrored = torch.tensor([not SIDES.search(caption) for caption in data.captions])
    steps = epochs * (len(data) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    start = time.perf_counter()
    for epoch in range(epochs):
        total = torch.zeros(2)
        net.train()
        for pick in torch.randperm(len(data), generator=generator).split(BATCH)[: len(data) // BATCH]:
            with torch.autocast("cpu", torch.bfloat16):  # a core with AVX-512 takes two thirds of the time
                logits = net(augmented(prepared(data.images[pick]), mirrored[pick], generator)).float()
            caption = functional.cross_entropy(logits[:, : len(names)], captions[pick], label_smoothing=0.1)
            vendor = functional.cross_entropy(logits[:, len(names) :], makers[pick], label_smoothing=0.1)
            optimizer.zero_grad()
            (caption + VENDOR_WEIGHT * vendor).backward()
            optimizer.step()
            schedule.step()
            total += torch.stack([caption, vendor]).detach()
        losses = " ".join(f"{x:.3f}" for x in total / (len(data) // BATCH))
        print(f"epoch {epoch + 1}: loss {losses}, {time.perf_counter() - start:.0f} s", flush=True)


@torch.no_grad()
def shares(net: nn.Module, data: ImageDataset, names: list[str], vendors: list[str]) -> str:
    """How many captions, of those in `names`, and vendors are named right."""
    net.eval()
    logits = torch.cat([net(prepared(part)) for part in data.images.split(256)])
    named, made = logits[:, : len(names)].argmax(1).tolist(), logits[:, len(names) :].argmax(1).tolist()
    hits = [names[n] == caption for n, caption in zip(named, data.captions) if caption in set(names)]
    makers = [vendors[n] == vendor for n, vendor in zip(made, data.vendors) if vendor in vendors]
    return "; ".join(
        f"{what} {sum(right) / len(right):.3f} of {len(right)}"
        for what, right in (("captions", hits), ("vendors", makers))
        if right
    )


def map_weights(net: nn.Module, model: str) -> dict[str, Tensor]:
    """The weights behind the feature maps that the loss reads, in half precision."""
    maps = timm.create_model(model, features_only=True, out_indices=tuple(range(LEVELS))).state_dict()
    return {k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items() if k in maps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="assets/emoji", help="dataset folder of captioned images")
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    parser.add_argument("--model", default="test_resnet", help="a network of timm that gives feature maps")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = ImageDataset.load(options.data)
    parts = {s: data.select([i for i, name in enumerate(data.splits) if name == s]) for s in dict.fromkeys(data.splits)}
    names, vendors = sorted(set(parts["train"].captions)), sorted(set(parts["train"].vendors))
    net = timm.create_model(options.model, num_classes=len(names) + len(vendors)).to(memory_format=torch.channels_last)
    train(net, parts["train"], names, vendors, options.epochs, options.seed)
    maps = timm.create_model(options.model, features_only=True, out_indices=tuple(range(LEVELS))).state_dict()
    stored = {
        k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items() if k in maps
    }
    save_file(stored, options.out, {"model": options.model})
    for split, part in parts.items():
        print(f"{split}: {shares(net, part, names, vendors)}")


if __name__ == "__main__":
    main()
