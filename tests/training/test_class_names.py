"""Class names on their way from folders of pictures to the model folder and to --label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pipeline_world import tiny_image_tokenizer, write_picture
from tools_world import run

from mmprime.cli import generate
from mmprime.data import encode_dataset, prepare_folder
from mmprime.generation.pipeline import from_pretrained
from mmprime.generation.prompts import class_label
from mmprime.training.schema import DataConfig, DiffusionConfig, ModelConfig, TrainConfig
from mmprime.training.tasks.diffusion import DiffusionTask

NAMES = ["2", "10", "big_cat", "dog"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(NAMES):
        (folder / "raw" / name).mkdir(parents=True)
        write_picture(folder / "raw" / name / "1.png", shade=40 * number)
    prepare_folder(folder / "raw", folder / "images", size=32, split_fraction=0)
    tiny_image_tokenizer().save(folder / "tokenizer", torch.float32)
    encode_dataset(folder / "images", tiny_image_tokenizer(), folder / "codes")
    data = DataConfig(
        path=str(folder / "codes"), image_tokenizer=str(folder / "tokenizer"), labels=True, text_length=0, validation=[]
    )
    config = DiffusionConfig(task="diffusion", data=data, train=TrainConfig(steps=1), model=ModelConfig(preset="nano"))
    DiffusionTask.from_config(config).export(folder / "model")
    return folder / "model"


def test_class_names_are_in_the_model_folder(model: Path) -> None:
    assert json.loads((model / "config.json").read_text())["classes"] == NAMES
    assert from_pretrained(model).card.classes == tuple(NAMES)


@pytest.mark.parametrize(
    ("asked", "said"),
    [("dog", "class 3: dog"), ("Big cat", "class 2: big_cat"), ("10", "class 1: 10"), ("0", "class 0: 2")],
)
def test_a_label_is_a_name_or_a_number(
    model: Path, asked: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    assert run(generate, ["--model", model, "--label", asked, "--num", 1, "--steps", 2, "--out", out]) == 0
    assert capsys.readouterr().out.splitlines()[0] == said
    assert out.is_file()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("dgo", "no class is called 'dgo'; this model has the 4 classes 0 to 3; nearest: dog"),
        ("4", "label 4, the null class, is what is drawn without a label: this model has the 4 classes 0 to 3"),
        ("5", "label 5: this model has the 4 classes 0 to 3"),
        ("-1", "no class is called '-1'"),
    ],
)
def test_other_labels_are_refused(
    model: Path, asked: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(generate, ["--model", model, f"--label={asked}", "--out", tmp_path / "x.png"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_null_class_is_refused_by_number_too(model: Path) -> None:
    with pytest.raises(ValueError, match="null class"):
        from_pretrained(model).generate(label=4)
    assert class_label(2, NAMES, 4) == 2  # a number is no name
    with pytest.raises(ValueError, match="the name of classes 0, 1; give the number"):
        class_label("CAT", ["Cat", "cat"], 2)
