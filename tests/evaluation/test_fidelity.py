"""Metrics of sets of pictures against exact values, what they refuse, and what is kept of a reference."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmprime.evaluation.images import comparison, extractors
from mmprime.evaluation.images.batches import read_batch, read_pictures, write_batch
from mmprime.evaluation.images.comparison import Comparison, Extractors, Rules
from mmprime.evaluation.images.extractors import FeatureExtractor, Features
from mmprime.evaluation.images.fidelity import (
    check_frechet,
    inception_score,
    kernel_distance,
    precision_recall,
    subset_size,
)
from mmprime.evaluation.images.sets import PictureArray


def _noise(count: int, seed: int, shift: int = 0) -> PictureArray:
    images = torch.randint(200, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return PictureArray(images + shift)


def _colours(images: Tensor) -> Features:
    mean = images.float().mean((-2, -1))
    return Features(mean, mean)


def _inception(file: str | None = None, spatial: bool = False) -> FeatureExtractor:
    if not spatial:
        return FeatureExtractor("Inception", 3, "i" * 16, _colours)
    return FeatureExtractor(
        "Inception", 3, "i" * 16, lambda images: Features(*_colours(images)[:2], images[:, :, 0, :2].flatten(1)), 6
    )


@pytest.fixture
def colour_extractors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both extractors give the three mean colours; what they keep goes to a folder of the test."""
    monkeypatch.setattr(extractors, "inception", _inception)
    monkeypatch.setattr(extractors, "effnet", lambda: FeatureExtractor("EffNet-Lite0", 3, "e" * 16, _colours))
    monkeypatch.setenv("MMPRIME_CACHE", str(tmp_path / "cache"))


def test_the_kernel_distance_is_that_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 5, generator=generator), 0.5 + torch.randn(12, 5, generator=generator)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / 5 + 1) ** 3

    def off(k: Tensor) -> float:
        return float(k.sum() - k.diagonal().sum()) / (12 * 11)

    exact = off(kernel(x, x)) + off(kernel(y, y)) - 2 * float(kernel(x, y).mean())
    found = kernel_distance(x, y, 12)
    assert found.value == pytest.approx(exact, rel=1e-9)
    assert found.stderr is None  # a subset is the whole set: nothing varies


def test_the_error_of_the_kernel_distance_is_that_of_repetition() -> None:
    """Many pairs of sets of 60: the deviation of the distance between them is what one pair reports."""
    values, errors = [], []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(60, 4, generator=generator), 0.7 + torch.randn(60, 4, generator=generator)
        found = kernel_distance(x, y, 30)
        values.append(found.value)
        errors.append(found.stderr or 0)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)


def test_subsets_of_the_kernel_distance() -> None:
    assert subset_size((5000, 3000)) == 1000
    assert subset_size((300, 120)) == 60
    assert subset_size((40, 30), asked=30) == 30
    with pytest.raises(ValueError, match="49 pictures are too few for a kernel distance: 50"):
        subset_size((49, 5000))
    with pytest.raises(ValueError, match=r"--kid-subset-size 31: .* smaller set has 30"):
        subset_size((40, 30), asked=31)


def test_the_inception_score_counts_classes() -> None:
    sure = 50 * torch.nn.functional.one_hot(torch.arange(4000) % 4).float()
    score, deviation = inception_score(sure)
    assert score.value == pytest.approx(4, rel=0.01)
    assert score.stderr == pytest.approx(deviation / 3)
    unsure, _ = inception_score(torch.zeros(100, 4))
    assert unsure.value == pytest.approx(1)


def test_precision_and_recall_are_not_exchanged() -> None:
    line = torch.arange(20.0)[:, None]
    precision, recall = precision_recall(line[:5], line)  # the generated lie among the real, which reach further
    assert precision == (1, 0)
    assert recall.value == pytest.approx(8 / 20)  # the ball of 4 reaches to 7
    assert recall.stderr == pytest.approx(math.sqrt(0.4 * 0.6 / 20))


