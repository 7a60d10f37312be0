"""Training on several text datasets, held-out text being that of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmprime.data import prepare_text
from mmprime.generation.model_folder import describe_all_data
from mmprime.training.config import ConfigError, load_config
from mmprime.training.corpus import Corpus, load_corpus
from mmprime.training.schema import DataConfig

BPE = str(Path(__file__).resolve().parents[2] / "assets/tokenizers/sotu_bpe512")


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for name, word in (("one", "harbour"), ("two", "weather")):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"The {word} was quiet, {n} times." for n in range(10)))
        prepare_text([tmp_path / f"{name}.txt"], tmp_path / name, 0.2, "paragraph", f"licence {name}")
    return [str(tmp_path / "one"), str(tmp_path / "two")]


def corpus(path: str, **settings: Any) -> Corpus:
    return load_corpus(DataConfig("text", path, text_tokenizer=BPE, text_length=8, **settings), seed=0)


def texts(loaded: Corpus, rows: Any) -> str:
    assert loaded.text_tokenizer is not None
    return "".join(loaded.text_tokenizer.decode(row) for row in rows.codes["text"].tolist())


def test_training_text_is_of_all_and_held_out_text_of_the_first(folders: list[str]) -> None:
    one, two = folders
    both, alone, other = corpus(one, also=[two]), corpus(one), corpus(two)
    assert 0 <= len(both.train) - len(alone.train) - len(other.train) <= 1
    assert {"harbour", "weather"} <= set(texts(both, both.train).split())
    assert "weather" not in texts(both, both.validation["val"])
    assert both.fingerprint == f"{alone.fingerprint}+{other.fingerprint}"


def test_the_card_names_all_of_them(folders: list[str]) -> None:
    known = describe_all_data(Path(folders[0]), [Path(folders[1])])
    assert (known["name"], known["splits"]) == ("one + two", {"train": 16, "val": 2})
    assert {name: entry["licence"] for name, entry in known["licences"].items()} == {
        "one": "licence one", "two": "licence two",
    }  # fmt: skip


def test_what_cannot_be_joined_is_refused(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.also=\['x'\]: only text is joined"):
        load_corpus(DataConfig("codes", folders[0], also=["x"]), seed=0)
    with pytest.raises(ConfigError, match=r"data\.also=.*nowhere: no such file or folder"):
        load_config("configs/own_text.yaml", [f"data.path={folders[0]}", f"data.also=[{tmp_path}/nowhere]"])
