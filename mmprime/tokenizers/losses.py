"""Losses of an image tokenizer beside pixels: deep features and a patch adversary.

* perceptual: mean squared distance of unit-normalised feature maps of a classifier (after arXiv 1801.03924, without
  learned weights).
* adversarial: hinge losses ``E[relu(1 - D(x))] + E[relu(1 + D(x̂))]`` for D, ``-E[D(x̂)]`` for the tokenizer, D rating
  patches (arXiv 1611.07004, 2012.09841).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


class PerceptualLoss(nn.Module):
    """Distance between two batches of images (B, 3, H, W) in [0, 1] as the classifier ``model`` of timm sees them.

    ``weights``: a .safetensors or torch file of that architecture. Names may follow another implementation: tensors
    are then matched by order and shape.

    Raises:
        ValueError: if the weights do not fit the architecture.
    """

    def __init__(self, weights: str | Path, model: str = "tf_efficientnet_lite0", levels: int = 4) -> None:
        super().__init__()
        self.features = feature_network(weights, model, levels)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scalar; gradients reach ``images`` only."""
        maps = self._maps(images)
        with torch.no_grad():
            wanted = self._maps(targets)
        distances = [(a - b).square().sum(1).mean() for a, b in zip(maps, wanted)]
        return torch.stack(distances).mean()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """The classifier stays in eval mode always."""
        return super().train(False)

    def _maps(self, images: Tensor) -> list[Tensor]:
        return [functional.normalize(m, dim=1) for m in self.features((images - 0.5) / 0.5)]


def feature_network(weights: str | Path, model: str, levels: int) -> nn.Module:
    """The classifier ``model`` of timm, frozen: pictures (B, 3, H, W) in [-1, 1] -> its first ``levels`` feature maps.

    Raises ValueError if the weights do not fit the architecture.
    """
    import timm

    network: nn.Module = timm.create_model(model, features_only=True, out_indices=tuple(range(levels)))
    _load_matched(network, _read_weights(Path(weights)), f"{weights} for {model}")
    return network.requires_grad_(False).eval()


class PatchDiscriminator(nn.Sequential):
    """(B, 3, H, W) -> (B, 1, H/8, W/8): how real each patch looks."""

    def __init__(self, width: int = 48) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for scale in (1, 2):
            layers += [
                nn.Conv2d(width * scale, 2 * width * scale, 4, stride=2, padding=1),
                nn.GroupNorm(8, 2 * width * scale),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Scalar loss of the discriminator on its scores of real and reconstructed patches."""
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Scalar loss of the tokenizer on the discriminator's scores of its reconstructions."""
    return -fake.mean()


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def _load_matched(model: nn.Module, stored: dict[str, Tensor], what: str) -> None:
    """Load by name if all names are there, else by order and shape (a features-only model lacks the last tensors)."""
    expected = model.state_dict()
    if expected.keys() <= stored.keys():
        model.load_state_dict({name: stored[name] for name in expected})
        return
    odd = [name for (name, mine), theirs in zip(expected.items(), stored.values()) if mine.shape != theirs.shape]
    if odd or len(stored) < len(expected):
        raise ValueError(f"{what}: neither names nor shapes fit, first at {odd[0] if odd else 'the end'}")
    model.load_state_dict(dict(zip(expected, stored.values())))
