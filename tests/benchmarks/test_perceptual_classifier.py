"""The classifier behind a perceptual loss: views that keep what is drawn, weights that the loss reads."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from benchmarks.perceptual_classifier import augmented, map_weights, prepared
from mmprime.tokenizers.losses import PerceptualLoss


def test_views_mirror_only_what_may_be() -> None:
    images = torch.full((64, 3, 16, 16), 255, dtype=torch.uint8)
    images[:, :, 6:10, :4] = 0
    mirrored = torch.arange(64) % 2 == 1
    views = augmented(prepared(images), mirrored, torch.Generator().manual_seed(0))
    dark_right = (views[..., 8:] < 0).flatten(1).sum(1) > (views[..., :8] < 0).flatten(1).sum(1)
    assert not dark_right[~mirrored].any()
    assert 6 < int(dark_right[mirrored].sum()) < 26
    assert (views[:, :, 0] >= 0.69).all(), "what comes in from outside is white, but for its scaled channels"


def test_the_loss_reads_the_maps_of_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(map_weights(net, "test_resnet"), tmp_path / "w.safetensors")
    loss = PerceptualLoss(tmp_path / "w.safetensors", "test_resnet")
    images, targets = torch.rand(2, 2, 3, 32, 32)
    levels = [
        (net.half().float().forward_intermediates(2 * x - 1, indices=[0, 1, 2, 3], intermediates_only=True))
        for x in (images, targets)
    ]
    unit = torch.nn.functional.normalize
    wanted = [(unit(a, dim=1) - unit(b, dim=1)).square().sum(1).mean() for a, b in zip(*levels)]
    assert float(loss(images, targets)) == pytest.approx(float(sum(wanted).detach() / 4), rel=1e-3)