def test_too_few_pictures_make_no_number(colour_extractors: None) -> None:
    check_frechet((1281, 1281), 1280)
    with pytest.raises(ValueError, match=r"1280 pictures are fewer than needed .* --allow-few"):
        check_frechet((1280, 5000), 1280)
    check_frechet((5, 5), 1280, allow_few=True)
    with pytest.raises(ValueError, match="no covariance"):
        check_frechet((1, 5), 3, allow_few=True)
    real = _noise(60, 1)
    for metric, count, words in (("fid", 3, "fewer"), ("prc", 3, "3rd neighbours"), ("is", 99, "Inception Score")):
        with pytest.raises(ValueError, match=words):
            Comparison(Extractors([metric]), real).rows(_noise(count, 0), 0, 0)
    biased = Comparison(Extractors(["fid"]), real, Rules(allow_few=True)).rows(_noise(3, 0), 0, 0)
    assert "biased: few for 3 features" in biased[0].metric
    with pytest.raises(ValueError, match="fid compare with real pictures: give --reference"):
        Comparison(Extractors(["fid", "is"]), None)


def test_rows_carry_honest_names_and_hashes(colour_extractors: None) -> None:
    names = comparison.parse_metrics("fid,kid,prc,is,fd-effnet-lite0,kid-effnet-lite0,prc-effnet-lite0,fid")
    rows = Comparison(Extractors(names), _noise(100, 1)).rows(_noise(100, 0, shift=5), 8, 3, 0.25)
    found = {row.metric.split(" (")[0]: row for row in rows}
    assert list(found) == [
        "FID",
        "KID",
        "precision-Inception",
        "recall-Inception",
        "Inception Score",
        "deviation of the 10 splits of the Inception Score",
        "FD-EffNet-Lite0",
        "KID-EffNet-Lite0",
        "precision-EffNet-Lite0",
        "recall-EffNet-Lite0",
    ]
    assert found["FID"].value == pytest.approx(found["FD-EffNet-Lite0"].value)
    assert found["FID"].stderr is None
    assert found["KID"].stderr
    assert {(row.nfe, row.idle_steps, row.seed, row.num_samples) for row in rows} == {(8, 0.25, 3, 100)}
    same = found["FID"].reference_hash == found["KID"].reference_hash
    assert same
    assert len({row.reference_hash for row in rows}) == 3  # two extractors, and the score has no reference
    assert "100 generated, 100 reference" in rows[0].metric


def test_features_of_a_reference_are_computed_once(tmp_path: Path) -> None:
    calls = []

    def network(images: Tensor) -> Features:
        calls.append(len(images))
        return _colours(images)

    first, second = FeatureExtractor("Net", 3, "weights1", network), FeatureExtractor("Net", 3, "weights2", network)
    found = first.cached_features(_noise(5, 0), batch=4, folder=tmp_path)
    assert calls == [4, 1]
    assert torch.equal(first.cached_features(_noise(5, 0), folder=tmp_path).features, found.features)
    assert len(calls) == 2
    second.cached_features(_noise(5, 0), folder=tmp_path)  # other weights
    first.cached_features(_noise(5, 1), folder=tmp_path)  # other pictures
    first.cached_features(_noise(4, 0), folder=tmp_path)  # another count
    assert len(calls) == 5
    (file,) = tmp_path.glob(f"features-net-weights1-{_noise(5, 0).fingerprint()}-5.safetensors")
    file.write_bytes(b"torn")
    assert torch.equal(first.cached_features(_noise(5, 0), folder=tmp_path).features, found.features)


def test_features_that_are_no_numbers_make_no_number() -> None:
    def broken(images: Tensor) -> Features:
        features = images.float().mean((-2, -1))
        return Features(torch.where(features > 1000, features, features / (features - features[2])))

    with pytest.raises(ValueError, match="Net gave features that are no numbers for 1 of 5 pictures, first number 2"):
        FeatureExtractor("Net", 3, "w", broken).features(_noise(5, 0))


