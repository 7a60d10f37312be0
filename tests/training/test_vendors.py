"""Who drew an image as the class: labels of the examples, of what is scored, and of what is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmprime.data import CodeDataset, read_index
from mmprime.data.codes import vendor_labels
from mmprime.evaluation.datasets import load_scored
from mmprime.generation.pipeline import from_pretrained
from mmprime.generation.sampling import SamplingConfig
from mmprime.training.config import ConfigError
from mmprime.training.corpus import class_names
from mmprime.training.schema import DataConfig, DiffusionConfig, ModelConfig, TrainConfig
from mmprime.training.tasks.diffusion import DiffusionTask

CODES = "assets/emoji_codes"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vendors")
    data = DataConfig(
        path=CODES, image_tokenizer="assets/models/emoji_tokenizer", text_tokenizer="assets/tokenizers/caption_bpe",
        text_length=16, labels="vendors", validation=["val_vendor", "val_caption"], validate_examples=8,
    )  # fmt: skip
    net = ModelConfig(preset="nano", conditioning="added")
    config = DiffusionConfig(task="diffusion", data=data, train=TrainConfig(steps=1), model=net)
    task = DiffusionTask.from_config(config)
    held_out, of_caption = task.validation["val_vendor"].labels, task.validation["val_caption"].labels
    assert held_out is not None
    assert of_caption is not None
    assert set(held_out.tolist()) == {7}, "a vendor that is not trained on is the null class"
    assert set(of_caption.tolist()) < set(range(7))
    with torch.no_grad():  # from zero no label would be seen
        for head in task.model.heads.values():
            torch.nn.init.normal_(head.linear.weight, std=0.5)
        task.model.conditioning.label.weight.normal_(std=4.0)
    task.export(folder / "model")
    return folder / "model"


def test_labels_are_the_places_of_the_vendors() -> None:
    classes = class_names(DataConfig(path=CODES, labels="vendors"), read_index(CODES, "codes"))
    assert classes[0] == "emojione"
    assert classes == sorted(classes)
    assert "fxemoji" not in classes
    dataset = CodeDataset.load(CODES, "val_caption")
    labels = vendor_labels(dataset.vendors, classes)
    assert [classes[label] for label in labels.tolist()] == dataset.vendors


def test_an_index_without_vendors_is_refused() -> None:
    index = read_index(CODES, "codes")
    bare = index | {"shards": [{k: v for k, v in entry.items() if k != "vendor"} for entry in index["shards"]]}
    with pytest.raises(ConfigError, match="does not say who drew its images"):
        class_names(DataConfig(path=CODES, labels="vendors"), bare)


def test_each_picture_is_of_a_vendor_by_its_seed_unless_one_is_named(model: Path) -> None:
    pipe = from_pretrained(model)
    assert pipe.card.labels == "vendors"
    assert "noto" in pipe.card.classes
    config = SamplingConfig(steps=1, seed=3, temperature=0.0)
    drawn = pipe.generate("red apple", 12, config).codes
    named = {name: pipe.generate("red apple", 12, config, label=name).codes for name in pipe.card.classes}
    of = [[name for name, codes in named.items() if torch.equal(codes[row], drawn[row])] for row in range(12)]
    assert all(len(names) >= 1 for names in of)
    assert len({name for names in of for name in names}) > 3
    pipe.card = replace(pipe.card, labels="")
    assert not torch.equal(pipe.generate("red apple", 12, config).codes, drawn)


def test_what_is_scored_has_its_vendor(model: Path) -> None:
    pipe = from_pretrained(model)
    rows = load_scored(pipe, CODES, "val_vendor", 4, 0)
    assert rows.cond is not None
    assert rows.cond["label"].tolist() == [7] * 4
