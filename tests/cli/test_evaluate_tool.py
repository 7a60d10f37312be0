"""evaluate and demo: rows, and mistakes that cost one line and no number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tools_world import drawings, here, model, run, text_model
from torch import Tensor

from mmprime.cli import console, demo, evaluate
from mmprime.cli.evaluations import captioning
from mmprime.cli.evaluations.captions import gallery_set
from mmprime.data import ImageDataset, prepare_text
from mmprime.generation.pipeline import Pipeline
from mmprime.generation.sampling import SamplingConfig

__all__ = ["drawings", "here", "model", "text_model"]  # fixtures


def test_likelihood_rows(model: Path, drawings: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = drawings / "codes"
    arguments = ["likelihood", "--model", model, "--data", data, "--steps", "2", "--maskings", "nested", "--limit", "2"]
    assert run(evaluate, [*arguments, "--json", "r.json"]) == 0
    rows = json.loads(Path("r.json").read_text())
    names = {(row["metric"], row["unit"]) for row in rows}
    assert ("val: nelbo image|text continuous nested", "bits/dimension (of codes)") in names
    assert ("val: nelbo text|image T=2 nested", "perplexity (text and end) (bound)") in names
    assert ("val: joint_loss joint nested", "nats/token (codes, text and end), no bound") in names
    values = {(row["metric"], row["unit"]): row["value"] for row in rows}
    name = (
        "val: nelbo text|image continuous nested"  # by a tokenizer of bytes a caption and its end are bytes + 1 tokens
    )
    bits = values[name, "nats/token (text and end)"] / math.log(2)
    assert 1.05 < values[name, "bits/byte"] / bits < 1.15  # of 8 to 11 bytes; with padding counted it would be 1.6
    assert values[name, "perplexity (text and end) (bound)"] == pytest.approx(2**bits)
    assert all(row["stderr"] is not None and row["num_samples"] == 2 for row in rows)
    assert all(row["command"].startswith("mmprime evaluate likelihood --model") for row in rows)
    said = capsys.readouterr().out
    assert "no bound on the negative log-likelihood" in said
    assert not any("joint_loss" in metric and "perplexity" in unit for metric, unit in names)


def test_likelihood_under_level_powers(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.txt").write_text("the state of the union is as it was " * 8)
    arguments = ["likelihood", "--model", text_model, "--data", "a.txt", "--steps", "2", "--maskings", "independent"]
    assert run(evaluate, [*arguments, "--level-powers", "1,2.5", "--json", "r.json"]) == 0
    names = {row["metric"] for row in json.loads(Path("r.json").read_text())}
    for time in ("continuous", "T=2"):
        assert {f"a: nelbo text {time} independent", f"a: nelbo text {time} independent levels 1,2.5"} <= names
    capsys.readouterr()
    assert run(evaluate, [*arguments, "--level-powers", "1,2,3"]) == 2
    assert "level powers [1.0, 2.0, 3.0]: one for each digit" in capsys.readouterr().err
    assert evaluate.main(["likelihood", "--level-powers", "1,-2"]) == 2
    assert "'1,-2' is no list of numbers > 0" in capsys.readouterr().err


def test_likelihood_of_text(text_model: Path, here: Path) -> None:
    (here / "docs").mkdir()
    for number in range(4):
        (here / "docs" / f"{number}.txt").write_text("the state of the union is as it was " * 4)
    prepare_text([here / "docs"], here / "texts")
    split = "train"
    arguments = [
        "likelihood",
        "--model",
        text_model,
        "--data",
        "texts",
        "--split",
        split,
        "--steps",
        "2",
        "--json",
        "r.json",
    ]
    assert run(evaluate, [*arguments, "--limit", "4"]) == 0
    rows = {(row["metric"], row["unit"]): row["value"] for row in json.loads(Path("r.json").read_text())}
    name = "train: nelbo text continuous independent"
    bits = rows[name, "nats/token"] / 0.6931471805599453
    assert rows[name, "bits/byte"] == pytest.approx(bits, rel=0.1)  # a byte tokenizer: one token a byte, but for ends


def test_captions_are_read_word_for_word(
    model: Path, drawings: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = ImageDataset.load(drawings / "images", "train")
    truth = [f" {caption.upper()} " for caption in dataset.captions]
    likeliest = captioning.likeliest_captions
    asked: list[Tensor] = []

    def read(pipe: Pipeline, images: Tensor, config: SamplingConfig, candidates: int) -> tuple[list[str], float]:
        asked.append(images)
        texts, passes = likeliest(pipe, images, config, candidates)
        return ([*truth[:2], *texts[2:]] if len(images) == len(truth) else texts), passes

    monkeypatch.setattr(captioning, "likeliest_captions", read)
    arguments = ["captioning", "--model", model, "--data", drawings / "images", "--steps", "2", "--candidates", "2"]
    assert run(evaluate, [*arguments, "--split", "train", "--json", "r.json"]) == 0
    right, common = json.loads(Path("r.json").read_text())
    assert right["metric"] == "train: caption read word for word"
    assert right["num_samples"] == len(truth)
    assert right["value"] == pytest.approx(2 / len(truth), abs=1e-9)
    assert common["value"] == max(dataset.captions.count(text) for text in dataset.captions) / len(truth)
    torch.testing.assert_close(asked[0], dataset.images / 255)


def test_of_several_captions_the_likeliest_of_its_own_drawing_counts() -> None:
    read = SimpleNamespace(texts=list("abcdef"), nfe=torch.full((6,), 4))
    nats = torch.tensor([3.0, 2.0, 9.0, 1.0, 5.0, 4.0])
    pipe = SimpleNamespace(device="cpu", caption=lambda *_: read, caption_nats=lambda _: nats)
    assert captioning.likeliest_captions(pipe, torch.zeros(2, 3, 8, 8), SamplingConfig(), 3) == (["b", "d"], 4.0)


def test_caption_accuracy(
    model: Path, drawings: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMPRIME_CACHE", str(here / "cache"))
    arguments = ["captions", "--model", model, "--data", drawings / "images", "--num", "3", "--steps", "2"]
    assert run(evaluate, [*arguments, "--save", "drawn", "--json", "r.json"]) == 0
    generated, chance = json.loads(Path("r.json").read_text())
    assert (generated["num_samples"], generated["nfe"]) == (3, 3)
    assert f"12 real drawings of {drawings / 'images'}" in capsys.readouterr().out
    assert 0 <= generated["value"] <= 1
    assert chance["value"] == pytest.approx(1 / 3)
    assert len(list(Path("drawn").glob("*.png"))) == 3
    capsys.readouterr()
    assert run(evaluate, [*arguments, "--num", "4"]) == 2
    assert "asked for 4 captions, the data has 3" in capsys.readouterr().err
    assert run(evaluate, ["captions", "--model", model, "--num", "3"]) == 2  # never against the bundled set unasked
    assert "does not say what it was trained on; give --data DIR" in capsys.readouterr().err


def test_demo(model: Path, drawings: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    data = ["--images", drawings / "images", "--data", drawings / "codes", "--split", "val"]
    assert run(demo, ["--model", model, *data, "--steps", "2", "--limit", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0].strip(":") for line in said] == ["model", "drawn", "read", "NELBO", "NELBO", "all"]
    assert all(" ± " in line and "nats/token" in line for line in said[3:5])
    assert f"a model that knows nothing: {math.log(16):.3f})" in said[3]
    nothing = float(said[4].split("knows nothing: ")[1].rstrip(")"))
    assert "nats/token (text and end)" in said[4]
    assert 16 / 12 < nothing / math.log(258) < 16 / 9  # 16 positions for each 9 to 12 tokens
    with Image.open("out/demo.png") as sheet:
        assert sheet.width > 3 * 128
    assert [path.name for path in here.rglob("*.*")] == ["demo.png"]


def test_evaluation_mistakes(model: Path, drawings: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = drawings / "codes"
    before = sorted(here.rglob("*"))
    score = ["likelihood", "--model", model]
    for arguments, complaint in (
        (score, "give --data PATH"),
        ([*score, "--data", data, "--split", "test"], "no split 'test'"),
        ([*score, "--data", data, "--tasks", "sound"], "no task 'sound'"),
        ([*score, "--data", data, "--maskings", "sorted"], "--maskings: unknown 'sorted'"),
        ([*score, "--data", here / "absent"], "absent"),
        (["likelihood", "--model", "absent"], "no model at absent"),
        (["samples", "--generated", ".", "--reference", "."], "--inception"),
        (["samples", "--generated", "a", "--reference", "b", "--metric", "fd-effnet-lite0"], "a does not exist"),
        (["captions", "--model", "absent"], "no model at absent"),
        ([], "required"),
    ):
        assert run(evaluate, [*arguments, *(["--json", "r.json"] if arguments else [])]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert complaint in said
    assert sorted(here.rglob("*")) == before


def test_demo_without_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(demo, ["--model", "absent"]) == 2
    assert "no model at absent" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_drawings_are_compared_with_what_the_model_was_trained_on() -> None:
    def trained(data: str) -> SimpleNamespace:
        return SimpleNamespace(card=SimpleNamespace(data=Path(data)))

    shipped = trained(f"{console.DEFAULT_MODEL}/../../emoji_codes")  # as the shipped model says it
    assert gallery_set(shipped, "mine") == "mine"
    assert gallery_set(shipped, None) == console.DEFAULT_IMAGES
    with pytest.raises(ValueError, match=r"was trained on my/codes; give --data DIR"):
        gallery_set(trained("my/codes"), None)
