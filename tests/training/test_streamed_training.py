"""Training from streams: every task, the examples of a run in memory, bitwise resume, two real processes, http."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stores_world import serving
from torch import Tensor

from mmprime.cli import train
from mmprime.data import load_documents, pack_documents, prepare_text
from mmprime.data.tokens import prepare_tokens
from mmprime.tokenizers import TextTokenizer
from mmprime.training import streams
from mmprime.training.build import build_task, dry_run
from mmprime.training.config import ConfigError, load_config
from mmprime.training.corpus import Corpus, load_corpus

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "train.steps=6", "train.batch=8", "train.accumulate=2", "train.log_every=2", "train.validate_every=0",
    "train.samples_every=0", "train.save_every=3", "run.threads=1", "data.stream=true", "data.buffer=2000",
]  # fmt: skip
TINY = ["model.width=32", "model.depth=1", "model.heads=2"]
CAPTIONS = ["configs/emoji_t2i.yaml", *SMALL, *TINY]
CLASSES = ["configs/imagenet_vq.yaml", *SMALL, *TINY]  # without $IMAGENET_SHARDS: emoji codes by class
PICTURES = ["configs/emoji_tokenizer.yaml", *SMALL, "tokenizer.widths=[16,32]", "data.validation=[]"]


BPE = ROOT / "assets/tokenizers/sotu_bpe512"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve held-out speeches as a dataset of their own."""
    root = tmp_path_factory.mktemp("text")
    for number, document in enumerate(load_documents(ROOT / "assets/sotu", "val")):
        (root / f"{number}.txt").write_text(document)
    prepare_text([root], root / "set", split_fraction=0.1)
    return root / "set"


@pytest.fixture(scope="module")
def rows(text: Path) -> list[str]:
    prepare_tokens(text, TextTokenizer.load(BPE), 128, text.parent / "rows")
    return ["configs/text_sotu.yaml", *SMALL, *TINY, "run.precision=fp32", f"data.path={text.parent}/rows"]


@pytest.fixture
def finish(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], Path], str]:
    """Trains in this process; what was printed."""
    monkeypatch.delenv("IMAGENET_SHARDS", raising=False)

    def run(arguments: list[str], directory: Path) -> str:
        capsys.readouterr()
        code, told = train.main([*arguments, f"run.dir={directory}"]), capsys.readouterr()
        assert code == 0, told.err
        return told.out

    return run


