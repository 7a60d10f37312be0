"""What the tests of the command lines share: tiny models, drawings, an empty folder to work in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_world import CAPTIONS, tiny_image_tokenizer, write_picture, write_text_image_model, write_text_model

from mmprime.data import encode_dataset, prepare_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_image_model(tmp_path_factory.mktemp("t2i"))


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that a stray file would be seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(tool: object, arguments: list[object]) -> int:
    """The exit code of a tool, whether it returns or exits."""
    try:
        return tool.main([str(each) for each in arguments])  # type: ignore[attr-defined]
    except SystemExit as done:
        return int(done.code or 0)


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with captioned drawings in `images` and their codes by the tiny tokenizer in `codes`."""
    folder = tmp_path_factory.mktemp("drawings")
    (folder / "raw").mkdir()
    lines = []
    for number in range(12):
        write_picture(folder / "raw" / f"{number}.png", shade=20 * number)
        lines.append(json.dumps({"file_name": f"{number}.png", "text": CAPTIONS[number % 3]}))
    (folder / "raw" / "metadata.jsonl").write_text("\n".join(lines))
    prepare_folder(folder / "raw", folder / "images", size=32, split_fraction=0.4)
    encode_dataset(folder / "images", tiny_image_tokenizer(), folder / "codes")
    return folder
