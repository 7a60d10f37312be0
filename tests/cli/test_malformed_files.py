"""Malformed files and values that only a library call can hold: errors by name; caches that fail cost no result."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from pipeline_world import CAPTIONS, tiny_image_tokenizer, write_picture, write_text_image_model, write_text_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_world import LineTask, small_config

from mmprime.cli import errors
from mmprime.data import encode_dataset, prepare_folder, read_index
from mmprime.evaluation import Measure, read_rows, to_json
from mmprime.evaluation.cache import cached
from mmprime.evaluation.plots import read_log
from mmprime.generation.pausing import load_paused, save_paused
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.regions import read_regions
from mmprime.generation.sampling import SamplingConfig
from mmprime.models.attention import require_xformers
from mmprime.models.device import find_device
from mmprime.studies.spec import Study
from mmprime.tokenizers import ImageTokenizer
from mmprime.training.tasks.tokenizer import write_pairs
from mmprime.training.trainer import Trainer


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return from_pretrained(write_text_image_model(tmp_path_factory.mktemp("t2i")))


def edited(file: Path, *path: str | int, value: object) -> None:
    tree = json.loads(file.read_text())
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(json.dumps(tree))


def test_the_table_of_exit_codes_is_the_one_of_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/commands.md").read_text()
    told = {int(code): words for code, words in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.M)}
    own = {int(code): words for code, words in re.findall(r"^(\d+) +(\S.*)$", errors.__doc__ or "", re.M)}
    assert told.keys() == own.keys() >= {errors.DONE, errors.BUG, errors.MISTAKE, errors.DISK, errors.INTERRUPTED}
    assert all(told[code].startswith(words) for code, words in own.items())


def test_nothing_is_asked_for(pipe: Pipeline, tmp_path: Path) -> None:
    text = from_pretrained(write_text_model(tmp_path))
    picture = torch.zeros(3, 32, 32)
    for ask, said in (
        (lambda: pipe.generate([]), "no prompt"),
        (lambda: pipe.generate("red apple", 0), "num=0"),
        (lambda: pipe.generate(None, -1), "num=-1"),
        (lambda: pipe.caption(picture[None], 0), "num=0"),
        (lambda: pipe.caption(picture[None][:0]), "no image"),
        (lambda: pipe.inpaint(picture, (0, 0, 1, 1), num=0), "num=0"),
        (lambda: text.continue_text("It", 0), "num=0"),
        (lambda: text.continue_text("It", 1, 0), "0 new tokens were asked for"),
        (lambda: text.fill_text("It ___", 0), "num=0"),
        (lambda: SamplingConfig(steps=0), "steps=0"),
        (lambda: SamplingConfig(temperature=float("nan")), "temperature=nan"),
        (lambda: SamplingConfig(temperature=float("inf")), "temperature=inf"),
    ):
        with pytest.raises(ValueError, match=said):
            ask()


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    for name, said in (("banana", "no device"), ("meta", "only cpu and cuda"), ("cuda:99", "torch sees")):
        with pytest.raises(ValueError, match=f"--device={name}.*{said}"):
            find_device(name, "--device")
    with pytest.raises(ValueError, match="no operator for 'cpu'"):
        require_xformers(torch.device("cpu"))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["kind"], 3, "kind"),
        (["splits"], None, "splits"),
        (["shards"], 5, "shards"),
        (["shards", 0, "bytes"], "many", "shard 0: bytes"),
        (["shards", 0, "file"], True, "shard 0: file"),
        (["grid"], [4], "grid"),
        (["grid"], None, "grid"),
        (["num_codes"], "16", "num_codes"),
        (["classes"], {"a": 1}, "classes"),
    ],
    ids=str,
)
def test_a_damaged_index_is_told(tmp_path: Path, path: list[str | int], value: object, said: str) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(2):
        write_picture(tmp_path / "raw" / f"{number}.png", shade=90 * number)
        (tmp_path / "raw" / f"{number}.txt").write_text(CAPTIONS[number])
    prepare_folder(tmp_path / "raw", tmp_path / "images", size=32, split_fraction=0.5)
    encode_dataset(tmp_path / "images", tiny_image_tokenizer(), tmp_path / "codes")
    edited(tmp_path / "codes/index.json", *path, value=value)
    with pytest.raises(ValueError, match=f"index.json: {said}"):
        read_index(tmp_path / "codes")
    (tmp_path / "codes/index.json").write_text("null")
    with pytest.raises(ValueError, match="this is a NoneType"):
        read_index(tmp_path / "codes")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("words", None), ("tokenizers", "x"), ("tokenizers", {"text": [1]}), ("masking", {"a": 1}),
        ("trained_on", "nested"), ("level_powers", ["a"]), ("data", 3),
    ],
)  # fmt: skip
def test_a_damaged_model_config_is_told(tmp_path: Path, key: str, value: object) -> None:
    model = write_text_image_model(tmp_path)
    edited(model / "config.json", key, value=value)
    with pytest.raises(ValueError, match=f"config.json: {key} cannot be"):
        from_pretrained(model)


@pytest.mark.parametrize(
    ("key", "value"), [("decay", [1]), ("image_size", "${oc.env:HOME}"), ("widths", 3), ("image_size", None)]
)
def test_a_damaged_tokenizer_config_is_told(tmp_path: Path, key: str, value: object) -> None:
    tiny_image_tokenizer().save(tmp_path)
    edited(tmp_path / "config.json", "config", key, value=value)
    with pytest.raises(ValueError, match=r"config.json: ") as told:
        ImageTokenizer.load(tmp_path)
    assert str(Path.home()) not in str(told.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["sampling"], None), (["sampling", "steps"], "4"), (["seed"], "x"), (["sampling", "temperature"], -1),
        (["sampling", "sampler"], [1]), (["sampling", "options"], 3), (["prompts"], [3]), (["regions"], None),
        (["sampling", "guidance"], "\0"), (["sampling", "top_p"], "1"),
        (["sampling", "pause"], [1]),
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_paused_run_is_told(pipe: Pipeline, tmp_path: Path, path: list[str], value: object) -> None:
    paused = pipe.generate("red apple", 1, SamplingConfig("regions", 4, pause=2)).paused
    assert paused is not None
    file = tmp_path / "half.safetensors"
    save_paused(file, paused, pipe.card.weights)
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["request"])
    at = about
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    save_file(load_file(file), file, {"request": json.dumps(about)})
    with pytest.raises(ValueError, match=r"half\.safetensors"):
        load_paused(file, pipe.card.weights)


def test_a_state_with_codes_that_do_not_exist_is_told(pipe: Pipeline, tmp_path: Path) -> None:
    paused = pipe.generate("red apple", 1, SamplingConfig("regions", 4, pause=2)).paused
    assert paused is not None
    file = tmp_path / "half.safetensors"
    for name, spoil in (
        ("y", lambda y: y + 99), ("streams", lambda s: s[:, :8]), ("streams", lambda s: s[:0]),
        ("number", lambda n: -n),
    ):  # fmt: skip
        save_paused(file, paused, pipe.card.weights)
        with safe_open(file, "pt") as opened:
            about = opened.metadata()
        tensors = load_file(file)
        tensors[f"state.{name}"] = spoil(tensors[f"state.{name}"]).contiguous()
        save_file(tensors, file, about)
        with pytest.raises(ValueError, match=r"digit|stream|step"):
            pipe.resume(load_paused(file, pipe.card.weights))


@pytest.mark.parametrize(("key", "value"), [("value", "x"), ("value", float("nan")), ("versions", []), ("seed", 1.5)])
def test_a_row_that_is_none_is_told(tmp_path: Path, key: str, value: object) -> None:
    file = tmp_path / "rows.json"
    file.write_text(to_json([Measure("nelbo", 2.0, 0.1, "nats/token", 8, 4, 0)]))
    assert read_rows(file)
    edited(file, 0, key, value=value)
    with pytest.raises(ValueError, match=f"row 0 of .*: {key}"):
        read_rows(file)


def test_a_log_line_that_is_none_is_told(tmp_path: Path) -> None:
    whole = '{"kind": "train", "step": 1, "samples": 4, "loss/x": 3.0}\n'
    for bad in ("3", '{"kind": "train"}', '{"step": "1"}', '{"step": 1, "loss/x": "3"}', "[" * 100_000):
        (tmp_path / "log.jsonl").write_text(f"{bad}\n{whole}")
        with pytest.raises(ValueError, match="line 1 of"):
            read_log(tmp_path)
        (tmp_path / "log.jsonl").write_text(f"{whole}{bad}")  # torn at its end
        assert len(read_log(tmp_path)) == 1


@pytest.mark.parametrize("bad", ["axes: 3", "bases: {codes: 3}", "seeds: 0.5", "dir: null", "extra: {a: 1}", "a: b: c"])
def test_a_study_that_is_none_is_told(tmp_path: Path, bad: str) -> None:
    parts = {"dir": "runs", "results": "out", "seeds": "[0]", "bases": "{codes: {config: c.yaml, span: image}}"}
    parts |= {bad.split(":")[0]: bad.partition(":")[2]}
    file = tmp_path / "study.yaml"
    file.write_text("\n".join(f"{key}: {value}" for key, value in parts.items()))
    with pytest.raises(ValueError, match=r"study\.yaml"):
        Study.load(file)


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    features = torch.ones(2, 5)

    def stored(folder: Path) -> torch.Tensor:
        return cached("w", lambda: {"features": features}, ["features"], folder)["features"]

    assert torch.equal(stored(tmp_path / "file/cache"), features)
    assert "warning: the cache" in capsys.readouterr().err
    assert torch.equal(stored(tmp_path / "cache"), features)
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"torn")
    assert torch.equal(stored(tmp_path / "cache"), features)
    assert "is computed again" in capsys.readouterr().err


def test_pairs_are_drawn_row_under_row(tmp_path: Path) -> None:
    from PIL import Image

    above, below = torch.arange(3).view(3, 1, 1, 1) / 10 + torch.zeros(3, 3, 2, 2), torch.full((3, 3, 2, 2), 0.5)
    write_pairs(tmp_path / "a.png", above, below, columns=2)
    picture = Image.open(tmp_path / "a.png").convert("L")
    assert picture.size == (7, 13)
    grey = [[picture.getpixel((x, y)) for x in (1, 4)] for y in (1, 4, 7, 10)]
    assert grey == [[0, 26], [128, 128], [51, 255], [128, 255]]


def test_training_tells_its_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Trainer(LineTask(), small_config(tmp_path, log_every=100, validate_every=0)).run()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 1/")]
    assert "loss/head" in line
    assert not (tmp_path / "log.jsonl").exists()  # a line to look at, not one of the log


def test_keys_of_several_kinds_are_told(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- {name: left, odd: 1, 3: 4, true: 5}")
    with pytest.raises(ValueError, match="region 'left' has no key"):
        read_regions(tmp_path / "r.yaml")
