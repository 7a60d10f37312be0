"""Pictures of folders and tars straight to codes: views, classes, progress, and processes that are killed."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import encoding_world
import numpy as np
import pytest
import torch
from datafixtures import MeanTokenizer
from PIL import Image

from mmprime.data import CodeDataset, encode_images, encoding
from mmprime.data.building import units_noted
from mmprime.data.encoding import Encoding, encode_folder
from mmprime.data.picture_sources import list_pictures
from mmprime.data.pictures import read_square
from mmprime.data.shards import read_index
from mmprime.data.views import Views

TESTS = Path(__file__).resolve().parents[1]
SAID: list[str] = []


def png(number: int, size: tuple[int, int] = (20, 16)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root: Path, count: int = 30) -> Path:
    for i in range(count):
        folder = root / ("val" if i % 10 == 9 else "train") / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03d}.png").write_bytes(png(i))
    return root


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


def how(crop: str = "center", flip: bool = False, fraction: float = 0.05) -> Encoding:
    SAID.clear()
    return Encoding(Views(16, crop, flip), fraction, say=SAID.append)


def by_key(folder: Path, split: str | None = None) -> dict[str, tuple[list[int], int, str]]:
    data = CodeDataset.load(folder, split)
    labels = [-1] * len(data) if data.labels is None else data.labels.tolist()
    found = {k: (c, y, t) for k, c, y, t in zip(data.keys, data.tokens.tolist(), labels, data.captions)}
    assert len(found) == len(data), "a picture is there twice"
    return found


def test_class_folders_give_the_codes_of_their_pictures(tmp_path: Path) -> None:
    index = encode_folder(class_folders(tmp_path / "set"), MeanTokenizer(), tmp_path / "codes", how())
    assert index["splits"] == {"train": 27, "val": 3}
    assert index["classes"] == ["class0", "class1", "class2"]
    found = by_key(tmp_path / "codes", "train")
    for i in (0, 7, 28):
        square = np.asarray(read_square(png(i), 16)).transpose(2, 0, 1)
        codes = encode_images(torch.from_numpy(square.copy())[None], MeanTokenizer())
        assert found[f"train_2f_class{i % 3}_2f_{i:03d}_2e_png"] == (codes[0].tolist(), i % 3, f"class{i % 3}")
    order = [key for key in CodeDataset.load(tmp_path / "codes", "train").keys]  # noqa: C416
    assert order != sorted(order), "a shard in the order of classes does not mix"


@pytest.mark.parametrize("name", ["class{}", "n0144076{}"])
def test_tars_of_classes_give_what_their_folders_give(tmp_path: Path, name: str) -> None:
    for kind in range(3):
        files = {f"{i:03d}.png": png(i) for i in range(30) if i % 3 == kind}
        write_tar(tmp_path / "tars/train" / f"{name.format(kind)}.tar", files)
        (tmp_path / "folders/train" / name.format(kind)).mkdir(parents=True)
        for file, data in files.items():
            (tmp_path / "folders/train" / name.format(kind) / file).write_bytes(data)
    sets = []
    for source in ("tars", "folders"):
        encode_folder(tmp_path / source, MeanTokenizer(), tmp_path / f"{source}_codes", how(fraction=0.0))
        sets.append(sorted(by_key(tmp_path / f"{source}_codes").values()))
    assert sets[0] == sets[1]
    assert read_index(tmp_path / "tars_codes")["classes"] == [name.format(kind) for kind in range(3)]


def test_webdataset_tars_give_classes_captions_and_splits(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "set/train-000000.tar", {"a.png": png(0), "a.cls": b"3", "a.txt": b"an apple", "b.png": png(1)}
    )
    write_tar(tmp_path / "set/val-000000.tar", {"c.png": png(2), "c.json": b'{"label": 1, "caption": "a cat"}'})
    index = encode_folder(tmp_path / "set", MeanTokenizer(), tmp_path / "codes", how())
    assert index["splits"] == {"train": 2, "val": 1}
    assert sorted((y, t) for _, y, t in by_key(tmp_path / "codes").values()) == [
        (-1, ""),
        (1, "a cat"),
        (3, "an apple"),
    ]


@pytest.mark.parametrize("cut", [700, 1024])
def test_a_tar_that_was_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    write_tar(tmp_path / "set/a.tar", {f"{i}.png": png(i) for i in range(3)})
    data = (tmp_path / "set/a.tar").read_bytes()
    end = len(data.rstrip(b"\0"))
    (tmp_path / "set/a.tar").write_bytes(data[: end - cut])
    with pytest.raises(ValueError, match=r"a\.tar.*cut short"):
        list_pictures(tmp_path / "set")


def test_views_are_those_of_the_papers() -> None:
    assert [Views(16, *v).count for v in (("center",), ("center", True), ("adm",), ("ten",))] == [1, 2, 1, 10]
    data = png(5, (70, 50))
    views = Views(16, "ten").of(data, "x")
    assert views.shape == (10, 3, 16, 16)
    assert (views[5:] == views[:5, :, :, ::-1]).all()
    larger = Views(17, "adm").of(data, "x")[0]  # int(1.1 * 16)
    assert (views[0] == larger[:, :16, :16]).all()
    assert (views[3] == larger[:, 1:, 1:]).all()
    half = Image.open(io.BytesIO(data)).resize((35, 25), Image.Resampling.BOX)  # 50 >= 2 * 17, 25 < 34
    small = np.asarray(half.resize((24, 17), Image.Resampling.BICUBIC))
    assert (larger == small[:, 3:20].transpose(2, 0, 1)).all()


def test_each_view_is_an_example_and_a_second_run_encodes_nothing(tmp_path: Path) -> None:
    tokenizer, source = MeanTokenizer(), class_folders(tmp_path / "set")
    index = encode_folder(source, tokenizer, tmp_path / "codes", how("ten"))
    assert index["splits"] == {"train": 270, "val": 30}
    assert index["views"] == {"crop": "ten", "mirrored": True, "count": 10}
    assert len(by_key(tmp_path / "codes")) == 300
    calls, before = tokenizer.calls, (tmp_path / "codes/index.json").stat().st_mtime_ns
    assert encode_folder(source, tokenizer, tmp_path / "codes", how("ten")) == index
    assert (tokenizer.calls, (tmp_path / "codes/index.json").stat().st_mtime_ns) == (calls, before)
    encode_folder(source, tokenizer, tmp_path / "codes", how("adm"))
    assert tokenizer.calls > calls


def test_the_first_thousand_tell_the_time_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FIRST", 20)
    encode_folder(class_folders(tmp_path / "set"), MeanTokenizer(), tmp_path / "codes", how())
    (line,) = [line for line in SAID if "ImageNet" in line]
    assert line.startswith("the first 27 pictures took")
    rate = float(line.split(", ")[1].split()[0])
    hours, minutes, seconds = map(int, line.rsplit(" ", 1)[-1].split(":"))
    assert hours * 3600 + minutes * 60 + seconds == pytest.approx(1_281_167 / rate, rel=0.01, abs=2)


# ------------------------------------------------------------------------------------- processes that are killed


def start(pictures: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.Popen(
        [sys.executable, str(TESTS / "encoding_world.py"), str(pictures), str(out)], env=environment
    )


def wait_for(out: Path, units: int) -> None:
    """Until so many units are noted."""
    deadline = time.monotonic() + 120
    while len(units_noted(out)) < units and time.monotonic() < deadline:
        time.sleep(0.005)


def kill_when(out: Path, units: int, workers: list[subprocess.Popen[bytes]], chance: random.Random) -> None:
    """kill -9 the workers, once so many units are noted, in the midst of the next."""
    wait_for(out, units)
    time.sleep(chance.uniform(0, 0.15))
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    assert [worker.wait(60) for worker in workers] == [-signal.SIGKILL] * len(workers)


def test_killed_processes_lose_and_double_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of two killed: the next start goes on. One of two killed: the other, this process, makes what it left. The
    bytes are those of one process that was left alone."""
    pictures, out, chance = class_folders(tmp_path / "set", 260), tmp_path / "codes", random.Random(time.time_ns())
    monkeypatch.setattr(encoding, "UNIT_EXAMPLES", encoding_world.UNIT_EXAMPLES)
    monkeypatch.setattr(encoding, "BATCH", encoding_world.BATCH)
    encoding_world.encode(pictures, tmp_path / "straight", MeanTokenizer())
    kill_when(out, 4, [start(pictures, out), start(pictures, out)], chance)
    with pytest.raises(ValueError, match="unfinished"):
        read_index(out)
    (out / ".train-00000.tar.1.tmp.gz").write_bytes(b"half a shard")
    noted = units_noted(out)
    assert len(noted) >= 4
    kept = {name: (out / f"{name}.tar.gz").stat().st_mtime_ns for name in noted}
    other = start(pictures, out)
    wait_for(out, len(noted) + 1)
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_when, out, len(noted) + 4, [other], chance)
        encoding_world.encode(pictures, out, encoding_world.SlowTokenizer())
        killed.result()
    files = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    assert files == {path.name: path.read_bytes() for path in sorted((tmp_path / "straight").iterdir())}
    assert {name: (out / f"{name}.tar.gz").stat().st_mtime_ns for name in noted} == kept, (
        "a finished unit was made again"
    )
    assert len(by_key(out)) == 2 * 260


@pytest.mark.slow
def test_ten_random_kills_of_two_processes_end_in_the_same_bytes(tmp_path: Path) -> None:
    """Prints the seed and the units that stood at each kill of both."""
    pictures, out, seed, noted = class_folders(tmp_path / "set", 500), tmp_path / "codes", time.time_ns(), [0]
    chance = random.Random(seed)
    for _ in range(10):
        kill_when(out, noted[-1] + chance.randint(0, 3), [start(pictures, out), start(pictures, out)], chance)
        noted.append(len(units_noted(out)))
        assert noted[-1] >= noted[-2], "a kill lost a unit"
    print(f"seed {seed}: 10 kills of two processes with {noted[1:]} units done")
    assert start(pictures, out).wait(300) == start(pictures, tmp_path / "straight").wait(300) == 0
    files = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    assert files == {path.name: path.read_bytes() for path in sorted((tmp_path / "straight").iterdir())}
    assert len(by_key(out)) == 2 * 500
