"""Which splits are validated on, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import ranks_world

from mmprime.training.config import ConfigError
from mmprime.training.corpus import load_corpus, validation_splits
from mmprime.training.distributed import World
from mmprime.training.schema import DataConfig

ROOT = Path(__file__).resolve().parents[2]

HAVE = ["train", "test", "val"]


def data(**settings: object) -> DataConfig:
    return DataConfig(path="pictures", **settings)  # type: ignore[arg-type]


def test_every_split_but_the_training_one_unless_named() -> None:
    assert validation_splits(data(), HAVE) == ["test", "val"]
    assert validation_splits(data(train_split="val"), HAVE) == ["test", "train"]
    assert validation_splits(data(validation=["val"]), HAVE) == ["val"]
    assert validation_splits(data(validation=[]), HAVE) == []
    assert validation_splits(data(), ["train"]) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"validation": ["vall"]}, r"data\.validation: pictures has no split 'vall'; it has test, train, val; nearest"),
        ({"train_split": "tran"}, r"data\.train_split: pictures has no split 'tran'; it has .*nearest: train"),
        ({"validation": ["train"]}, r"data\.validation: 'train' is data\.train_split"),
    ],
)  # fmt: skip
def test_splits_that_are_not_there(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validation_splits(data(**settings), HAVE)


def test_a_dataset_without_names_is_validated_on_its_other_splits() -> None:
    found = load_corpus(DataConfig(path=str(ROOT / "assets/emoji_codes"), validate_examples=5), seed=0).validation
    assert {name: len(part) for name, part in found.items()} == {"val_caption": 5, "val_vendor": 5}


@pytest.mark.parametrize("name", ["image_by_class", "fsq"])
def test_a_run_without_validation_says_so_and_ends(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ranks_world.write_shards(tmp_path)
    train, samples = ranks_world.train_config, {"validate_every": 2, "samples_every": 6 * (name == "fsq")}
    monkeypatch.setattr(ranks_world, "train_config", lambda **changes: train(**changes, **samples))
    monkeypatch.setattr(ranks_world, "VALIDATION", [])
    trainer = ranks_world.trainer(name, tmp_path, shards, World())
    why = "data.validation=[]" if name == "fsq" else " has no other split"
    assert f"no validation: {why}" in capsys.readouterr().out
    outcome = trainer.run()
    assert (outcome.step, outcome.metrics) == (6, {})
    assert trainer.checkpoints.steps() == [6]
