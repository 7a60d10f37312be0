"""Runs that start from a model folder: what is trained, what stays, what is exported, what is refused."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusion_world import IMAGE, TEXT, corpus
from diffusion_world import task as plain_task

from mmprime.engine import Canvas, Codec, Span
from mmprime.models import load_model, save_model
from mmprime.training.config import ConfigError
from mmprime.training.corpus import Corpus
from mmprime.training.model import build_canvas, build_model
from mmprime.training.pretrained import Pretrained, read_start
from mmprime.training.schema import ModelConfig
from mmprime.training.tasks.diffusion import DiffusionTask
from mmprime.training.trainer import Trainer

HAS_PEFT = importlib.util.find_spec("peft") is not None
KINDS = ["all", "head", pytest.param("lora", marks=pytest.mark.skipif(not HAS_PEFT, reason="needs mmprime[lora]"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained for some steps, exported."""
    built = plain_task(tmp_path_factory.mktemp("before"))
    trainer = Trainer(built, built.config)
    trainer.train.steps = 5
    trainer.run()
    path = tmp_path_factory.mktemp("model")
    trainer.export(path)
    return path


def tuned(directory: Path, folder: Path, train: str = "all", steps: int = 6) -> Trainer:
    config = plain_task(directory).config
    size = replace(config.model, init=str(folder), train=train, lora_rank=2)
    schedule = replace(config.train, steps=steps, warmup=0, validate_every=0, samples_every=0, save_every=3)
    config, data = replace(config, model=size, train=schedule), corpus()
    start = read_start(size, data)
    torch.manual_seed(3)
    canvas = build_canvas(data, {}, start=start)
    model = build_model(canvas, size, start=start)
    return Trainer(DiffusionTask(config, data, canvas, model, start=start), config)


@pytest.mark.parametrize("train", KINDS)
def test_it_starts_as_the_same_function_in_the_same_digits(train: str, tmp_path: Path, folder: Path) -> None:
    source, canvas, _ = load_model(folder)
    model = tuned(tmp_path, folder, train).task.model.eval()
    assert [s.codec for s in model.canvas.spans] == [s.codec for s in canvas.spans], "not clustered anew"
    y = torch.full((2, canvas.num_subtokens), -1)
    a, b = source(y, canvas)[:, 4:].flatten(0, 1), model(y, canvas)[:, 4:].flatten(0, 1)
    assert torch.equal(a, b)
    assert torch.equal(source.logits(a, canvas.span("image")), model.logits(b, canvas.span("image")))


@pytest.mark.parametrize("train", KINDS)
def test_what_is_frozen_stays_and_the_export_is_plain(train: str, tmp_path: Path, folder: Path) -> None:
    trainer = tuned(tmp_path, folder, train)
    trainer.run()
    trainer.export(tmp_path / "out")
    before, after = (load_model(path)[0].state_dict() for path in (folder, tmp_path / "out"))
    assert before.keys() == after.keys(), "a model folder like any other"
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {name for name in before if name.endswith(("qkv.weight", "out.weight", "gate.weight", "up.weight"))}
    heads = {name for name in before if name.startswith("heads.")}
    wanted = {"all": moved | linear | heads, "head": heads, "lora": linear | {n for n in heads if "weight" in n}}
    assert moved == wanted[train]
    if train == "lora":
        name = "blocks.0.attention.qkv.weight"
        assert torch.linalg.svdvals(after[name] - before[name])[2:].max() < 2e-3, (
            "a change of rank 2, in half precision"
        )
        with trainer._averaged():
            model, canvas = trainer.task.model, trainer.task.canvas
            y = torch.full((1, canvas.num_subtokens), -1)
            torch.testing.assert_close(load_model(tmp_path / "out")[0](y, canvas), model(y, canvas), atol=2e-2, rtol=0)


