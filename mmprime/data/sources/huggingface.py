"""Data sets of the package `datasets`, read from a folder of this machine.

    DIR with dataset_dict.json or state.json        what `save_to_disk` wrote
    DIR of .parquet files, or one of them           split by the first word of a name: train-00000-of-00002.parquet

A set with a column of pictures becomes image shards, with captions and classes where it has them; one with a column of
text alone becomes text shards. Nothing is fetched, and no program of a data set is run.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..building import build_dataset
from ..captions import KEYS
from ..folders import few, natural
from ..images import UNIT_IMAGES, image_sample
from ..picture_folder import SPLITS, held_out
from ..pictures import READING
from ..plain_text import Document
from ..shards import Entry, Unit, digest
from ..text import split_documents, write_documents


@dataclass(frozen=True)
class Columns:
    """Names of columns; "" where there is none, or, when asked for, where it is to be found by its type."""

    image: str = ""
    text: str = ""
    label: str = ""


def library() -> Any:
    """The package. Raises ValueError with the command that installs it."""
    try:
        import datasets

        datasets.disable_progress_bars()
    except ImportError as error:
        raise ValueError(
            f"this needs the package datasets ({error.name} is missing): pip install 'mmprime[datasets]'"
        ) from error
    return datasets


def read_saved(path: str | Path, scratch: str) -> dict[str, Any]:
    """The splits of a saved data set, by the names they have here; of parquet a copy lies in the folder `scratch`.

    Raises ValueError for a path that holds none.
    """
    datasets, root = library(), Path(path)
    try:
        if (root / "dataset_dict.json").exists() or (root / "state.json").exists():
            saved = datasets.load_from_disk(str(root))
        else:
            files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root] * (root.suffix == ".parquet")
            if not files:
                raise ValueError("neither what save_to_disk writes (state.json, dataset_dict.json) nor .parquet files")
            by_split: dict[str, list[str]] = {}
            for file in files:
                word = re.split(r"[-_.]", file.name.lower())[0]
                by_split.setdefault(word if word in SPLITS else "train", []).append(str(file))
            read = datasets.Dataset.from_parquet
            saved = {name: read(parts, cache_dir=scratch) for name, parts in by_split.items()}
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{path} cannot be read as a saved data set: {' '.join(str(error).split())}") from error
    named = dict(saved) if isinstance(saved, dict) else {"train": saved}
    splits: dict[str, Any] = {}
    for name, part in named.items():
        known = SPLITS.get(name.lower(), name)
        splits[known] = datasets.concatenate_datasets([splits[known], part]) if known in splits else part
    return splits


def find_columns(features: dict[str, Any], asked: Columns) -> Columns:
    """The columns of pictures, text and classes, by name where one is asked for, else by type.

    Raises ValueError for a name that is absent and where a choice is left.
    """
    datasets, names = library(), list(features)
    for name in (asked.image, asked.text, asked.label):
        if name and name not in features:
            raise ValueError(f"no column {name!r}; there are {', '.join(names)}")

    def only(kind: Any, option: str) -> str:
        fitting = [name for name in names if isinstance(features[name], kind)]
        if len(fitting) > 1:
            raise ValueError(f"{', '.join(fitting)} are all {kind.__name__} columns; choose one by --{option}")
        return fitting[0] if fitting else ""

    image = asked.image or only(datasets.Image, "image")
    text = asked.text or next((name for name in KEYS if name in features), "")
    label = asked.label or only(datasets.ClassLabel, "label") or ("label" if "label" in features and image else "")
    if not image and not text:
        raise ValueError(f"no column of pictures, and none called {' or '.join(KEYS)}: choose --image or --text of "
                         f"{', '.join(names)}")  # fmt: skip
    return Columns(image, text, label)


def prepare_saved(
    path: str | Path,
    out: str | Path,
    size: int = 64,
    asked: Columns | None = None,
    split_fraction: float = 0.05,
    licence: str = "unknown",
    progress: bool = False,
) -> dict[str, Any]:
    """Turn a saved data set into image shards of `size` px or text shards; return the index.

    Without a split for validation a fraction of "train" is held out. Raises ValueError as `read_saved` and
    `find_columns` do, and for what is no picture or no text, by split and row.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        header = {"name": Path(path).resolve().name, "licences": {"": {"licence": licence}}}
        return _prepared(read_saved(path, scratch), header, out, size, asked or Columns(), split_fraction, progress)


