"""A resume with other data, tokenizers or settings tells every change and refuses what the run learns from."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from training_world import LineTask, small_config

from mmprime.data import prepare_folder
from mmprime.data.text import Document, write_documents
from mmprime.tokenizers import ImageTokenizer, TextTokenizer
from mmprime.training.build import build_task
from mmprime.training.changes import find_changes, refused
from mmprime.training.config import as_dict, load_config
from mmprime.training.trainer import Trainer

WORDS = "the cat sat on a red mat and saw the dog run far away"


def documents(folder, word):
    rows = [Document(f"{i}", f"{WORDS} {word} {i}", {}, "val" if i % 4 == 0 else "train") for i in range(12)]
    write_documents([*rows, Document("other", WORDS * 3, {}, "more")], folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two text datasets, two tokenizers of equal size, a picture folder, and a config for each task."""
    root = tmp_path_factory.mktemp("world")
    documents(root / "texts", "good")
    documents(root / "others", "bad")
    for name, text in (("bpe", WORDS), ("bpe2", WORDS[::-1])):
        TextTokenizer.train([text], 260).save(root / name)
    dice = np.random.default_rng(0)
    for name in ("pictures", "drawings"):
        (root / name / "raw").mkdir(parents=True)
        for index in range(12):
            pixels = dice.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / "raw" / f"{index}.png")
            (root / name / "raw" / f"{index}.txt").write_text("a picture")
        prepare_folder(root / name / "raw", root / name / "shards", size=16, split_fraction=0.4)
    train = "train: {steps: 2, batch: 4, warmup: 1, validate_every: 0, samples_every: 0}\n"
    nano = "model: {preset: nano, width: 16, depth: 1, heads: 1, codec: {text: {kind: base}}}\n"
    (root / "text.yaml").write_text(
        f"task: diffusion\n{train}{nano}"
        f"data: {{kind: text, path: {root}/texts, validation: [val], text_tokenizer: {root}/bpe, text_length: 8}}\n"
    )
    (root / "toy.yaml").write_text(f"task: toy\n{train}{nano}toy: {{tokens: 2, codes: 4}}\n")
    (root / "tokenizer.yaml").write_text(
        f"task: tokenizer\n{train}data: {{path: {root}/pictures/shards}}\n"
        "tokenizer: {image_size: 16, downsample: 4, patch: 2, widths: [8, 16], encoder_blocks: [1, 1], "
        "decoder_blocks: [1, 1], num_codes: 32, code_dim: 4}\n"
    )
    return root


@pytest.fixture(scope="module")
def trained(world):
    """A folder with a run of two steps for each task."""
    for task in ("text", "toy", "tokenizer"):
        start(world, task, world / "runs" / task).run()
    return world


def start(world, task, run, *overrides):
    overrides = [each.replace("ROOT", str(world)) for each in overrides]
    config = load_config(world / f"{task}.yaml", [f"run.dir={run}", *overrides])
    return Trainer(build_task(config), config)


@pytest.fixture
def copy(trained, tmp_path):
    """Starts again in a copy of a trained run."""

    def again(task, *overrides):
        if not (tmp_path / task).exists():
            shutil.copytree(trained / "runs" / task, tmp_path / task)
        return start(trained, task, tmp_path / task, *overrides)

    return again


REFUSED = [
    ("text", "data.path=ROOT/others", "data.path"),
    ("text", "data.text_tokenizer=ROOT/bpe2", "data.text_tokenizer"),
    ("text", "data.train_split=more", "data.train_split"),
    ("text", "data.text_length=6", "data.text_length"),
    ("text", "objective.kind=marginal", "objective.kind"),
    ("text", "objective.mixture={nested: 0.5, independent: 0.5}", "objective.mixture.nested"),
    ("text", "conditions.label_dropout=0.3", "conditions.label_dropout"),
    ("text", "model.dropout=0.2", "model.dropout"),
    ("text", "model.codec.text.kind=shuffled", "model.codec.text"),
    ("toy", "toy.sharpness=1.0", "toy"),
    ("toy", "run.seed=1", "toy"),
    ("tokenizer", "data.path=ROOT/drawings/shards", "data.path"),
    ("tokenizer", "data.train_split=val; data.validation=[train]", "data.train_split"),
    ("tokenizer", "loss.l2=1.0", "loss.l2"),
    ("tokenizer", "tokenizer.commitment=0.5", "tokenizer.commitment"),
]


