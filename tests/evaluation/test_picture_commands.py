"""The commands samples, imagenet, tokenizer and captions on untrained models, with features that are colours only."""

from __future__ import annotations

import argparse
import io
import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_world import CAPTIONS, tiny_image_tokenizer, trained_looking, write_text_image_model
from torch import Tensor

from mmprime.cli.evaluations import captions, imagenet, samples, scenes, tokenizer
from mmprime.data import ImageDataset
from mmprime.data.building import build_dataset
from mmprime.data.phrasings import evaluation_phrasings
from mmprime.data.shards import Entry, Unit, canonical_json
from mmprime.data.sources.scenes import Scene, choose_scenes
from mmprime.engine import Canvas, Codec, Span, sampler_of
from mmprime.evaluation import Measure, require_same
from mmprime.evaluation.datasets import choose_rows, fitting, load_scored
from mmprime.evaluation.images import effnet, extractors
from mmprime.evaluation.images.captions import choose_captions
from mmprime.evaluation.images.extractors import FeatureExtractor, Features
from mmprime.evaluation.images.reconstruction import psnr, reconstruct, ssim
from mmprime.evaluation.images.sampling import choose_prompts
from mmprime.evaluation.images.scenes import SceneReader, summary
from mmprime.generation.defaults import write_sampling
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.sampling import SamplingConfig
from mmprime.models import DiTConfig, PrimeDiT, save_model
from mmprime.tokenizers import PixelTokenizer, load_image_tokenizer

NAMES = ("red apple", "green apple", "blue car", "car", "apple")


def _colours(images: Tensor) -> Features:
    mean = images.float().mean((-2, -1))
    return Features(mean, mean)