def _prepared(
    splits: dict[str, Any],
    header: dict[str, Any],
    out: str | Path,
    size: int,
    asked: Columns,
    split_fraction: float,
    progress: bool,
) -> dict[str, Any]:
    columns = find_columns(dict(next(iter(splits.values())).features), asked)
    if not columns.image:
        texts = {split: list(_documents(rows, split, columns)) for split, rows in splits.items()}
        if "val" not in splits and "train" in splits:
            texts["train"] = split_documents(texts["train"], split_fraction)
        documents = [document for part in texts.values() for document in part]
        return write_documents(documents, out, header, progress)
    classes = _classes(splits, columns.label)
    pictures = {split: _Pictures(rows, split, columns, classes) for split, rows in splits.items()}
    held: set[str] = set()
    if "val" not in splits and "train" in splits:
        held = held_out([pictures["train"].name(row) for row in range(len(splits["train"]))], split_fraction)
    units = [unit for part in pictures.values() for unit in part.units(size, held)]
    encoding = "webp, lossy quality 95, method 4; centre-cropped RGB on white"
    about = {"image_size": size, "encoding": encoding, "classes": classes, "label": "label"}
    return build_dataset(out, "images", units, {**header, **about}, progress)


@dataclass(frozen=True)
class _Pictures:
    """One split of a set of pictures."""

    rows: Any
    split: str
    columns: Columns
    classes: list[str]

    def name(self, row: int) -> str:
        return f"{self.split}_{row:07d}"

    def units(self, size: int, held: set[str]) -> Iterator[Unit]:
        datasets, image = library(), self.columns.image
        raw = self.rows.cast_column(image, datasets.Image(decode=False))
        for start in range(0, len(raw), UNIT_IMAGES):
            block = [(row, raw[row]) for row in range(start, min(start + UNIT_IMAGES, len(raw)))]
            content = [
                digest(self.name(row), self._bytes(row, record), *self._captions(record), str(self._label(record)))
                for row, record in block
            ]
            numbers, kept = range(start, start + len(block)), sorted(held & {self.name(row) for row, _ in block})
            recipe = digest("saved 1", READING, str(size), *content, *kept)
            yield Unit(f"{self.split}-{start // UNIT_IMAGES:05d}", recipe, self._maker(raw, numbers, size, held))

    def _maker(self, raw: Any, numbers: range, size: int, held: set[str]) -> Callable[[], Iterable[tuple[str, Entry]]]:
        def make() -> Iterator[tuple[str, Entry]]:
            for row in numbers:
                record, name = raw[row], self.name(row)
                about = (self._captions(record), self._label(record), "val" if name in held else self.split)
                yield image_sample(self._bytes(row, record), name, size, about)

        return make

    def _bytes(self, row: int, record: dict[str, Any]) -> bytes:
        picture = record[self.columns.image] or {}
        if picture.get("bytes"):
            return bytes(picture["bytes"])
        if picture.get("path") and Path(picture["path"]).is_file():
            return Path(picture["path"]).read_bytes()
        raise ValueError(f"split {self.split}, row {row}: no picture in column {self.columns.image!r}")

    def _label(self, record: dict[str, Any]) -> int:
        value = record[self.columns.label] if self.columns.label else None
        return -1 if value is None else int(value)

    def _captions(self, record: dict[str, Any]) -> tuple[str, ...]:
        value = record[self.columns.text] if self.columns.text else None
        written = [text for text in ([value] if isinstance(value, str) else value or ()) if text and text.strip()]
        label = self._label(record)
        named = [self.classes[label].replace("_", " ")] if 0 <= label < len(self.classes) else []
        return tuple(written or named)


def _classes(splits: dict[str, Any], label: str) -> list[str]:
    """Names of the classes; of numbers without names, the numbers up to the largest."""
    if not label:
        return []
    parts = list(splits.values())
    named = getattr(parts[0].features[label], "names", None)
    if named is not None:
        return list(named)
    values = {value for part in parts for value in part.unique(label) if value is not None}
    if any(not isinstance(value, int) for value in values):
        some = few(sorted(map(str, values), key=natural))
        raise ValueError(f"column {label!r} holds no class numbers but {some}: make it a ClassLabel")
    return [str(number) for number in range(max(values, default=-1) + 1)]


def _documents(rows: Any, split: str, columns: Columns) -> Iterator[Document]:
    for row, text in enumerate(rows[columns.text]):
        if not isinstance(text, str):
            raise ValueError(f"split {split}, row {row}: column {columns.text!r} holds {text!r:.40}, which is no text")
        if text.strip():
            yield Document(f"{split}-{row:07d}", text, split=split)