@pytest.mark.parametrize("train", KINDS)
def test_stopped_and_resumed_it_ends_with_the_same_bits(train: str, tmp_path: Path, folder: Path) -> None:
    through = tuned(tmp_path / "through", folder, train)
    through.run()
    half = tuned(tmp_path / "halves", folder, train)
    for _ in range(3):
        half._step()
    half.save()
    half.saver.close()
    rest = tuned(tmp_path / "halves", folder, train)
    assert rest.at.step == 3
    rest.run()
    ours, theirs = through.task.modules.state_dict(), rest.task.modules.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_says_what_it_trains(tmp_path: Path, folder: Path) -> None:
    notices = tuned(tmp_path, folder, "head").task.notices
    assert f"starting from {folder}; model.train=head: " in notices[0]
    trained = int(notices[0].split(": ")[1].split(" of ")[0].replace(",", ""))
    assert trained == 33 * (TEXT + IMAGE), "two softmax heads of width 32 with their biases"


def refused(folder: Path, data: Corpus, **options: object) -> str:
    config = ModelConfig(init=str(folder), **options)  # type: ignore[arg-type]

    def build() -> None:
        start = read_start(config, data)
        build_model(build_canvas(data, {}, start=start), config, data.num_classes, start)

    with pytest.raises(ConfigError) as caught:
        build()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_one_line_with_the_way_out(tmp_path: Path, folder: Path) -> None:
    data, size = corpus(), {"preset": "nano", "depth": 2, "heads": 2}
    larger = replace(data, num_codes=data.num_codes | {"image": 64})
    assert "'image': 64}: encode the data with the image tokenizer it was trained with" in refused(folder, larger)
    only = replace(data, num_codes={"image": IMAGE}, lengths={"image": (3, 3)})
    assert "give data with the span text, or leave out init" in refused(folder, only)
    more = replace(data, num_codes=data.num_codes | {"sound": 8}, lengths=data.lengths | {"sound": 4})
    assert "a new span (sound) is learned from the start; leave out init" in refused(folder, more)
    assert "has width=32, this one width=64: set model.width=32" in refused(folder, data, **size)
    wide = size | {"width": 32}
    assert "has num_classes=None, this one num_classes=3: give data of as many" in refused(folder, corpus(3), **wide)
    assert "there is no model folder here" in refused(tmp_path / "absent", data)
    assert "connect to the network, or give the path" in refused(Path("user/tiny"), data)


def test_another_tokenizer_of_as_many_codes_is_refused(tmp_path: Path) -> None:
    canvas = Canvas([Span("text", 4, Codec.base(TEXT, 1))])
    config = ModelConfig(preset="nano")
    save_model(tmp_path, build_model(canvas, config), canvas, {"fingerprints": {"text": "aaaa"}})
    data = replace(corpus(), num_codes={"text": TEXT}, lengths={"text": 4}, tokenizers={"text": "bbbb"})
    line = refused(tmp_path, data)
    assert "its text tokenizer (aaaa) is not that of the data (bbbb)" in line
    assert "or leave out init" in line


def test_other_lengths_and_digits_are_told(folder: Path) -> None:
    data = replace(corpus(), lengths={"text": 6, "image": (3, 3)})
    start = read_start(ModelConfig(init=str(folder)), data)
    assert isinstance(start, Pretrained)
    canvas = Canvas([Span("text", 6, start.codec("text")), Span("image", (3, 3), Codec.base(IMAGE, 1))])
    lines = start.notices(canvas, data, start.model, "all")[1:]
    assert [line.split(",")[0] for line in lines] == [
        "text: length 6",
        f"image: other digits than in {folder}; their tables are set from its tokens",
    ]


def test_adapters_need_a_model_and_peft(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"model\.train=lora is for a trained model: name one by model\.init"):
        read_start(ModelConfig(train="lora"))
    monkeypatch.setattr("mmprime.models.adapters.find_spec", lambda name: None)
    options = {"preset": "nano", "width": 32, "depth": 2, "heads": 2, "train": "lora"}
    assert "train=lora needs peft: pip install 'mmprime[lora]'" in refused(folder, corpus(), **options)
