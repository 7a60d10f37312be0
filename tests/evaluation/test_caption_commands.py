"""The commands captions and scenes on untrained models, with features that are colours only."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from picture_world import NAMES, cosines, noise_dataset, run_command
from pipeline_world import CAPTIONS, write_text_image_model
from torch import Tensor

from mmprime.cli.evaluations import captions, scenes
from mmprime.data import ImageDataset
from mmprime.data.phrasings import evaluation_phrasings
from mmprime.data.sources.scenes import Scene, choose_scenes
from mmprime.evaluation.datasets import fitting, load_scored
from mmprime.evaluation.images import extractors
from mmprime.evaluation.images.captions import choose_captions
from mmprime.evaluation.images.extractors import FeatureExtractor, Features
from mmprime.evaluation.images.sampling import choose_prompts
from mmprime.evaluation.images.scenes import SceneReader, summary
from mmprime.generation.pipeline import Pipeline, from_pretrained

pytestmark = pytest.mark.usefixtures("colour_extractors")


def test_captions_longer_than_the_span_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training cuts them; nothing is drawn for, or said about, a caption that was cut."""
    long = "a red apple on a blue car"  # 25 bytes for a span of 16
    model, data = write_text_image_model(tmp_path), noise_dataset(tmp_path / "data", names=(long, *CAPTIONS))
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


def test_what_natural_phrasing_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = write_text_image_model(tmp_path), noise_dataset(tmp_path / "data")
    asked = []
    plain = Pipeline.generate
    monkeypatch.setattr(Pipeline, "generate", lambda self, *given: (asked.append(given), plain(self, *given))[1])
    given = ("--model", model, "--data", data, "--num", 4, "--steps", 2, "--phrasing", "natural")
    rows = {row.metric: row for row in run_command(captions, *given)}
    (bare, _, config), (natural, _, same) = asked
    assert config.seed == same.seed, "paired"
    assert all(text in {*evaluation_phrasings(caption), caption} for caption, text in zip(bare, natural))
    gallery = ImageDataset.load(data)
    hits = []
    for prompts in (bare, natural):
        drawn = (plain(from_pretrained(model), prompts, 1, config).images * 255).round().byte()
        nearest = [max(range(15), key=cosines(picture, gallery.images).__getitem__) for picture in drawn]
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
        run_command(captions, *given, "--by", "alignment")


def test_captions_by_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmprime.evaluation.images import alignment

    def pooled(images: Tensor) -> Features:
        return Features(torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1))

    monkeypatch.setattr(extractors, "effnet", lambda: FeatureExtractor("pooled", 12, "p" * 16, pooled))
    monkeypatch.setattr(alignment, "fit", partial(alignment.fit, steps=5))
    plain = alignment.sentences_of
    monkeypatch.setattr(alignment, "sentences_of", lambda captions: plain(captions, "bag of words"))
    model, data = write_text_image_model(tmp_path), noise_dataset(tmp_path / "data")
    rows = run_command(captions, "--model", model, "--data", data, "--num", 4, "--steps", 2, "--by", "alignment")
    assert rows[0].metric.endswith("bag of words among 5 captions, generated")
    assert (rows[0].num_samples, rows[0].nfe) == (4, 3)
    assert rows[1].metric.endswith("real drawings of c")
    assert (rows[1].num_samples, rows[2].value) == (5, 1 / 5)
    assert all(row.reference_hash for row in rows)
    nearest = run_command(captions, "--model", model, "--data", data, "--num", 4, "--steps", 2)
    assert [row.metric for row in nearest] == [
        "caption accuracy, generated",
        "ceiling: a vendor's drawing among the others'",
        "chance",
    ]
    assert (nearest[0].nfe, nearest[2].nfe) == (3, 0)
    assert (nearest[0].num_samples, nearest[1].num_samples) == (4, 5)  # the ceiling is that of all captions


def test_scenes_are_read_by_their_windows(tmp_path: Path) -> None:
    real = ImageDataset.load(noise_dataset(tmp_path / "data"))
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
    model, data = write_text_image_model(tmp_path), noise_dataset(tmp_path / "data", names=("ox", "hen", "cow"))
    rows = run_command(scenes, "--model", model, "--data", data, "--num", 3, "--steps", 2)
    assert [row.metric.split(", ")[0] for row in rows] == ["both objects in relation", "an object in its window"] * 3
    assert [row.num_samples for row in rows] == [3, 6] * 3
    assert (rows[0].nfe, rows[0].metric) == (3, "both objects in relation, generated")
    assert all(row.reference_hash for row in rows)
    long = noise_dataset(tmp_path / "long")
    with pytest.raises(ValueError, match="the model's text span holds 1 of 12 scenes; --num 3 is too many"):
        run_command(scenes, "--model", model, "--data", long, "--num", 3, "--steps", 2)