@pytest.fixture(autouse=True)
def colour_extractors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extractors, "effnet", lambda: FeatureExtractor("EffNet-Lite0", 3, "e" * 16, _colours))
    monkeypatch.setenv("MMPRIME_CACHE", str(tmp_path / "cache"))
    for name in ("MMPRIME_INCEPTION", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def _noise(seed: int, size: int = 32) -> Image.Image:
    pixels = torch.randint(256, (size, size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _folder(folder: Path, count: int, size: int = 32, first: int = 0) -> Path:
    folder.mkdir()
    for number in range(count):
        _noise(first + number, size).save(folder / f"{number}.png")
    return folder


def _dataset(folder: Path, size: int = 32, names: tuple[str, ...] = NAMES) -> Path:
    """Vendors a, b (train) and c (val_vendor), each with a drawing of every caption."""

    def make(vendor: str, split: str, seed: int) -> list[tuple[str, Entry]]:
        made = []
        for number, caption in enumerate(names):
            buffer = io.BytesIO()
            _noise(seed + number, size).save(buffer, "PNG")
            about = {"caption": caption, "tags": [], "vendor": vendor, "split": split}
            made.append((split, Entry(f"{vendor}_{number}", {"png": buffer.getvalue(), "json": canonical_json(about)})))
        return made

    plan = [("a", "train", 0), ("b", "train", 100), ("c", "val_vendor", 200)]
    units = [
        Unit(vendor, f"{vendor}{size}", lambda own=(vendor, split, seed): make(*own)) for vendor, split, seed in plan
    ]
    build_dataset(folder, "images", units, {"name": "tiny", "image_size": size}, False)
    return folder


def _class_model(folder: Path) -> Path:
    """An image model of three classes."""
    image = tiny_image_tokenizer()
    folder.mkdir(exist_ok=True)
    image.save(folder / "image_tokenizer", torch.float32)
    canvas = Canvas([Span("image", image.grid, Codec.base(16, 2))])
    model = trained_looking(PrimeDiT(canvas, DiTConfig(preset="nano", depth=1, num_classes=3)))
    save_model(folder / "model", model, canvas, {"tokenizers": {"image": "../image_tokenizer"}, "law": "nested"})
    return folder / "model"


def _run(module: Any, *arguments: object) -> list[Measure]:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    found: list[Measure] = module.run(parser.parse_args([str(each) for each in arguments]))
    return found


def test_two_folders(tmp_path: Path) -> None:
    one, two = _folder(tmp_path / "one", 60), _folder(tmp_path / "two", 50, first=1000)
    asked = "fd-effnet-lite0,kid-effnet-lite0,prc-effnet-lite0"
    rows = _run(samples, "--generated", one, "--reference", two, "--metric", asked)
    assert [row.metric.split(" ")[0] for row in rows] == [
        "FD-EffNet-Lite0",
        "KID-EffNet-Lite0",
        "precision-EffNet-Lite0",
        "recall-EffNet-Lite0",
    ]
    assert all(row.num_samples == 60 and row.model_hash and row.reference_hash for row in rows)
    other = _run(
        samples, "--generated", _folder(tmp_path / "three", 60, first=500), "--reference", two, "--metric", asked
    )
    assert rows[0].model_hash != other[0].model_hash
    require_same([rows[0], other[0]], "data_hash", "reference_hash")  # two makers of pictures, one reference
    with pytest.raises(ValueError, match="either --generated DIR"):
        _run(samples, "--metric", asked)
    with pytest.raises(ValueError, match="--inception FILE"):
        _run(samples, "--generated", one, "--reference", two)


def test_batches_stand_for_folders(tmp_path: Path) -> None:
    one, two = _folder(tmp_path / "one", 60), _folder(tmp_path / "two", 50, first=1000)
    asked = ("--metric", "kid-effnet-lite0")
    rows = _run(samples, "--generated", one, "--reference", two, "--npz", tmp_path / "one.npz", *asked)
    assert not _run(samples, "--generated", two, "--npz", tmp_path / "two.npz", "--metric", "none")
    again = _run(samples, "--generated", tmp_path / "one.npz", "--reference", tmp_path / "two.npz", *asked)
    assert again[0].value == rows[0].value
    model = write_text_image_model(tmp_path)
    drawn = ("--model", model, "--data", _dataset(tmp_path / "data"), "--num", 3, "--npz", tmp_path / "drawn.npz")
    _run(samples, *drawn, "--steps", 2, "--metric", "none")
    assert np.load(tmp_path / "drawn.npz")["arr_0"].shape == (3, 32, 32, 3)
    with pytest.raises(ValueError, match=r"drawn.npz holds one set of pictures; give one number of --steps"):
        _run(samples, *drawn, "--steps", "2,4", "--metric", "none")


def test_a_model_against_a_split_at_several_steps(tmp_path: Path) -> None:
    model, data = write_text_image_model(tmp_path), _dataset(tmp_path / "data")
    common = ("--model", model, "--data", data, "--num", 12, "--metric", "fd-effnet-lite0")
    rows = _run(samples, *common, "--steps", "2,4", "--guidance", 1)
    assert [row.nfe for row in rows] == [3, 7]  # nothing guides the first step of the linear schedule
    assert {row.idle_steps for row in rows} == {0}
    assert {(row.guidance, row.sampler) for row in rows} == {("1", "nested")}
    assert len({row.reference_hash for row in rows}) == 1
    assert rows[0].value != rows[1].value
    again = _run(samples, *common, "--steps", "4", "--guidance", 1)
    assert again[0].value == pytest.approx(rows[1].value, rel=1e-9)
    naive = _run(samples, *common, "--steps", "64", "--guidance", 0, "--sampler", "ancestral")[0]
    assert naive.idle_steps == pytest.approx(1 - naive.nfe / 64)
    assert naive.idle_steps > 0.3  # at most 32 sub-tokens come in 64 steps
    with pytest.raises(ValueError, match="2 pictures are fewer"):
        _run(samples, "--model", model, "--data", data, "--num", 2, "--metric", "fd-effnet-lite0")


def test_captions_longer_than_the_span_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training cuts them; nothing is drawn for, or said about, a caption that was cut."""
    long = "a red apple on a blue car"  # 25 bytes for a span of 16
    model, data = write_text_image_model(tmp_path), _dataset(tmp_path / "data", names=(long, *CAPTIONS))
    pipe = from_pretrained(model)
    captions = [long, "red apple", long, "blue car"]
    assert fitting(pipe, captions) == [1, 3]
    assert f"left out: 1 captions of more than 15 tokens, such as {long!r}" in capsys.readouterr().err
    assert len(load_scored(pipe, data, "train", 1000).y) == 2 * len(CAPTIONS)  # of two vendors
    prompts = choose_prompts(pipe, captions, 5, 0)
    assert prompts is not None
    assert set(prompts) == {"red apple", "blue car"}
    assert long not in choose_captions([long, *CAPTIONS], 3, 0, CAPTIONS)
    with pytest.raises(ValueError, match="asked for 4 captions, the data has 3"):
        choose_captions([long, *CAPTIONS], 4, 0, CAPTIONS)


def test_the_same_pictures_from_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, real = _class_model(tmp_path), _folder(tmp_path / "real", 20, size=40)
    common = ["--model", model, "--num", 10, "--steps", 3, "--metric", "fd-effnet-lite0", "--reference", real]
    alone = _run(imagenet, *common, "--out", tmp_path / "alone", "--batch", 4)
    assert (alone[0].nfe, alone[0].idle_steps, alone[0].num_samples) == (5, 0, 10)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        _run(imagenet, *common, "--out", tmp_path / "both")
    assert end.value.code == 0
    assert sorted(file.name for file in (tmp_path / "both").glob("*.png")) == [f"{i:06d}.png" for i in (1, 3, 5, 7, 9)]
    monkeypatch.setenv("RANK", "0")
    both = _run(imagenet, *common, "--out", tmp_path / "both", "--batch", 3)
    for number in range(10):
        files = [tmp_path / name / f"{number:06d}.png" for name in ("alone", "both")]
        assert files[0].read_bytes() == files[1].read_bytes()
        with Image.open(files[0]) as picture:
            assert picture.info == {"label": str(number % 3), "nfe": "5", "idle_steps": "0"}
    assert both == alone
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2 of WORLD_SIZE=2"):
        _run(imagenet, *common, "--out", tmp_path / "both")


def test_what_is_drawn_is_not_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, real, out = _class_model(tmp_path), _folder(tmp_path / "real", 20), tmp_path / "out"
    common = ["--model", model, "--steps", 2, "--metric", "fd-effnet-lite0", "--reference", real, "--out", out]
    first = _run(imagenet, *common, "--num", 6)
    (out / "000003.png").unlink()
    capsys.readouterr()
    assert _run(imagenet, *common, "--num", 6) == first
    assert "drew 1 pictures" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"drawn in another way \(seed 0 there, 5 now\)"):
        _run(imagenet, *common, "--num", 6, "--seed", 5)
    _noise(0).save(out / "000002.png")
    with pytest.raises(ValueError, match=r"000002\.png does not say its forward passes"):
        _run(imagenet, *common, "--num", 6)
    (out / "drawn.json").unlink()
    with pytest.raises(ValueError, match=r"holds pictures and no drawn\.json"):
        _run(imagenet, *common, "--num", 6)
    with pytest.raises(ValueError, match="3 pictures are fewer"):  # said before anything is drawn
        _run(imagenet, *common[:-2], "--out", tmp_path / "new", "--num", 3)
    assert not (tmp_path / "new").exists()
    few = tmp_path / "few"
    few.mkdir()
    for number in range(4):
        _noise(number).save(few / f"{number:06d}.png")
    with pytest.raises(ValueError, match="2 of 6 pictures are missing"):
        imagenet._await(few, 6, patience=-1)


def test_a_model_is_measured_as_its_folder_says_but_for_what_is_given(tmp_path: Path) -> None:
    model, data, real = write_text_image_model(tmp_path), _dataset(tmp_path / "data"), _folder(tmp_path / "real", 20)
    classes = _class_model(tmp_path / "classes")
    how = SamplingConfig(sampler_of("p2", {"eta": 0.5}, 3), guidance=2.0)
    write_sampling(model, {"image": how})
    write_sampling(classes, {"image": how})
    fd = ("--metric", "fd-effnet-lite0")
    for command, rest in (
        (samples, ("--model", model, "--data", data, "--num", 6, *fd)),
        (captions, ("--model", model, "--data", data, "--num", 4)),
        (imagenet, ("--model", classes, "--reference", real, "--num", 6, *fd)),
    ):
        for number, (given, wanted) in enumerate(
            (
                ((), ("p2 eta=0.5", "2", 5)),
                (("--steps", 2, "--guidance", 0), ("p2 eta=0.5", "0", 2)),
                (("--sampler", "token_synchronous", "--guidance-schedule", "constant"),
                 ("token_synchronous", "2 constant", 6)),
            )
        ):  # fmt: skip
            out = ("--out", tmp_path / f"out{number}") if command is imagenet else ()
            row = _run(command, *rest, *given, *out)[0]
            assert (row.sampler, row.guidance, row.nfe) == wanted, command
    with pytest.raises(ValueError, match=r"drawn in another way \(steps 3 there, 2 now"):
        _run(imagenet, *rest, "--steps", 2, "--out", tmp_path / "out0")


def test_captioned_models_have_no_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no classes"):
        _run(
            imagenet,
            "--model",
            write_text_image_model(tmp_path),
            "--out",
            tmp_path / "out",
            "--metric",
            "kid-effnet-lite0",
        )


def test_psnr_meets_its_formula() -> None:
    image = torch.full((2, 3, 4, 4), 0.5)
    shifted = image + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(image, shifted).tolist() == pytest.approx([20, 40], rel=1e-4)
    assert psnr(image, image).tolist() == [80, 80]


def test_ssim_meets_its_formula() -> None:
    x, z = torch.rand(2, 1, 3, 13, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = [math.exp(-(((i - 5) ** 2) + (j - 5) ** 2) / (2 * 1.5**2)) for i in range(11) for j in range(11)]
    kernel = torch.tensor(weight, dtype=torch.float64).view(11, 11)
    kernel /= kernel.sum()
    values = []
    for channel, top, left in itertools.product(range(3), range(3), range(2)):
        a, b = (image[0, channel, top : top + 11, left : left + 11] for image in (x, z))
        mean_a, mean_b = (kernel * a).sum(), (kernel * b).sum()
        both = (kernel * (a - mean_a) * (b - mean_b)).sum()
        each = (kernel * ((a - mean_a) ** 2 + (b - mean_b) ** 2)).sum()
        light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        values.append(float(light * (2 * both + 9e-4) / (each + 9e-4)))
    assert float(ssim(x, z)) == pytest.approx(sum(values) / len(values))
    assert ssim(x, x).tolist() == pytest.approx([1])
    assert ssim(x[..., :4, :6], x[..., :4, :6]).tolist() == pytest.approx([1])  # smaller than a window


def test_a_tokenizer_of_digits(tmp_path: Path) -> None:
    data = _dataset(tmp_path / "data")
    images = ImageDataset.load(data, "val_vendor").images
    PixelTokenizer(images.shape[-1], 3, "nibbles").save(tmp_path / "tokenizer")
    measured = _run(tokenizer, "--tokenizer", tmp_path / "tokenizer", "--data", data, "--metric", "none")
    rows = {row.metric.removeprefix("val_vendor: "): row.value for row in measured}
    assert (rows["PSNR"], rows["SSIM"]) == (80, pytest.approx(1))
    assert [name for name in rows if "digit " in name] == [f"perplexity of digit {level}" for level in range(1, 7)]
    assert all(1 <= rows[f"perplexity of digit {level}"] <= 16 for level in range(1, 7))


def test_a_tokenizer(tmp_path: Path) -> None:
    tiny_image_tokenizer().save(tmp_path / "tokenizer", torch.float32)
    data = _dataset(tmp_path / "data")
    rows = _run(tokenizer, "--tokenizer", tmp_path / "tokenizer", "--data", data, "--metric", "fd-effnet-lite0")
    names = [row.metric.removeprefix("val_vendor: ").split(" (")[0] for row in rows]
    assert names == ["PSNR", "SSIM", "codes used", "code perplexity", "encode and decode", "rFD-EffNet-Lite0"]
    images = ImageDataset.load(data, "val_vendor").images
    found = reconstruct(tiny_image_tokenizer(), images, batch=2)
    error = (images.double() / 255 - found.images.double() / 255).square().mean((1, 2, 3))
    assert rows[0].value == pytest.approx(float((-10 * error.log10()).mean()), abs=0.05)  # but for rounding to 8 bits
    assert rows[0].stderr == pytest.approx(float(found.psnr.std()) / 5**0.5)
    assert -1 <= rows[1].value < 1
    assert 1 / 16 <= rows[2].value <= 1
    assert 1 <= rows[3].value <= 16
    with pytest.raises(ValueError, match="takes 32 x 32"):
        reconstruct(tiny_image_tokenizer(), images[..., :16])
    with pytest.raises(ValueError, match="--metric kid is not one of a tokenizer"):
        _run(tokenizer, "--tokenizer", tmp_path / "tokenizer", "--data", data, "--metric", "kid")


def test_a_tokenizer_that_keeps_captions_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _dataset(tmp_path / "data")
    PixelTokenizer(32, 3, "nibbles").save(tmp_path / "exact")
    tiny_image_tokenizer().save(tmp_path / "tiny", torch.float32)
    monkeypatch.setattr(effnet, "weights_file", lambda: tmp_path)
    wanted = {}
    real = ImageDataset.load(data)
    for name in ("exact", "tiny"):
        rows = _run(tokenizer, "--tokenizer", tmp_path / name, "--data", data, "--split", "train", "--limit", 6)
        assert "6 pictures are too few for a kernel distance" in capsys.readouterr().err
        shares = {row.metric: row.value for row in rows if row.unit == "share"}
        assert all(row.num_samples == 6 for row in rows)
        chosen = choose_rows(10, 6, 0)
        made = reconstruct(load_image_tokenizer(tmp_path / name), real.images[chosen]).images
        cosine = [_cosines(picture, real.images) for picture in made]
        free = [max(range(15), key=line.__getitem__) for line in cosine]
        others = [
            max((j for j in range(15) if j // 5 != i // 5), key=line.__getitem__) for i, line in zip(chosen, cosine)
        ]
        wanted[name] = [sum(j % 5 == i % 5 for i, j in zip(chosen, found)) / 6 for found in (free, others)]
        kept = [
            shares[f"train: caption kept, {how}"] for how in ("own original in the gallery", "against other vendors")
        ]
        assert kept == pytest.approx(wanted[name])
        assert shares["train: ceiling: the originals, against other vendors"] == pytest.approx(wanted["exact"][1])
    assert wanted["exact"][0] == 1 > wanted["tiny"][0]
    monkeypatch.setattr(effnet, "weights_file", _absent)
    rows = _run(tokenizer, "--tokenizer", tmp_path / "tiny", "--data", data)
    assert not any(row.unit in ("share", "squared MMD") for row in rows)
    assert "warning: not installed; without it there are no kid-effnet-lite0 and captions" in capsys.readouterr().err


def _absent() -> Path:
    raise ValueError("not installed")


def _cosines(picture: Tensor, gallery: Tensor) -> list[float]:
    colours = _colours(gallery).features.double()
    own = _colours(picture[None]).features.double()[0]
    return [float(own @ each / own.norm() / each.norm()) for each in colours]


def test_what_natural_phrasing_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = write_text_image_model(tmp_path), _dataset(tmp_path / "data")
    asked = []
    plain = Pipeline.generate
    monkeypatch.setattr(Pipeline, "generate", lambda self, *given: (asked.append(given), plain(self, *given))[1])
    given = ("--model", model, "--data", data, "--num", 4, "--steps", 2, "--phrasing", "natural")
    rows = {row.metric: row for row in _run(captions, *given)}
    (bare, _, config), (natural, _, same) = asked
    assert config.seed == same.seed, "paired"
    assert all(text in {*evaluation_phrasings(caption), caption} for caption, text in zip(bare, natural))
    gallery = ImageDataset.load(data)
    hits = []
    for prompts in (bare, natural):
        drawn = (plain(from_pretrained(model), prompts, 1, config).images * 255).round().byte()
        nearest = [max(range(15), key=_cosines(picture, gallery.images).__getitem__) for picture in drawn]
        hits.append([gallery.captions[j] == caption for j, caption in zip(nearest, bare)])
    lost = torch.tensor(hits[0]).double() - torch.tensor(hits[1]).double()
    assert rows["caption accuracy, generated"].value == sum(hits[0]) / 4
    assert rows["caption accuracy, generated, natural phrasing"].value == sum(hits[1]) / 4
    row = rows["lost by natural phrasing"]
    assert (row.value, row.stderr) == (
        pytest.approx(float(lost.mean())),
        pytest.approx(float(lost.std(correction=0)) / 2),
    )
    with pytest.raises(ValueError, match="--phrasing natural compares by the nearest drawing"):
        _run(captions, *given, "--by", "alignment")


def test_scenes_are_read_by_their_windows(tmp_path: Path) -> None:
    real = ImageDataset.load(_dataset(tmp_path / "data"))
    colours = torch.randint(40, 215, (5, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    real.images = colours.repeat(3, 1, 32, 32).byte() + torch.arange(3).repeat_interleave(5)[:, None, None, None].byte()
    reader = SceneReader(extractors.effnet(), real)
    scenes = choose_scenes(NAMES, 40, 3)
    images, vendors = reader.real_scenes(scenes, NAMES, 0)
    assert set(vendors) == {"a", "b", "c"}
    assert reader.read(images, scenes, NAMES, vendors) == [(True, True)] * 40
    turned = [Scene(scene.second, scene.first, scene.relation) for scene in scenes]
    assert reader.read(images, turned, NAMES) == [(False, False)] * 40
    odd = [Scene(scene.first, scene.second, "left of") for scene in scenes]
    read = reader.read(images, odd, NAMES)
    wanted = [scene.relation == "left of" for scene in scenes]
    assert [first and second for first, second in read] == wanted
    (_, both), (_, single) = summary(read)
    assert (both.value, both.count, single.count) == (sum(wanted) / 40, 40, 80)
    assert single.value == sum(first + second for first, second in read) / 80
    bare = real.select([0, 6])
    images, vendors = SceneReader(extractors.effnet(), bare).real_scenes([Scene(0, 1, "above")], NAMES, 0)
    assert vendors == [""], "no vendor draws both"
    assert (images == 255).all()


def test_scenes_of_a_model(tmp_path: Path) -> None:
    model, data = write_text_image_model(tmp_path), _dataset(tmp_path / "data", names=("ox", "hen", "cow"))
    rows = _run(scenes, "--model", model, "--data", data, "--num", 3, "--steps", 2)
    assert [row.metric.split(", ")[0] for row in rows] == ["both objects in relation", "an object in its window"] * 3
    assert [row.num_samples for row in rows] == [3, 6] * 3
    assert (rows[0].nfe, rows[0].metric) == (3, "both objects in relation, generated")
    assert all(row.reference_hash for row in rows)
    long = _dataset(tmp_path / "long")
    with pytest.raises(ValueError, match="the model's text span holds 1 of 12 scenes; --num 3 is too many"):
        _run(scenes, "--model", model, "--data", long, "--num", 3, "--steps", 2)


def test_captions_by_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmprime.evaluation.images import alignment

    def pooled(images: Tensor) -> Features:
        return Features(torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1))

    monkeypatch.setattr(extractors, "effnet", lambda: FeatureExtractor("pooled", 12, "p" * 16, pooled))
    monkeypatch.setattr(alignment, "fit", partial(alignment.fit, steps=5))
    plain = alignment.sentences_of
    monkeypatch.setattr(alignment, "sentences_of", lambda captions: plain(captions, "bag of words"))
    model, data = write_text_image_model(tmp_path), _dataset(tmp_path / "data")
    rows = _run(captions, "--model", model, "--data", data, "--num", 4, "--steps", 2, "--by", "alignment")
    assert rows[0].metric.endswith("bag of words among 5 captions, generated")
    assert (rows[0].num_samples, rows[0].nfe) == (4, 3)
    assert rows[1].metric.endswith("real drawings of c")
    assert (rows[1].num_samples, rows[2].value) == (5, 1 / 5)
    assert all(row.reference_hash for row in rows)
    nearest = _run(captions, "--model", model, "--data", data, "--num", 4, "--steps", 2)
    assert [row.metric for row in nearest] == [
        "caption accuracy, generated",
        "ceiling: a vendor's drawing among the others'",
        "chance",
    ]
    assert (nearest[0].nfe, nearest[2].nfe) == (3, 0)
    assert (nearest[0].num_samples, nearest[1].num_samples) == (4, 5)  # the ceiling is that of all captions