def test_reference_batches(tmp_path: Path, colour_extractors: None) -> None:
    file = tmp_path / "batch.npz"
    images = _noise(60, 0).images.permute(0, 2, 3, 1).numpy()
    np.savez(file, images)
    pictures, statistics = read_batch(file, 8)
    assert torch.equal(read_pictures(file).images, _noise(60, 0).images)  # type: ignore[attr-defined]
    assert statistics == {}
    with pytest.raises(ValueError, match="holds 8 x 8 px, the model draws 16 x 16"):
        read_batch(file, 16)
    np.savez(file, images, mu=np.full(3, 100.0), sigma=np.eye(3))
    pictures, statistics = read_batch(file, 8)
    stored = Comparison(Extractors(["fid"]), pictures, statistics=statistics).rows(_noise(60, 2), 0, 0)[0]
    own = Comparison(Extractors(["fid"]), pictures).rows(_noise(60, 2), 0, 0)[0]
    assert "stored mean and covariance" in stored.metric
    assert stored.value > own.value
    assert stored.reference_hash != own.reference_hash
    np.savez(file, np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="is no batch of pictures"):  # it would have to be unpickled
        read_batch(file, 8)
    for content in (b"", b"PK torn"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is no batch of pictures"):
            read_batch(file, 8)
    np.savez(file, images.astype(np.float32))
    with pytest.raises(ValueError, match="float32"):
        read_batch(file, 8)
    for mu, sigma in ((np.zeros(3), np.eye(2)), (np.array([np.nan]), np.eye(1)), (np.zeros(2, int), np.eye(2))):
        np.savez(file, mu=mu, sigma=sigma)
        with pytest.raises(ValueError, match="are no mean, covariance"):
            read_batch(file)
    np.savez(file, other=np.eye(2))
    with pytest.raises(ValueError, match="neither arr_0 nor mu and sigma"):
        read_batch(file)


def test_a_batch_of_statistics_alone_stands_for_its_pictures(tmp_path: Path, colour_extractors: None) -> None:
    """FID and sFID against stored moments, by the closed form through symmetric square roots."""
    real, made, file = _noise(60, 0), _noise(50, 1, shift=9), tmp_path / "statistics.npz"
    stored: dict[str, np.ndarray] = {}
    expected = []
    for mean, covariance, features in (
        ("mu", "sigma", lambda images: images.float().mean((-2, -1))),
        ("mu_s", "sigma_s", lambda images: images[:, :, 0, :2].flatten(1).float()),
    ):
        x, y = (features(each.images).double().numpy() for each in (real, made))
        stored |= {mean: x.mean(0), covariance: np.cov(x, rowvar=False)}
        values, vectors = np.linalg.eigh(stored[covariance])
        root = vectors * np.sqrt(values) @ vectors.T
        own = np.cov(y, rowvar=False)
        cross = np.sqrt(np.linalg.eigvalsh(root @ own @ root)).sum()
        expected.append(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(stored[covariance] + own) - 2 * cross)
    np.savez(file, **stored)
    pictures, statistics = read_batch(file)
    assert pictures is None
    whole = Comparison(Extractors(["fid", "sfid"]), None, Rules(), statistics).rows(made, 0, 0)
    assert [row.metric.split(" (")[0] for row in whole] == ["FID", "sFID"]
    assert [row.value for row in whole] == pytest.approx(expected, rel=1e-6)
    by_pictures = Comparison(Extractors(["fid", "sfid"]), real).rows(made, 0, 0)
    assert [row.value for row in by_pictures] == pytest.approx(expected, rel=1e-4)  # features in float32
    assert by_pictures[1].reference_hash != whole[1].reference_hash
    with pytest.raises(ValueError, match="kid compare with real pictures"):
        Comparison(Extractors(["fid", "kid"]), None, Rules(), statistics)
    with pytest.raises(ValueError, match="statistics and no pictures"):
        read_pictures(file)


def test_a_written_batch_is_what_other_evaluators_read(tmp_path: Path) -> None:
    pictures = _noise(300, 3)
    write_batch(tmp_path / "samples.npz", pictures)  # in more than one piece
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as stored:
        assert stored.files == ["arr_0"]
        assert stored["arr_0"].dtype == np.uint8
        assert np.array_equal(stored["arr_0"], pictures.images.permute(0, 2, 3, 1).numpy())
    assert read_pictures(tmp_path / "samples.npz").fingerprint() == pictures.fingerprint()


def test_the_inception_score_has_splits_of_5000_in_order() -> None:
    """As ADM's evaluator counts; shuffled, as for a folder sorted by class, the classes of a split are all."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(15_000, 5, generator=generator)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    scores = [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in np.split(p, 3)]
    score, deviation = inception_score(logits, shuffle=False)
    assert (score.value, deviation) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-6)
    assert score.stderr == pytest.approx(deviation / math.sqrt(2))
    by_class = 50 * torch.nn.functional.one_hot(torch.arange(10_000) // 5000).float()
    assert inception_score(by_class, shuffle=False)[0].value == pytest.approx(1)
    assert inception_score(by_class)[0].value == pytest.approx(2, rel=0.01)


def test_precision_and_recall_by_their_definition() -> None:
    generator = np.random.default_rng(0)
    made, real = generator.normal(size=(60, 3)), 0.6 + generator.normal(size=(40, 3))

    def inside(points: np.ndarray, balls: np.ndarray) -> float:
        radii = np.sort(np.linalg.norm(balls[:, None] - balls, axis=-1), 1)[:, 3]
        return float((np.linalg.norm(points[:, None] - balls, axis=-1) <= radii).any(1).mean())

    precision, recall = precision_recall(torch.from_numpy(made), torch.from_numpy(real))
    assert (precision.value, recall.value) == pytest.approx((inside(made, real), inside(real, made)))
    assert 0 < precision.value < 1
    assert 0 < recall.value < 1


ADM = {"FID": (3.9426, 0.01), "sFID": (6.1404, 0.02), "Inception Score": (215.84, 0.2),
       "precision-Inception": (0.8265, 0.002), "recall-Inception": (0.5309, 0.002)}  # fmt: skip


@pytest.mark.slow
def test_the_published_batch_of_adm_has_its_published_numbers() -> None:
    """ADM-G, upsampled, at 256 px (Dhariwal & Nichol, arXiv 2105.05233), by the numbers of their evaluator."""
    folder = Path(os.environ.get("MMPRIME_ADM", "absent"))
    reference = folder / "VIRTUAL_imagenet256_labeled.npz"
    samples = folder / "admnet_guided_upsampled_imagenet256.npz"
    if not (reference.is_file() and samples.is_file() and os.environ.get(extractors.INCEPTION_VARIABLE)):
        pytest.skip(f"MMPRIME_ADM names no folder with {reference.name} and {samples.name}, or no weights are given")
    pictures, statistics = read_batch(reference)
    known = Comparison(Extractors(["fid", "sfid", "is", "prc"]), pictures, Rules(batch=128), statistics)
    rows = {row.metric.split(" (")[0]: row.value for row in known.rows(read_pictures(samples), 0, None)}
    for name, (value, tolerance) in ADM.items():
        assert rows[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.slow
def test_inception_by_a_file_of_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({}, tmp_path / "none.pth")
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        net = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "none.pth"))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    network, blocks = extractors.inception(tmp_path / "weights.pth", spatial=True), list[Tensor]()
    found = network.features(_noise(2, 0))
    net.Mixed_6d.register_forward_hook(lambda _, __, output: blocks.append(output))  # concatenated branches, 1x1 first
    net(_noise(2, 0).images)
    assert found.spatial is not None
    assert found.spatial.shape == (2, network.spatial_width)
    assert found.spatial[1, (4 * 17 + 9) * 7 + 5] == pytest.approx(float(blocks[0][1, 5, 4, 9]), rel=1e-4)
    assert torch.allclose(found.spatial.view(2, 17, 17, 7), blocks[0][:, :7].permute(0, 2, 3, 1), atol=1e-5)
    assert extractors.inception(tmp_path / "weights.pth").features(_noise(2, 0)).spatial is None
    assert found.features.shape == (2, network.width)
    assert found.logits is not None
    assert found.logits.shape == (2, 1008)
    assert torch.allclose(found.features, net(_noise(2, 0).images)[0], atol=1e-5)
    assert network.fingerprint != extractors.effnet().fingerprint