@pytest.mark.parametrize(("task", "change", "key"), REFUSED, ids=[f"{t}-{c}" for t, c, _ in REFUSED])
def test_what_a_run_learns_from_is_refused_and_can_be_allowed(copy, capsys, task, change, key):
    changes = change.split("; ")
    with pytest.raises(ValueError, match=rf"(?s)else than the run began with: .*\b{key}\b.*: .* -> .*") as refusal:
        copy(task, *changes)
    way_out = str(refusal.value).partition("'run.allow_changes=")[2].partition("'")[0]
    assert key in way_out
    capsys.readouterr()
    assert copy(task, *changes, f"run.allow_changes={way_out}").at.step == 2
    assert key in capsys.readouterr().out
    section = key.partition(".")[0]
    assert copy(task, *changes, f"run.allow_changes=[{section}]").at.step == 2, "a section allows its keys"


TOLD = [
    ("text", "train.lr=0.5", "train.lr: 0.001 -> 0.5"),
    ("text", "train.steps=5", "train.steps: 2 -> 5"),
    ("text", "train.log_every=7", "train.log_every: 20 -> 7"),
    ("text", "run.threads=2", "run.threads: auto -> 2"),
    ("text", "samples.count=3", "samples.count: 16 -> 3"),
    ("text", "data.validate_examples=2", "data.validate_examples: 256 -> 2"),
    ("text", "model.attention=reference", "model.attention: auto -> reference"),
    ("text", "data.validation=[more]", "data.validation: ['val'] -> ['more']"),
]


@pytest.mark.parametrize(("task", "change", "line"), TOLD, ids=[c for _, c, _ in TOLD])
def test_what_may_change_is_told(copy, capsys, task, change, line):
    assert copy(task, change).at.step == 2
    assert line in capsys.readouterr().out


def test_nothing_changed_tells_nothing(copy, capsys):
    for task in ("text", "toy", "tokenizer"):
        start_again = copy(task)
        out = capsys.readouterr().out
        assert start_again.at.step == 2
        assert "run.dir" in out  # it was copied
        assert out.count("->") == 1


def test_data_moved_elsewhere_are_the_same_data(trained, copy, tmp_path, capsys):
    shutil.copytree(trained / "texts", tmp_path / "moved")
    assert copy("text", f"data.path={tmp_path}/moved").at.step == 2
    assert "data.path: " in capsys.readouterr().out


def test_data_rebuilt_under_the_same_path_are_other_data(trained, copy, tmp_path):
    documents(tmp_path / "texts", "good")
    first = copy("text", f"data.path={tmp_path}/texts", "run.allow_changes=[data.path]", "train.steps=3")
    first.run()
    shutil.rmtree(tmp_path / "texts")
    documents(tmp_path / "texts", "worse")
    with pytest.raises(ValueError, match=r"data\.path \(content\): \w{16} -> \w{16}"):
        copy("text", f"data.path={tmp_path}/texts", "train.steps=3")


def test_an_allowed_change_is_no_change_at_the_next_start(copy):
    copy("text", "model.dropout=0.2", "run.allow_changes=[model]", "train.steps=3").run()
    assert copy("text", "model.dropout=0.2", "train.steps=3").at.step == 3


def test_a_name_of_nothing_is_refused(tmp_path):
    Trainer(LineTask(), small_config(tmp_path)).run()
    config = small_config(tmp_path)
    config.run.allow_changes = ["trian.lr"]
    with pytest.raises(ValueError, match=r"run\.allow_changes names 'trian\.lr', which is no key; nearest: train\.lr"):
        Trainer(LineTask(), config)


def test_an_exported_tokenizer_is_whole_hashed_and_refused_when_altered(trained, copy, tmp_path):
    trainer = copy("tokenizer")
    trainer.export(tmp_path / "out")
    ImageTokenizer.load(tmp_path / "out")
    weights = tmp_path / "out/model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"sha256 is not the one in config\.json"):
        ImageTokenizer.load(tmp_path / "out")
    with torch.no_grad():
        next(iter(trainer.ema.average.values())).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        trainer.export(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_a_checkpoint_under_earlier_names_is_the_same_run(world, tmp_path):
    config = load_config(world / "text.yaml", [f"run.dir={tmp_path}"])
    stored = as_dict(config)
    goal = stored["objective"]
    for old, new in (("law", "masking"), ("start_law", "start_masking"), ("place_powers", "level_powers")):
        goal[old] = goal.pop(new)
    assert find_changes(stored, {}, config, {}) == []
    goal["law"] = "independent"
    changes = find_changes(stored, {}, config, {})
    assert [str(change) for change in changes] == ["objective.masking: independent -> nested"]
    assert refused(changes, config, {}) == changes
    config.run.allow_changes = ["objective.law"]
    assert refused(changes, config, {}) == []