def finish_by_two(arguments: list[str], directory: Path) -> None:
    """Trains in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "mmprime", "train", *arguments, f"run.dir={directory}"],
            cwd=ROOT,
            env={**os.environ, **world, "RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    told = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(told)


def state(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoints/step_00000006/state.safetensors")


def test_captions_resumed_in_mid_epoch_by_another_number_of_processes(finish: Callable, tmp_path: Path) -> None:
    told = finish(CAPTIONS, tmp_path / "one")
    assert "train: 9,358 examples are streamed from 7 shards; each of 2 micro-batches of a step shuffles 500" in told
    assert "the first of train: 2 of 9,358 captions are cut" in told
    entry = json.loads((tmp_path / "one/log.jsonl").read_text().splitlines()[-1])
    assert entry["loader_wait_seconds"] >= 0
    for name in ("again", "two"):
        shutil.copytree(tmp_path / "one", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints/step_00000006")
    assert "at step 3 of 6" in finish(CAPTIONS, tmp_path / "again")
    finish_by_two(CAPTIONS, tmp_path / "two")
    one, again, two = (state(tmp_path / name) for name in ("one", "again", "two"))
    for key, value in one.items():
        assert torch.equal(again[key], value), key
        if key.startswith("model/"):  # sums of gradients differ by rounding
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("arguments", [CLASSES, PICTURES], ids=["classes", "pictures"])
def test_other_tasks_are_trained_from_a_stream(arguments: list[str], finish: Callable, tmp_path: Path) -> None:
    assert "examples are streamed from" in finish([*arguments, "train.steps=2"], tmp_path / "run")


def test_rows_of_text_are_those_of_the_documents(rows: list[str], text: Path, finish: Callable, tmp_path: Path) -> None:
    assert "examples are streamed from 1 shards" in finish([*rows, "train.steps=2"], tmp_path / "run")
    tokenizer = TextTokenizer.load(BPE)
    wanted = pack_documents(load_documents(text, "train"), tokenizer.encode, tokenizer.end_id, 128)

    def corpus(stream: str) -> Corpus:
        config = load_config(rows[0], [*rows[1:], f"data.stream={stream}", f"run.dir={tmp_path}/x"])
        return load_corpus(config.data, 0, config.train)

    assert torch.equal(corpus("false").train.codes["text"], wanted.int())
    stream = corpus("true").train
    assert isinstance(stream, streams.StreamedExamples)
    epoch = torch.cat([stream.at(torch.arange(p, p + 8)).codes["text"] for p in range(0, len(stream) // 8 * 8, 8)])
    left = Counter(map(tuple, wanted.tolist()))
    left.subtract(Counter(map(tuple, epoch.tolist())))
    assert len(epoch) > 1000
    assert sum(left.values()) == len(stream) % 8
    assert min(left.values()) >= 0, "a row came twice in an epoch"


def test_pictures_of_an_epoch_are_those_in_memory(tmp_path: Path) -> None:
    task = build_task(load_config(PICTURES[0], [*PICTURES[1:], f"run.dir={tmp_path}/x"]))
    memory = build_task(load_config(PICTURES[0], [*PICTURES[1:], "data.stream=false", f"run.dir={tmp_path}/x"]))
    order = task.images.stream.order
    for position in (0, 8, 4000):
        for number, picture in enumerate(task.images[torch.arange(position, position + 8)]):
            window, rank = order.locate(position + number)
            example = window.first + int(order.mixed(window)[rank])
            listed, ends = order.shards(window.epoch)
            place = next(i for i, end in enumerate(ends) if example < end)
            before = sum(order.sizes[: listed[place]]) + example - (ends[place - 1] if place else 0)
            assert torch.equal(picture, memory.images[before])


def test_a_url_is_trained_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPRIME_CACHE", str(tmp_path / "cache"))
    with serving(ROOT / "assets/emoji_codes") as server:
        where = [f"data.path={server.url}", f"run.dir={tmp_path}/x"]
        there = dry_run(load_config(CAPTIONS[0], [*CAPTIONS[1:], *where]))
    here = dry_run(load_config(CAPTIONS[0], [*CAPTIONS[1:], f"run.dir={tmp_path}/x"]))
    assert there == here


def test_a_set_that_fits_stays_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    auto = [*CAPTIONS[1:], "data.stream=auto", f"run.dir={tmp_path}/x"]
    assert not build_task(load_config(CAPTIONS[0], auto)).streamed
    monkeypatch.setattr(streams, "IN_MEMORY", 9_357 * 64 * 8)
    assert build_task(load_config(CAPTIONS[0], auto)).streamed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.buffer=31", r"data\.buffer=31 examples: .* 32 \(2 × train\.batch=8 × train\.accumulate=2\)"),
        ("data.stream=perhaps", r"data\.stream=perhaps is not one of auto, True, False"),
        ("data.path=https://127.0.0.1:1/x", r"https://127\.0\.0\.1:1/x/index\.json cannot be fetched"),
    ],
)
def test_what_does_not_fit_is_one_line(change: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mmprime.data.storage._PAUSE", 0.0)
    with pytest.raises(ValueError, match=message) as caught:
        build_task(load_config(CAPTIONS[0], [*CAPTIONS[1:], change, f"run.dir={tmp_path}/x"]))
    assert "\n" not in str(caught.value)


def test_documents_are_not_streamed_but_their_rows(tmp_path: Path) -> None:
    config = load_config("configs/text_sotu.yaml", [*SMALL, f"run.dir={tmp_path}/x"])
    with pytest.raises(ConfigError, match=r"mmprime prepare tokens --data assets/sotu .* --length 128"):
        build_task(config)


def test_rows_of_another_length_are_refused(rows: list[str], tmp_path: Path) -> None:
    config = load_config(rows[0], [*rows[1:], "data.text_length=64", f"run.dir={tmp_path}/x"])
    with pytest.raises(ConfigError, match=r"data\.text_length=64, but the rows of .* have 128"):
        build_task(config)


def test_an_example_without_a_caption_is_not_left_out_unsaid(tmp_path: Path) -> None:
    config = load_config(CAPTIONS[0], [*CAPTIONS[1:], f"run.dir={tmp_path}/x"])
    train = load_corpus(config.data, 0, config.train).train
    assert isinstance(train, streams.StreamedExamples)
    block = train.stream.head(4)
    block.captions[2] = " "
    with pytest.raises(ConfigError, match=rf"assets/emoji_codes: {block.keys[2]} has no caption"):
        train.source.decode(block)
