"""The losses beside pixels: they see differences, and reach what they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmprime.tokenizers.losses import PatchDiscriminator, PerceptualLoss, hinge_discriminator, hinge_generator

MODEL = "tf_efficientnet_lite0"


def classifier_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return timm.create_model(MODEL).state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "classifier.safetensors"
    save_file(classifier_state(), path)
    return path


def test_perceptual_distance_is_zero_only_for_equal_images(weights: Path) -> None:
    loss = PerceptualLoss(weights).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 32, 32, generator=generator)
    assert loss(images, images) == 0
    near, far = images + 0.02, torch.rand(2, 3, 32, 32, generator=generator)
    near.requires_grad_()
    distance = loss(near, images)
    assert 0 < distance < loss(far, images)
    distance.backward()
    assert near.grad is not None
    assert near.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_weights_under_other_names_are_matched_by_order(weights: Path, tmp_path: Path) -> None:
    renamed = {f"other.{i}": value for i, value in enumerate(classifier_state().values())}
    torch.save(renamed, tmp_path / "classifier.pth")
    ours, theirs = PerceptualLoss(weights).state_dict(), PerceptualLoss(tmp_path / "classifier.pth").state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"odd\.safetensors.*neither names nor shapes"):
        PerceptualLoss(tmp_path / "odd.safetensors")


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert hinge_discriminator(real, fake) == pytest.approx(0.25 + 0.5)
    assert hinge_generator(fake) == pytest.approx(1.0)
    assert PatchDiscriminator(8)(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 4, 4)
