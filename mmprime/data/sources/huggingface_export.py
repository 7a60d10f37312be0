"""Image and text shards as data sets of the package `datasets`, written into a folder of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmprime.io import parse_json, whole_folder

from ..images import captions_of, known_image
from ..shards import field_of, read_index, read_shard, split_shards
from ..text import shard_documents
from .huggingface import library

_EXPORTED = {"val": "validation"}  # what a split is called there


def export_saved(path: str | Path, out: str | Path) -> dict[str, int]:
    """Write image or text shards as `save_to_disk` does, pictures with the bytes they have here; rows by split.

    Columns: image, text (lists where an example has several captions), label; or text, name. Raises ValueError for
    other kinds of shards and where `out` stands already.
    """
    datasets, index = library(), read_index(path)
    if index["kind"] not in ("images", "text"):
        raise ValueError(f"{path} holds {index['kind']}; images and text are exported")
    if Path(out).exists():
        raise ValueError(f"{out} is there already; take another --out, or remove it first")
    pictures = index["kind"] == "images"
    several = pictures and any(len(row["text"]) > 1 for row in _picture_rows(str(path), index["shards"], "", True))
    with tempfile.TemporaryDirectory() as scratch, whole_folder(out, "dataset_dict.json") as folder:
        parts = {}
        for split in index["splits"]:
            given: dict[str, Any] = {"path": str(path), "shards": split_shards(index, split)}
            given |= {"label": index.get("label", "label"), "several": several} if pictures else {}
            rows, features = (_picture_rows if pictures else _text_rows), _features(index, several)
            part = datasets.Dataset.from_generator(rows, features, gen_kwargs=given, cache_dir=scratch)
            parts[_EXPORTED.get(split, split)] = part
        datasets.DatasetDict(parts).save_to_disk(str(folder))
        return {name: len(part) for name, part in parts.items()}


def _features(index: dict[str, Any], several: bool) -> Any:
    datasets, text = library(), library().Value("string")
    if index["kind"] == "text":
        return datasets.Features({"text": text, "name": text})
    classes = list(index.get("classes", ()))
    label = datasets.ClassLabel(names=classes) if classes else datasets.Value("int64")
    return datasets.Features({"image": datasets.Image(), "text": [text] if several else text, "label": label})


def _picture_rows(path: str, shards: list[dict[str, Any]], label: str, several: bool) -> Iterator[dict[str, Any]]:
    for entry in shards:
        for key, files in read_shard(path, entry):
            where = f"{entry['file']}: {key}"
            about, picture = parse_json(field_of(files, "json", where), where), known_image(files, where)
            texts = captions_of(about)
            written = texts if several else (texts or [""])[0]
            yield {"image": {"bytes": picture, "path": None}, "text": written, "label": int(about.get(label, -1))}


def _text_rows(path: str, shards: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in shards:
        for document in shard_documents(path, entry):
            yield {"text": document.text, "name": document.name}
